"""How many examples would settle a value against a bound, and whether those at hand could settle anything."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import mode
from typing import Literal

from scipy import special

from assay.estimation.intervals import clopper_pearson, critical_value
from assay.estimation.widen import FRACTIONS, counted, widened
from assay.values import Measurement

TOO_SMALL = "too small to judge"
MOST_REQUIRED = 10_000_000  # more rows than this are no advice: the value stands at its bound
OF_OTHERS = ("group_share", "swap_")  # metrics with a group's name that a group without rows has as well
MOST = 10**9  # examples: more is no advice


def required_num(
    measurement: Measurement, *, bound: float, level: float | None = None, power: float = 0.5
) -> int | None:
    """Examples at which the interval at `level` would clear `bound` with chance `power` if the value is right.

    n (h (1 + z_power / z) / |value - bound|)^2, with h the distance from the value to the limit on the bound's side,
    which shrinks as 1/sqrt(n). At power 0.5 (the value stays as it is) a proportion of known counts is searched with
    its exact limits instead, which shrink faster near 0 and 1. None when the value is on the bound, or there is no
    interval on that side. Limits: a projection, not a promise.

    >>> one = Measurement("", "gap", 0.08, 0.0, 0.16, 0.95, "", "fraction", "lower", attempted=100, scored=100)
    >>> required_num(one, bound=0.10), required_num(one, bound=0.10, power=0.8)
    (1600, 3270)
    """
    value, num = measurement.value, measurement.scored or measurement.attempted
    level = max(level or 0.0, measurement.level)
    low, high = widened(measurement, level)
    if value is None or value == bound or num <= 0:
        return None
    edge = high if value < bound else low
    if edge is None:
        return None
    known = counted(measurement) if power == 0.5 else None
    if known is not None:
        return _searched(known, bound, level)
    factor = 1 + float(special.ndtri(power)) / critical_value(level)
    return math.ceil(num * (abs(edge - value) * factor / abs(value - bound)) ** 2)


def _searched(counts: tuple[int, int], bound: float, level: float) -> int | None:
    """Smallest total at which the exact limits of the same proportion lie on one side of the bound."""
    share = counts[0] / counts[1]

    def clears(total: int) -> bool:
        low, high = clopper_pearson(share * total, total, level=level)
        return bool(high <= bound if share < bound else low > bound)

    few, many = 0, 1
    while not clears(many):
        few, many = many, 2 * many
        if many > MOST:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if clears(middle) else (middle, many)
    return many


def is_too_small(measurement: Measurement, *, bound: float, kind: Literal["at_most", "at_least"], level: float) -> bool:
    """Whether not even the best possible result on as many examples could have passed.

    A proportion of known counts: the exact limits with no hit (or with hits alone) reach over the bound. Any other
    share: its interval reaches further beyond the value than the bound is from the best end. Nothing else has an end.

    >>> one = Measurement("", "error", 0.0, 0.0, 0.2646, 0.95, "Clopper-Pearson", "share", "lower", scored=12)
    >>> [is_too_small(one, bound=bound, kind="at_most", level=0.95) for bound in (0.2, 0.3)]
    [True, False]
    """
    low, high = widened(measurement, level)
    if measurement.unit not in FRACTIONS or measurement.value is None or not 0 < bound < 1:
        return False
    room = bound if kind == "at_most" else 1 - bound
    known = counted(measurement)
    if known is not None:
        return float(clopper_pearson(0, known[1], level=level)[1]) > room
    edge = high if kind == "at_most" else low
    return edge is not None and abs(edge - measurement.value) > room


def smallest_group(slice: str, measurements: Iterable[Measurement]) -> tuple[str, int] | None:
    """The group with fewest rows that a gap or a worst one over whole columns is of, and how many; None if none is.

    `slice` names columns ("sex & race"). Only groups with rows count, by the rows that most measurements of them were
    taken on: a share of all rows, or a swap into the group, is measured on others.

    >>> rate = dict(metric="rate", value=0.5, low=0.1, high=0.9, level=0.95, method="", unit="share", better="lower")
    >>> sizes = {"sex=Female": 12, "sex=Male": 900, "sex=Male & race=x": 5}
    >>> own = [Measurement("p", slice=name, scored=num, **rate) for name, num in sizes.items()]
    >>> smallest_group("sex", [*own, *own, Measurement("share", slice="sex=Female", scored=912, **rate)])
    ('sex=Female', 12)
    """
    columns, seen = slice.split(" & "), dict[str, list[int]]()
    if not slice or "=" in slice:
        return None
    for one in measurements:
        parts = [part.partition("=") for part in one.slice.split(" & ")]
        of_group = [part[0] for part in parts] == columns and all(part[1] for part in parts)
        if of_group and one.scored and not one.metric.startswith(OF_OTHERS):
            seen.setdefault(one.slice, []).append(one.scored)
    sizes = {name: mode(found) for name, found in seen.items()}
    return min(sizes.items(), key=lambda pair: pair[1]) if len(sizes) > 1 else None
