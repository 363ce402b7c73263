"""Largest gap and worst group, with simultaneous bands: never a percentile of a maximum. Many metrics in one call.

A band is the extreme of many exact limits, and an exact limit is a beta quantile, which costs a microsecond. So where
they are many, every limit is first told roughly (`rough_distance`, one formula for all), and those that may be extreme
are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import special

from assay.errors import Problem, UsageError
from assay.estimation import intervals
from assay.estimation.estimate import Estimate, estimates, ratio, undefined
from assay.values import Array, Better

SMALL_GROUP = 20
GAP, WORST = "simultaneous MOVER", "simultaneous Clopper-Pearson"
MANY = 24  # cells from which telling them roughly first costs less than computing them all
CRITICAL = (0.6, 3.5)  # where `rough_distance` was compared with the exact one
LEAST, MOST = 0.94, 1.03  # of the rough distance: between these lies the exact one (0.953 to 1.018 was seen)
LOWEST, HIGHEST = np.array([-MOST, LEAST]), np.array([-LEAST, MOST])  # of what is taken away, and of what is added
SHIFT, WIDER = 1 / 3, 0.5  # of the limits that gaps are made of; as `intervals.extreme_differences` has it


def largest_gap(hits: Array, totals: Array, *, level: float = 0.95) -> Estimate:
    """Largest minus smallest group rate, `(1 + B, G)` each, of separate rows, with simultaneous limits.

    low = max over pairs of a lower limit corrected for all pairs (studentized range); high = max over pairs of an
    uncorrected upper limit, since the truth is one of the pairs. Groups without examples are left out, and said so.
    Limits: the value itself is biased upward for many small groups; the band is not. Replicates follow the pair that is
    observed to be extreme, so an effect on the gap is never a difference of maxima.

    >>> found = largest_gap(np.array([[90.0, 50.0]]), np.array([[100.0, 100.0]]))
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.4, 0.28, 0.51)
    """
    kept = totals[0] > 0
    if kept.sum() < 2:
        return undefined(GAP, "fewer than two groups have examples", level)
    return _gaps(hits[:, None, kept], totals[:, None, kept], _notes(totals[:1]), level)[0]


def largest_gaps(hits: Array, totals: Array, *, level: float = 0.95) -> list[Estimate]:
    """`largest_gap` of many metrics at once, `(1 + B, M, G)` each: one call of the formulas.

    >>> [round(found.value, 1) for found in largest_gaps(np.array([[[9.0, 5.0], [1, 3]]]), np.full((1, 2, 2), 10.0))]
    [0.4, 0.2]
    """
    if hits.shape[2] < 2 or (totals[0] <= 0).any():
        return [largest_gap(hits[:, m], totals[:, m], level=level) for m in range(hits.shape[1])]
    return _gaps(hits, totals, _notes(totals[0]), level)


def worst(hits: Array, totals: Array, *, better: Better, level: float = 0.95) -> Estimate:
    """Smallest group rate where higher is better, largest where lower is, `(1 + B, G)` each.

    Exact (Clopper-Pearson) limits of every group: corrected for G groups on the side where any group could fake a less
    bad worst, uncorrected on the other, where only the truly worst group can err. Each side errs at most
    (1 - level)/2, whatever the rates. Raises UsageError for better="neither".

    >>> found = worst(np.array([[90.0, 50.0]]), np.array([[100.0, 100.0]]), better="higher")
    >>> found.value, round(found.low, 2), round(found.high, 2)
    (0.5, 0.4, 0.62)
    """
    return worsts(hits[:, None], totals[:, None], better=better, level=level)[0]


def worsts(hits: Array, totals: Array, *, better: Better, level: float = 0.95) -> list[Estimate]:
    """`worst` of many metrics at once, `(1 + B, M, G)` each: one call of the formulas.

    >>> [found.value for found in worsts(np.array([[[9.0, 5.0], [1, 3]]]), np.full((1, 2, 2), 10.0), better="higher")]
    [0.5, 0.1]
    """
    first = _first(better)
    if not hits.shape[2]:
        return [undefined(WORST, "no group has examples", level)] * hits.shape[1]
    own, sizes, num = hits[0], totals[0], hits.shape[2]
    known = sizes > 0
    chances = _chances_of_worst(num, level, first) if sizes.size >= MANY and known.all() else None
    if chances is not None:
        rates = own / (-first * sizes)
        low, high = _limits_of_worst(own, sizes, rates, chances, first)
    else:
        tail, sizes = (1 - level) / 2, np.maximum(sizes, 1)
        shared = tail / np.maximum(known.sum(axis=1), 1)[:, None]
        limits = intervals.exact_limits(own, sizes, *((tail, shared) if first > 0 else (shared, tail)))
        rates, low, high = (np.where(known, -first * one, -np.inf) for one in (own / sizes, *limits))
        low, high = -first * low.max(axis=1), -first * high.max(axis=1)
    drawn = _columns(hits, totals, rates.argmax(axis=1) + np.arange(len(own)) * num)
    told = drawn[0].tolist(), low.tolist(), high.tolist()
    found = estimates(told, drawn[1:], _notes(totals[0]), method=WORST, level=level)
    for place in [] if chances is not None else np.flatnonzero(~known.any(axis=1)):
        found[place] = undefined(WORST, "no group has examples", level)
    return found


def _first(better: Better) -> int:
    """1 where the smallest is the worst, -1 where the largest is."""
    if better == "neither":
        raise UsageError(Problem("the worst group needs a direction", "higher, lower"))
    return 1 if better == "higher" else -1


def _columns(hits: Array, totals: Array, columns: Array) -> Array:
    """Rates `(1 + B, C)` of some of the M x G columns."""
    return ratio(*(one.reshape(len(one), -1).take(columns, axis=1) for one in (hits, totals)))


def _gaps(hits: Array, totals: Array, notes: Sequence[str], level: float) -> list[Estimate]:
    """Largest gaps of M metrics over the same G groups, all of which have examples."""
    own, sizes, num = hits[0], totals[0], hits.shape[2]
    rates = own / sizes
    criticals = _criticals_of_gap(num, level) if sizes.size >= MANY else None
    if criticals is not None:
        low, high = _limits_of_gap(own, sizes, rates, criticals)
    else:
        jointly, alone = intervals.range_critical(num, level), intervals.critical_value(level)
        low, high = intervals.extreme_differences(own, sizes, jointly=jointly, alone=alone)
    columns = np.array([rates.argmax(axis=1), rates.argmin(axis=1)]) + np.arange(len(own)) * num
    drawn = _columns(hits, totals, columns.ravel())
    apart = drawn[:, : len(own)] - drawn[:, len(own) :]
    told = apart[0].tolist(), np.maximum(low, 0).tolist(), np.minimum(high, 1).tolist()
    return estimates(told, apart[1:], notes, method=GAP, level=level)


# ------------------------------------------------------------------ which limits may be extreme


@lru_cache(maxsize=256)
def _criticals_of_gap(num: int, level: float) -> Array | None:
    """Normal quantiles `(2, 1, 1)`: of all pairs together, and of one pair; None where one was not compared."""
    return _compared(np.array([intervals.range_critical(num, level), intervals.critical_value(level)]))


@lru_cache(maxsize=256)
def _chances_of_worst(num: int, level: float, first: int) -> tuple[Array, Array] | None:
    """Chances of error `(2,)` of a group's lower and upper limit, and normal quantiles; None where not compared."""
    tails = np.full(2, (1 - level) / 2)
    tails[(1 + first) // 2] /= num  # any group could fake a less bad worst
    criticals = _compared(-special.ndtri(tails))
    return None if criticals is None else (tails, criticals)


def _compared(criticals: Array) -> Array | None:
    """With axes for metrics and groups; None where one lies where rough distances were not compared with exact ones."""
    return criticals[:, None, None] if CRITICAL[0] <= criticals.min() and criticals.max() <= CRITICAL[1] else None


def rough_distance(own: Array, other: Array, critical: Array | float, *, shift: Array | float) -> Array:
    """About how far the lower limit of `intervals.beta_limits` lies below the rate, from hits and misses.

    Wilson-Hilferty: cube roots of gamma variables are nearly normal, so that y, the cube root of the F quantile, solves
    (y (1 - q) - (1 - p))^2 = c^2 (q y^2 + p), p = 1/9a, q = 1/9b (Paulson 1942; Abramowitz and Stegun 26.6.16).

    >>> near, exact = rough_distance(7.0, 43.0, 1.96, shift=0.0), 0.14 - intervals.clopper_pearson(7, 50)[0]
    >>> round(float(exact / near), 2)
    1.0
    """
    a, b = own + (shift + 1e-9), other + (1 - shift)
    p, q = (1 / 9) / a, (1 / 9) / b
    u, v, square = 1 - p, 1 - q, critical * critical
    top = u * u
    root = np.sqrt(np.maximum(p * (v * v - square * q) + q * top, 0))
    y = np.maximum((top - square * p) / (u * v + critical * root), 0)
    odds = a * (y * y * y)
    found: Array = np.maximum(own / (own + other) - odds / (odds + b), 0)
    return found


def _limits_of_gap(own: Array, sizes: Array, rates: Array, criticals: Array) -> Array:
    """Largest lower limit of all pairs, and largest upper limit of one, `(2, M)`, from `own` hits of `sizes (M, G)`.

    Side 0 of a cell is what its rate may be lower, from its hits; side 1 what it may be higher, from its misses. i - j
    is lower by what i may be lower and j higher, and the other way round.
    """
    sides, num = np.array([own, sizes - own]), own.shape[1]
    criticals = criticals * (1 + WIDER / sizes)
    near = rough_distance(sides[:, None], sides[::-1, None], criticals, shift=SHIFT)  # (side, limit, M, G)
    near *= near
    width = np.empty((2, *own.shape, num))
    np.add(near[0, 0, :, :, None], near[1, 0, :, None, :], out=width[0])
    np.add(near[1, 1, :, :, None], near[0, 1, :, None, :], out=width[1])
    gaps = rates[:, :, None] - rates[:, None, :]
    pairs = _maybe_largest(gaps, np.sqrt(width, out=width), -1)
    i, j = pairs // num, pairs // (num * num) * num + pairs % num  # in (limit, M, G)
    tails = special.ndtr(-criticals.ravel().take(np.concatenate([i, j])))
    cells = np.concatenate([i, (j + own.size) % sides.size])  # in (side, M, G): that of j is the other one
    exact = _exact_distance(sides, cells, tails, SHIFT)
    exact *= exact
    return _largest(gaps, np.sqrt(exact[: len(pairs)] + exact[len(pairs) :]), pairs, -1)


def _limits_of_worst(own: Array, sizes: Array, rates: Array, chances: tuple[Array, Array], first: int) -> Array:
    """Limits `(2, M)` of the worst group: the least extreme lower, and the least extreme upper limit of any group.

    `rates (M, G)` are turned round where the smallest is the worst.
    """
    sides, (tails, criticals) = np.array([own, sizes - own]), chances
    near = rough_distance(sides, sides[::-1], criticals, shift=0.0)
    groups = _maybe_largest(rates, near, first)
    exact = _exact_distance(sides, groups, tails.take(groups // own.size), 0.0)
    return -first * _largest(rates, exact, groups, first)


def _exact_distance(sides: Array, cells: Array, tails: Array, shift: float) -> Array:
    """What `rough_distance` tells roughly, at some places in `sides (2, M, G)`: 0 without a hit."""
    hits, others = sides.ravel().take(cells), sides[::-1].ravel().take(cells)
    exact = special.betaincinv(np.maximum(hits + shift, 1e-9), others + (1 - shift), tails)
    found: Array = (hits / (hits + others) - exact) * (hits > 0)
    return found


def _maybe_largest(middle: Array, near: Array, first: int) -> Array:
    """Flat places in `near (2, M, ...)` where middle + first * exact, then middle - first * exact, may be largest.

    Both are asked of each of the M metrics of `middle (M, ...)`.
    """
    rows, shape = (2, len(middle), -1), (2, *(1,) * middle.ndim)
    lowest, highest = ((one if first < 0 else one[::-1]).reshape(shape) for one in (LOWEST, HIGHEST))
    bar = np.maximum.reduce((middle + lowest * near).reshape(rows), axis=2, keepdims=True)
    return np.flatnonzero((middle + highest * near).reshape(rows) >= bar)


def _largest(middle: Array, exact: Array, places: Array, first: int) -> Array:
    """The largest of each row, `(2, M)`, from the exact distances at the places that may be it."""
    values = middle.ravel().take(places % middle.size) + np.where(places < middle.size, first, -first) * exact
    starts = np.arange(2 * len(middle)) * (middle.size // len(middle))
    largest: Array = np.maximum.reduceat(values, places.searchsorted(starts)).reshape(2, -1)
    return largest


def _notes(sizes: Array) -> list[str]:
    """What is said of groups without examples, and of small ones, for each of M metrics `(M, G)`."""
    least, num = sizes.min(initial=SMALL_GROUP), sizes.shape[1]
    if least >= SMALL_GROUP:
        return [""] * len(sizes)
    few = np.add.reduce(sizes < SMALL_GROUP, axis=1).tolist()
    empty = np.add.reduce(sizes <= 0, axis=1).tolist() if least <= 0 else [0] * len(few)
    return [_note(none, small - none, num) for none, small in zip(empty, few, strict=True)]


def _note(empty: int, small: int, num: int) -> str:
    reasons = [f"{empty} of {num} groups have no examples and are left out"] if empty else []
    if small:
        reasons.append(f"{small} of {num} groups have fewer than {SMALL_GROUP} examples, which widens the band")
    return "; ".join(reasons)
