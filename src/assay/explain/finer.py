"""Values of what is smaller than a unit: of each word of a text, of each superpixel of a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from assay.explain.multilinear import LARGEST, multilinear, num_rows
from assay.units import Words
from assay.units.superpixels import regions, superpixels
from assay.units.text import words
from assay.values import Array, texts

Function = Callable[[Array], Array]  # inputs (M, ...) to outputs (M, K)


@dataclass(frozen=True)
class Part:
    """A word of a text, the run (unit) that it stands in, and its value."""

    unit: int
    name: str
    value: float


@dataclass(frozen=True)
class Segments:
    """Superpixels of `picture (C, H, W)`: which of them each pixel is in, `labels (H, W)`, and their values `(S,)`."""

    picture: Array
    labels: Array
    values: Array
    highest: float = 255.0

    @cached_property
    def pixels(self) -> Array:
        """`(H, W)`: each superpixel's value in equal shares to its pixels."""
        shared: Array = (self.values / np.bincount(self.labels.ravel()))[self.labels]
        return shared

    @cached_property
    def regions(self) -> Array:
        """`(S,)`: which of at most 16 regions, of superpixels that touch and look alike, each belongs to."""
        return regions(self.labels, self.picture, highest=self.highest)

    @cached_property
    def region_values(self) -> Array:
        """Sum of the values of each region's superpixels."""
        return np.bincount(self.regions, self.values)


def by_word(
    function: Function, inputs: Array, units: Words, *, target: Array, rng: np.random.Generator | None
) -> list[list[Part]]:
    """Shapley values of the words of each text `(R,)` in the game of words that are kept or left out, in their order.

    Shapes: target `(R,)` output columns; see `multilinear` for the estimate and its rows, of which some 60 % less
    without `rng`. Of texts with more than 127 words neighbours stay together.
    Limits: texts with words left out read like telegrams. Values are of the words, not of the runs: a run's words do
    not sum to the run's own Shapley value, but all words sum to the output less that of the empty text.
    Source: see `multilinear`.

    >>> def count(inputs):
    ...     return np.array([[float("w3" in one.split())] for one in inputs.tolist()])
    >>> text, rng = texts([" ".join(f"w{place}" for place in range(32))]), np.random.default_rng(0)
    >>> [(part.unit, part.name, round(part.value, 9)) for part in by_word(
    ...     count, text, Words(), target=np.array([0]), rng=rng)[0]][2:5]
    [(1, 'w2', 0.0), (1, 'w3', 1.0), (2, 'w4', 0.0)]
    """
    found = []
    for text, column in zip(inputs.tolist(), target.tolist(), strict=True):
        single = words(text, units.language)
        size = max(1, -(-len(single) // LARGEST))
        pieces = ["".join(single[start : start + size]) for start in range(0, len(single), size)]

        def kept(masks: Array, pieces: list[str] = pieces, column: int = column) -> Array:
            own = np.array(pieces, dtype=object)
            return function(texts("".join(own[mask]).strip() for mask in masks))[:, column]

        values = multilinear(kept, len(pieces), rng=rng)
        ends = list(accumulate(map(len, units.runs(text))))
        starts = np.cumsum([0, *map(len, pieces)])[:-1]
        places = np.searchsorted(ends, starts, side="right").tolist()
        found.append([Part(*one) for one in zip(places, map(str.strip, pieces), values.tolist(), strict=True)])
    return found


def by_superpixel(
    function: Function,
    inputs: Array,
    start: Array,
    *,
    target: Array,
    rng: np.random.Generator | None,
    highest: float = 255.0,
) -> list[Segments]:
    """Shapley values of some hundred superpixels of each picture `(R, C, H, W)`; the others are those of `start`.

    Shapes: start `(C, H, W)`, usually the mean picture; target `(R,)` output columns; pixels in 0 to `highest`. See
    `multilinear` for the estimate and its rows.
    Limits: against one start, so what the picture shares with it has no value; another start, other values.
    Source: see `multilinear` and `units.superpixels`.

    >>> picture = np.zeros((1, 1, 8, 8))
    >>> picture[..., 2:6, 2:6] = 255.0
    >>> def corner(inputs):
    ...     return inputs[:, 0, 3:5, 3:5].mean(axis=(1, 2))[:, None] / 255
    >>> found = by_superpixel(
    ...     corner, picture, np.zeros((1, 8, 8)), target=np.array([0]), rng=np.random.default_rng(0))[0]
    >>> float(found.pixels[2:6, 2:6].sum().round(9)), float(found.region_values.sum().round(9))
    (1.0, 1.0)
    """
    found = []
    for picture, column in zip(inputs, target.tolist(), strict=True):
        labels = superpixels(picture, highest=highest)

        def kept(masks: Array, picture: Array = picture, labels: Array = labels, column: int = column) -> Array:
            mixed = np.where(masks[:, labels][:, None], picture, start.astype(picture.dtype, copy=False))
            return function(mixed)[:, column]

        values = multilinear(kept, int(labels.max()) + 1, rng=rng)
        found.append(Segments(picture, labels, values, highest))
    return found


def most_rows(num_inputs: int) -> int:
    """Model rows that `by_word` and `by_superpixel` run at most.

    >>> most_rows(16)
    8192
    """
    return num_inputs * max(map(num_rows, range(LARGEST + 1)))
