"""Curves of answers while units are lost or put back one after the other, and what an order gains over chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.access.handles import Query
from assay.explain import quality
from assay.probes.transparency import _masked
from assay.registry import Sizes
from assay.units import Ground
from assay.values import Array, Column, modality

NUM_RANDOM = 2  # random orders; each serves forwards and backwards


def orders(values: Sequence[Array], rng: np.random.Generator) -> Array:
    """Ranks `(R, Q, U)`, 0 = largest first: of each of the attributions `(R, U)`, then of two random orders."""
    ranks = [np.argsort(np.argsort(-one, axis=1, kind="stable"), axis=1) for one in values]
    ranks += [rng.random(values[0].shape).argsort(axis=1) for _ in range(NUM_RANDOM)]
    return np.stack(ranks, axis=1)


def baselines(query: Query, rng: np.random.Generator, num_rows: int) -> Array:
    """`(R, Z, ...)`: the mean row, and a few background rows of each explained row's own; of texts the empty one.

    What a background row does is then part of the differences between rows, which the interval is made of. Three for
    all rows moved the mean gain by two to three of its standard errors.
    """
    if modality(query.columns) == "text":
        return query.background
    background, num = query.background, _masked.budget_of(query).baselines
    chosen = rng.random((num_rows, len(background))).argsort(axis=1)[:, :num]
    mean = mean_row(query.known, query.columns)[None, None]
    return np.concatenate([np.broadcast_to(mean, (num_rows, *mean.shape[1:])), background[chosen]], axis=1)


def curve_rows(sizes: Sizes, *, num_rows: int, num_orders: int) -> int:
    """Model rows of `areas` of `num_rows` rows in some orders and the random ones, the rows themselves apart."""
    baselines = num_rows * (1 + min(_masked.BUDGETS[sizes.modality].baselines, _masked.background_rows(sizes)))
    curves = (num_orders + NUM_RANDOM) * baselines * 2 * (sizes.num_units - 1)
    return curves + (0 if sizes.modality == "text" else baselines)  # the masked passes asked the empty text


def mean_row(known: Array, columns: tuple[Column, ...]) -> Array:
    """The mean of each numeric column or pixel (whole numbers), and the most frequent category of the others.

    Missing numbers do not count; a column that has none keeps its NaN.
    """
    if modality(columns) == "image":
        return np.asarray(np.round(known.mean(axis=0, dtype=np.float64)), dtype=known.dtype)
    result = np.full(known.shape[1], np.nan, dtype=np.float32)
    for place, column in enumerate(columns):
        seen = known[np.isfinite(known[:, place]), place]
        if column.kind == "categorical":
            found, times = np.unique(seen, return_counts=True)
            result[place] = found[times.argmax()]
        elif len(seen):
            result[place] = seen.mean(dtype=np.float64)
    return result


def areas(query: Query, rows: Array, baselines: Array, *, ranks: Array, target: Array) -> Array:
    """Areas `(R, Q, Z, 2)` under the insertion and deletion curves, for ranks `(R, Q, U)` and these baselines."""
    ground = Ground(baselines, _masked.ground(query).units)
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
