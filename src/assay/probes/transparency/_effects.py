"""Effects of one column on the mean answer: moved within its neighbourhood (ALE), or set for every row (PD)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assay.access.handles import Query
from assay.stats import Draws
from assay.values import Array, Column

NUM_BINS = 10


@dataclass(frozen=True)
class Steps:
    """K steps along a column: the value each of K + 1 points stands for, and for each row what it is moved between.

    `low`, `high (R,)` are the values at both ends of the row's step; `at (R,)` is which step, -1 for none.
    A row of a category takes part in two steps: `low`, `high`, `at` are then `(2, R)`, otherwise `(1, R)`.
    """

    points: Array
    low: Array
    high: Array
    at: Array


def numeric_steps(known: Array, values: Array) -> Steps:
    """Steps between quantiles of the known values `(b,)`; rows outside are in the first or last one.

    >>> steps = numeric_steps(np.arange(11.0), np.array([0.5, 99.0, np.nan]))
    >>> steps.points[:3].tolist(), steps.at.tolist(), steps.high.tolist()
    ([0.0, 1.0, 2.0], [[0, 9, -1]], [[1.0, 10.0, nan]])
    """
    seen = known[np.isfinite(known)]
    points = np.unique(np.quantile(seen, np.linspace(0, 1, NUM_BINS + 1))) if len(seen) else np.zeros(1)
    at = np.clip(np.searchsorted(points, values, side="left") - 1, 0, max(len(points) - 2, 0))
    is_known = np.isfinite(values) & (len(points) > 1)
    low = np.where(is_known, points[at], values)
    high = np.where(is_known, points[np.minimum(at + 1, len(points) - 1)], values)
    return Steps(points, low[None], high[None], np.where(is_known, at, -1)[None])


def category_steps(values: Array, outputs: Array, num_categories: int) -> Steps:
    """Steps between categories that stand next to each other when ordered by the mean output of their rows."""
    codes = [code for code in range(num_categories) if (values == code).any()]
    codes.sort(key=lambda code: float(np.nan_to_num(outputs[values == code]).mean()))
    points = np.array(codes, dtype=np.float64)
    place = np.full(len(values), -1)
    for index, code in enumerate(codes):
        place[values == code] = index
    last, is_known = len(codes) - 1, place >= 0
    up, down = is_known & (place < last), is_known & (place > 0)
    own = values.astype(np.float64)
    high = np.where(up, points[np.clip(place + 1, 0, max(last, 0))], own) if codes else own
    low = np.where(down, points[np.clip(place - 1, 0, max(last, 0))], own) if codes else own
    return Steps(
        points,
        np.stack([own, low]),
        np.stack([high, own]),
        np.stack([np.where(up, place, -1), np.where(down, place - 1, -1)]),
    )


def steps_of(query: Query, column: Column, place: int, inputs: Array, outputs: Array) -> Steps:
    """The steps of one column for test rows `(R, F)` whose outputs are `(R,)`."""
    if column.kind == "categorical":
        return category_steps(inputs[:, place], outputs, len(column.categories))
    return numeric_steps(query.known[:, place].astype(np.float64), inputs[:, place].astype(np.float64))


def moved(steps: Steps, inputs: Array, place: int) -> Array:
    """`(2 R, F)`: each row at both ends of its step; a row of a category below and above its own."""
    ends = np.stack([steps.low[0], steps.high[0]]) if len(steps.at) == 1 else np.stack([steps.low[1], steps.high[0]])
    found = np.concatenate([inputs, inputs]).astype(np.float32)
    found[:, place] = ends.ravel()
    return found


def differences(steps: Steps, ends: Array, outputs: Array) -> Array:
    """`(S, R)`: the output at the high end minus that at the low end of each of a row's steps, 0 where it has none.

    `ends (2, R)` are the outputs of `moved`, `outputs (R,)` those of the rows as they are.
    """
    found = (ends[1] - ends[0])[None] if len(steps.at) == 1 else np.stack([ends[1] - outputs, outputs - ends[0]])
    return np.where(steps.at >= 0, found, 0.0)


def accumulated(draws: Draws, steps: Steps, changes: Array, *, kept: Array, is_even: Array) -> list[Array]:
    """Curves `(1 + B, K + 1)` from the changes `(S, R)` of kept rows `(R,)`: of all rows, of the even, of the others.

    Each is centred on its mean over the rows that it is made of.
    """
    num = len(steps.points) - 1
    if num < 1:
        return [np.zeros((1 + draws.num_draws, 1))] * 3
    at = np.where(kept, steps.at, -1)
    columns = np.zeros((at.shape[1], 4 * num))  # totals and counts of both halves
    rows, half = np.arange(at.shape[1]), np.where(is_even, 0, 2 * num)
    for step, change in zip(at, changes, strict=True):
        of = step >= 0
        np.add.at(columns, (rows[of], half[of] + step[of]), change[of])
        np.add.at(columns, (rows[of], half[of] + num + step[of]), 1.0)
    even, odd = np.hsplit(draws.sums(columns), 2)
    return [_curve(sums, num) for sums in (even + odd, even, odd)]


def _curve(sums: Array, num: int) -> Array:
    totals, counts = sums[:, :num], sums[:, num:]
    means = np.divide(totals, counts, out=np.zeros_like(counts), where=counts > 0)
    curve = np.concatenate([np.zeros((len(means), 1)), means.cumsum(axis=1)], axis=1)
    middles, weight = (curve[:, 1:] + curve[:, :-1]) / 2, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.asarray(curve - (middles * weight).sum(axis=1, keepdims=True))


def crossed_range(halves: tuple[Array, Array]) -> Array:
    """`(1 + B,)`: how far one half's curve goes between the points where the other's is highest and lowest, averaged.

    Where a curve goes furthest is chosen by other rows than those that say how far, so noise alone gives 0 on average.

    >>> crossed_range((np.array([[0.0, 1.0]]), np.array([[0.0, -3.0]]))).tolist()
    [-2.0]
    """
    found = [other[:, one[0].argmax()] - other[:, one[0].argmin()] for one, other in (halves, halves[::-1])]
    return np.asarray((found[0] + found[1]) / 2)
