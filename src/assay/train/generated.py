"""Training on real rows and on rows that a GAN makes of scarce cells, as a recipe: the data stay real.

The generated rows are made from the rows a training is given, and only inside it. So the training split holds nobody
who does not exist, and a reference model on half of the rows learns from a GAN that saw that half alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from assay.digests import digest_of
from assay.models.gan import GanSettings, fit_gan
from assay.models.store import base_from_json, register_recipe
from assay.train.recipe import TrainRecipe
from assay.train.streams import stream_seed
from assay.train.traces import FACT
from assay.values import Array, Column, Data, Fitted, Groups, Recipe, Split

LEAST = 10  # rows of a cell that a GAN is asked to add to, of any rows a training is given
POOL = 16_384  # rows that the GAN passes over, the same number of every cell
NUMBERS = 32_000_000  # in those rows: fewer of large pictures
BATCH = 64
MOST_PASSES, LEAST_STEPS = 40, 500  # a GAN of few rows makes fewer steps than it is allowed
STREAMS = 2  # version of how draws are seeded: in the digest, for other draws make other rows
LARGEST = 8  # sets of generated rows kept in memory
_MADE: dict[str, Split] = {}  # by digest of what they are made from: an audit asks again for what training made


@dataclass(frozen=True)
class AugmentRecipe:
    """The base recipe on its rows and on generated ones: see `assay.treatments.data.augment_by_gan`."""

    base: TrainRecipe
    columns: tuple[str, ...]  # group columns crossed with the label; none = the label alone
    ratio: float
    num_steps: int
    width: int

    @cached_property
    def digest(self) -> str:
        """Over the base recipe and all that changes what is generated."""
        own = [self.columns, self.ratio, self.num_steps, self.width]
        return digest_of(["AugmentRecipe", STREAMS, self.base.digest, *own])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        own = {"columns": list(self.columns), "ratio": self.ratio, "num_steps": self.num_steps, "width": self.width}
        return {"name": "augment_by_gan", "base": self.base.to_json(), **own}

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split` and on what a GAN trained on `split` adds to its scarce cells."""
        more = self.generated(split, data, seed)
        fitted = self.base.fit(split.joined(more), data, seed)
        facts = {**fitted.facts, "num_generated": len(more)}
        if isinstance(facts.get(FACT), np.ndarray):
            facts[FACT] = facts[FACT][:, : len(split)]  # of real rows: the others are nobody's
        return Fitted(fitted.model, facts)

    def generated(self, split: Split, data: Data, seed: int) -> Split:
        """The rows it adds to `split`: numbered -1, -2, ... as no row of a source is. The same for the same seed."""
        key = digest_of(["generated", self.digest, split.digest, data.columns, seed])
        if key not in _MADE:
            while len(_MADE) >= LARGEST:
                _MADE.pop(next(iter(_MADE)))
            _MADE[key] = self._made(split, data, seed)
        return _MADE[key]

    def _made(self, split: Split, data: Data, seed: int) -> Split:
        cells = Cells.of(split, self.columns)
        wanted = np.where(cells.counts >= LEAST, cells.missing(self.ratio), 0)
        labels = np.repeat(np.arange(len(cells.counts)), wanted)
        if not len(labels):
            return split.take(labels)
        num_steps = min(self.num_steps, max(LEAST_STEPS, MOST_PASSES * len(split) // BATCH))
        most = max(BATCH, min(POOL, NUMBERS // max(1, split.inputs[:1].size)))
        pool = cells.even(split, min(most, num_steps * BATCH), seed)
        epochs = max(1, num_steps // max(1, len(pool) // BATCH))
        settings = GanSettings(epochs=epochs, batch_size=min(BATCH, len(pool)), width=self.width)
        told = self.base.progress
        gan = fit_gan(pool, data.columns, len(cells.counts), settings=settings, seed=seed, progress=told)
        inputs = settled(gan.sample(labels, seed=stream_seed(seed, "generated rows")), split.inputs, data.columns)
        return cells.rows(split, labels, inputs, columns=data.columns)


def _from_json(about: Mapping[str, Any], data: Data) -> Recipe:
    own = float(about["ratio"]), int(about["num_steps"]), int(about["width"])
    return AugmentRecipe(base_from_json(about, data), tuple(about["columns"]), *own)


register_recipe("augment_by_gan", _from_json)


@dataclass(frozen=True)
class Cells:
    """Cells of label and crossed group columns: `codes (N,)` of each row into `keys (C, 1 + G)`, label first."""

    codes: Array
    keys: Array
    counts: Array  # (C,)
    places: tuple[int, ...]  # of the group columns

    @classmethod
    def of(cls, split: Split, columns: Sequence[str]) -> Cells:
        """Cells that some row is in; a missing category (-1) is one of its own."""
        places = tuple([column.name for column in split.groups.columns].index(name) for name in columns)
        keys = np.concatenate([split.labels[:, None], split.groups.codes[:, places]], axis=1).astype(np.int64)
        present, codes, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        return cls(codes.reshape(-1), present, counts, places)

    def among(self, split: Split) -> Array:
        """The cell of each row `(M,)` of another split of the same columns; -1 where no row here is in it."""
        keys = np.concatenate([split.labels[:, None], split.groups.codes[:, self.places]], axis=1).astype(np.int64)
        known = {tuple(key): cell for cell, key in enumerate(self.keys.tolist())}
        return np.array([known.get(tuple(key), -1) for key in keys.tolist()], dtype=np.int64)

    def missing(self, ratio: float) -> Array:
        """How many rows each cell `(C,)` lacks to `ratio` times the median cell; 0 where a category is unknown.

        >>> cells = Cells(np.zeros(0), np.array([[0, 0], [0, 1], [1, 0], [1, -1]]), np.array([90, 50, 10, 5]), (0,))
        >>> cells.missing(1.0).tolist(), cells.missing(0.5).tolist()
        ([0, 0, 40, 0], [0, 0, 15, 0])
        """
        known = (self.keys[:, 1:] >= 0).all(axis=1)
        if not known.any():
            return np.zeros(len(self.counts), dtype=np.int64)
        target = int(ratio * float(np.median(self.counts[known])))
        return np.where(known, np.maximum(target - self.counts, 0), 0)

    def even(self, split: Split, num: int, seed: int) -> Split:
        """About `num` rows, as many of every cell, each row as often as the others of its cell or once more.

        Of a cell that nothing is made of (too small, or a category unknown) each row at most once.
        """
        rng = np.random.default_rng([seed, 1])
        share, picked = max(1, num // len(self.counts)), []
        for cell in range(len(self.counts)):
            rows = rng.permutation(np.flatnonzero(self.codes == cell))
            is_made = len(rows) >= LEAST and (self.keys[cell, 1:] >= 0).all()
            picked.append(np.resize(rows, share) if is_made else rows[:share])
        rows = np.concatenate(picked)
        return replace(split.take(rows), labels=self.codes[rows])

    def rows(self, split: Split, cells: Array, inputs: Array, *, columns: Sequence[Column]) -> Split:
        """Generated inputs `(M, ...)` of these `cells (M,)` as rows; what a cell says, its rows hold in every place."""
        codes = np.full((len(cells), len(split.groups.columns)), -1, dtype=split.groups.codes.dtype)
        for place, column in enumerate(split.groups.columns):
            same = [at for at, one in enumerate(columns) if one.name == column.name and one.kind == "categorical"]
            if place in self.places:
                codes[:, place] = self.keys[cells, 1 + self.places.index(place)]
                for at in same:
                    inputs[:, at] = _recoded(column, columns[at])[codes[:, place]]
            elif same:
                codes[:, place] = _recoded(columns[same[0]], column)[inputs[:, same[0]].astype(np.int64)]
        weights = None
        if split.weights is not None:
            totals = np.bincount(self.codes, weights=split.weights, minlength=len(self.counts))
            weights = (totals / self.counts)[cells].astype(np.float32)
        labels = self.keys[cells, 0].astype(split.labels.dtype)
        groups = Groups(codes, split.groups.columns)
        return Split(inputs, labels, groups, -np.arange(1, len(cells) + 1), weights)


def _recoded(column: Column, to: Column) -> Array:
    """Codes of one column's categories among another's, by name; the last, for code -1, is -1, as is an unknown one."""
    known = {name: code for code, name in enumerate(to.categories)}
    return np.array([*(known.get(name, -1) for name in column.categories), -1])


def settled(inputs: Array, real: Array, columns: Sequence[Column]) -> Array:
    """Generated rows with whole numbers where every real row has one; pictures as they are."""
    if inputs.ndim != 2:
        return inputs
    made = inputs.copy()
    for place, column in enumerate(columns):
        seen = real[:, place][np.isfinite(real[:, place])]
        if column.kind == "numeric" and (seen == np.rint(seen)).all():
            made[:, place] = np.rint(made[:, place])
    return made
