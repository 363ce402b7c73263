"""Curves of answers while units are lost or put back one after the other, and what an order gains over chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.access.handles import Query
from assay.explain import quality
from assay.probes.transparency import _masked
from assay.units import Ground
from assay.values import Array, Column, modality

NUM_RANDOM = 2  # random orders; each serves forwards and backwards


def orders(values: Sequence[Array], rng: np.random.Generator) -> Array:
    """Ranks `(R, Q, U)`, 0 = largest first: of each of the attributions `(R, U)`, then of two random orders."""
    ranks = [np.argsort(np.argsort(-one, axis=1, kind="stable"), axis=1) for one in values]
    ranks += [rng.random(values[0].shape).argsort(axis=1) for _ in range(NUM_RANDOM)]
    return np.stack(ranks, axis=1)


def baselines(query: Query, rng: np.random.Generator) -> Array:
    """`(Z, ...)`: the mean row and a few background rows; for texts the empty one."""
    if modality(query.columns) == "text":
        return query.background
    chosen = rng.permutation(len(query.background))[: _masked.budget_of(query).baselines]
    return np.concatenate([mean_row(query.background, query.columns)[None], query.background[chosen]])


def mean_row(background: Array, columns: tuple[Column, ...]) -> Array:
    """The mean of each numeric column or pixel (whole numbers), and the most frequent category of the others."""
    result = background.astype(np.float64).mean(axis=0)
    if modality(columns) == "image":
        return np.asarray(np.round(result), dtype=background.dtype)
    for place, column in enumerate(columns):
        if column.kind == "categorical":
            found, times = np.unique(background[:, place], return_counts=True)
            result[place] = found[times.argmax()]
    return np.asarray(result, dtype=np.float32)


def areas(query: Query, rows: Array, baselines: Array, *, ranks: Array, target: Array) -> Array:
    """Areas `(R, Q, Z, 2)` under the insertion and deletion curves, for ranks `(R, Q, U)` and baselines `(Z, ...)`."""
    ground = Ground(baselines, query.ground.units)
    return quality.areas(query.probabilities, rows, ground, ranks=ranks, target=target)


def gains(areas: Array, prefixes: Sequence[str] = ("", "lime_")) -> tuple[Array, list[tuple[str, str]]]:
    """Per-row gains `(R, P)` and the metric and slice of each, for orders by name, then random ones."""
    # A random order read backwards swaps its two curves, so their mean is the area of both.
    chance = areas[:, len(prefixes) :].mean(axis=(1, 3))
    columns, names, num = [], [], areas.shape[2]
    shares = {"": np.ones(1)}  # the empty text is the only baseline of texts
    if num > 1:
        mean, others = np.eye(num)[0], np.where(np.arange(num) > 0, 1 / (num - 1), 0.0)
        shares = {"baseline=mean": mean, "baseline=background": others, "": (mean + others) / 2}
    for slice_, share in shares.items():
        for order, prefix in enumerate(prefixes):
            insertion = (areas[:, order, :, 0] - chance) @ share
            deletion = (chance - areas[:, order, :, 1]) @ share
            columns += [insertion, deletion, (insertion + deletion) / 2]
            names += [(prefix + name, slice_) for name in ("insertion_gain", "deletion_gain", "faithfulness_gain")]
    return np.stack(columns, axis=1), names
