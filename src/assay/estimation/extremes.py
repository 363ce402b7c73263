"""Largest gap and worst group, with simultaneous bands: never a percentile of a maximum. Many metrics in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.errors import Problem, UsageError
from assay.estimation import intervals
from assay.estimation.estimate import Estimate, ratio, undefined
from assay.values import Array, Better

SMALL_GROUP = 20
GAP, WORST = "simultaneous MOVER", "simultaneous Clopper-Pearson"


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
    return _gaps(hits[:, None, kept], totals[:, None, kept], [_notes(totals[0])], level)[0]


def largest_gaps(hits: Array, totals: Array, *, level: float = 0.95) -> list[Estimate]:
    """`largest_gap` of many metrics at once, `(1 + B, M, G)` each: one call of the formulas.

    >>> [round(found.value, 1) for found in largest_gaps(np.array([[[9.0, 5.0], [1, 3]]]), np.full((1, 2, 2), 10.0))]
    [0.4, 0.2]
    """
    if hits.shape[2] < 2 or (totals[0] <= 0).any():
        return [largest_gap(hits[:, m], totals[:, m], level=level) for m in range(hits.shape[1])]
    return _gaps(hits, totals, [_notes(own) for own in totals[0]], level)


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
    if better == "neither":
        raise UsageError(Problem("the worst group needs a direction", "higher, lower"))
    if not hits.shape[2]:
        return [undefined(WORST, "no group has examples", level)] * hits.shape[1]
    known = totals[0] > 0
    num = known.sum(axis=1)
    sizes, own = np.maximum(totals[0], 1), hits[0]
    sign = 1.0 if better == "higher" else -1.0
    rates = np.where(known, own / sizes, sign * np.inf)
    tail = (1 - level) / 2
    shared = tail / np.maximum(num, 1)[:, None]
    lows, highs = intervals.exact_limits(own, sizes, *((tail, shared) if better == "higher" else (shared, tail)))
    lows, highs = (np.where(known, one, sign * np.inf) for one in (lows, highs))
    index = (sign * rates).argmin(axis=1)
    low, high = sign * (sign * lows).min(axis=1), sign * (sign * highs).min(axis=1)
    metrics = np.arange(len(num))
    drawn = ratio(hits[:, metrics, index], totals[:, metrics, index])
    return [
        Estimate(float(drawn[0, m]), float(low[m]), float(high[m]), WORST, drawn[1:, m], _notes(totals[0, m]), level)
        if num[m]
        else undefined(WORST, "no group has examples", level)
        for m in range(len(num))
    ]


def _gaps(hits: Array, totals: Array, notes: Sequence[str], level: float) -> list[Estimate]:
    """Largest gaps of M metrics over the same G groups, all of which have examples."""
    sizes, metrics = totals[0], np.arange(hits.shape[1])
    rates = hits[0] / sizes
    top, bottom = rates.argmax(axis=1), rates.argmin(axis=1)
    jointly, alone = intervals.range_critical(sizes.shape[1], level), intervals.critical_value(level)
    low, high = intervals.extreme_differences(hits[0], sizes, jointly=jointly, alone=alone)
    most, least = (ratio(hits[:, metrics, at], totals[:, metrics, at]) for at in (top, bottom))
    drawn = most - least
    limits = zip(drawn[0].tolist(), np.maximum(low, 0).tolist(), np.minimum(high, 1).tolist(), strict=True)
    return [
        Estimate(value, below, above, GAP, drawn[1:, m], notes[m], level)
        for m, (value, below, above) in enumerate(limits)
    ]


def _notes(sizes: Array) -> str:
    """What is said of groups without examples, and of small ones."""
    if sizes.min(initial=SMALL_GROUP) >= SMALL_GROUP:
        return ""
    empty, num = int((sizes <= 0).sum()), len(sizes)
    small = int((sizes < SMALL_GROUP).sum()) - empty
    reasons = [f"{empty} of {num} groups have no examples and are left out"] if empty else []
    if small:
        reasons.append(f"{small} of {num} groups have fewer than {SMALL_GROUP} examples, which widens the band")
    return "; ".join(reasons)
