"""An estimate: a value with its interval and replicates, and how one is cut to what is possible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, cast

import numpy as np

from assay.estimation import intervals
from assay.values import Array

Bounds = tuple[float | None, float | None]  # where a value can lie at all


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its interval and its replicates `(B,)`. None means undefined, and `reason` says why."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    replicates: Array | None = field(default=None, repr=False, compare=False)
    reason: str = ""
    level: float = 0.95


@dataclass(slots=True, eq=False)
class _Open:
    """An estimate that is being filled: the fields of `Estimate`, in its order."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    replicates: Array | None
    reason: str
    level: float


def estimates(
    told: tuple[Sequence[float], Sequence[float], Sequence[float]],
    replicates: Array,
    reasons: Iterable[str],
    *,
    method: str,
    level: float,
) -> list[Estimate]:
    """Many at once: values, lower and upper limits `(C,)` each, replicates `(B, C)` and reasons.

    A frozen dataclass sets every field by a slow call, 1 to 2 microseconds in all: for the rates of ten groups a tenth
    of what a hundred draws take. So each is filled open, and closed by giving it the class of the same layout.

    >>> estimates(([0.5], [0.4], [0.6]), np.array([[0.5]]), [""], method="exact", level=0.95)[0].low
    0.4
    """
    made: list[Any] = list(map(_Open, *told, repeat(method), replicates.T, reasons, repeat(level)))
    for one in made:
        one.__class__ = Estimate
    return cast("list[Estimate]", made)


def undefined(method: str, reason: str, level: float) -> Estimate:
    """No value, and why."""
    return Estimate(None, None, None, method, None, reason, level)


def ratio(numerators: Array, denominators: Array) -> Array:
    """Element by element; NaN where the denominator is 0."""
    if denominators.size and denominators.min() > 0:
        found: Array = np.true_divide(numerators, denominators)
        return found
    out = np.full(np.shape(numerators), np.nan)
    np.divide(numerators, denominators, out=out, where=denominators > 0)
    return out


def within(found: Estimate, bounds: Bounds) -> Estimate:
    """The interval cut at the bounds, and never without the value."""
    value, low, high = (float(number) for number in (found.value, found.low, found.high) if number is not None)
    low = low if bounds[0] is None else max(low, bounds[0])
    high = high if bounds[1] is None else min(high, bounds[1])
    return replace(found, low=min(value, low), high=max(value, high))


def flat(found: Estimate, bounds: Bounds, num: float | None) -> Estimate:
    """No draw differs: the rule of three where bounds and num are known, else no interval."""
    value, (least, most) = found.value, bounds
    if value is None or least is None or most is None or not num or not least <= value <= most:
        return replace(found, reason="no interval: every resample gives the same")
    width = most - least
    low, high = intervals.clopper_pearson((value - least) / width * num, num, level=found.level)
    method = "Clopper-Pearson, as no resample differs"
    return within(
        replace(found, low=float(least + width * low), high=float(least + width * high), method=method), bounds
    )
