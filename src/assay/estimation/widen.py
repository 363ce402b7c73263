"""Bring an interval to a higher level, so that many can hold together.

Three ways, the first that fits:

1. A proportion whose counts reproduce its interval (Wilson or Clopper–Pearson): the exact Clopper–Pearson interval at
   the new level. Far in the tail Wilson's own limits miss too often near 0 and 1; the exact ones never do.
2. Every other interval: extrapolated side by side. With t the Student quantile (scored − 1 degrees of freedom), the two
   distances d₊ = high − value, d₋ = value − low give scale σ = (d₊ + d₋)/2t and skewness γ from the Cornish–Fisher
   expansion d± = σ(t ± γ(t² − 1)/6); each side is the larger of that at the new t and d·t_new/t. A percentile bootstrap
   leans as the statistic does; a studentised interval leans by γ(2t² + 1)/6, and that is taken for it.
3. An interval of no width (a count of bytes) and a missing side stay as they are.

Never narrower than what was measured. Source: Cornish and Fisher 1937; Hall, The Bootstrap and Edgeworth Expansion,
sections 2.5 and 3.10. Limits: 2 is an approximation, and cannot know heavier tails than the measured interval shows;
20 rules on means of 200 exponential rows with percentile intervals gave 6 % of judgements a false verdict, not 5 %.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from assay.values import Measurement

__all__ = ["FRACTIONS", "counted", "widened"]

FRACTIONS = frozenset({"fraction", "proportion", "probability", "rate", "share"})  # of which one row moves 1/n
_SAME = 1e-6  # how closely a recomputed interval must match the measured one


def widened(measurement: Measurement, level: float) -> tuple[float | None, float | None]:
    """`(low, high)` of a measurement at `level`; its own interval when that level is not higher.

    >>> from assay.values import Measurement
    >>> wide = widened(Measurement("p", "m", 0.0, -1.96, 1.96, 0.95, "normal", "", "lower", scored=10**9), 0.99)
    >>> round(wide[1], 2)
    2.58
    """
    value, low, high = measurement.value, measurement.low, measurement.high
    if value is None or level <= measurement.level or low == high or not 0 < measurement.level < 1:
        return low, high
    exact = _from_counts(measurement, level)
    if exact is not None and low is not None and high is not None:
        return min(exact[0], low), max(exact[1], high)
    now, then = _quantile(measurement, measurement.level), _quantile(measurement, level)
    below = None if low is None else max(0.0, value - low)
    above = None if high is None else max(0.0, high - value)
    studentised = "bootstrap" in measurement.method
    wider_below, wider_above = _stretch(below, above, (now, then), studentised=studentised)
    floor, ceiling = _limits(measurement)
    return (
        None if wider_below is None or low is None else min(low, max(floor, value - wider_below)),
        None if wider_above is None or high is None else max(high, min(ceiling, value + wider_above)),
    )


def _stretch(
    below: float | None, above: float | None, quantiles: tuple[float, float], *, studentised: bool
) -> tuple[float | None, float | None]:
    now, then = quantiles
    ratio = then / now
    linear = (None if below is None else below * ratio, None if above is None else above * ratio)
    if below is None or above is None or now <= 1.0:
        return linear
    scale = (below + above) / (2 * now)
    lean = (above - below) / 2 * (2 * then**2 + 1 if studentised else then**2 - 1) / (now**2 - 1)
    return max(below * ratio, scale * then - lean), max(above * ratio, scale * then + lean)


def _limits(measurement: Measurement) -> tuple[float, float]:
    """Where a value can lie at all: a fraction whose interval reaches below 0 is a difference, and is not cut."""
    if measurement.unit not in FRACTIONS or (measurement.low or 0.0) < 0.0 or (measurement.high or 0.0) > 1.0:
        return -math.inf, math.inf
    return 0.0, 1.0


def _quantile(measurement: Measurement, level: float) -> float:
    num = measurement.scored or measurement.attempted
    if not 0 < num <= 10_000:
        return NormalDist().inv_cdf((1 + level) / 2)
    from scipy.special import stdtrit

    return float(stdtrit(max(1, num - 1), (1 + level) / 2))


def _from_counts(measurement: Measurement, level: float) -> tuple[float, float] | None:
    """The exact interval at `level` when the counts behind the measured interval can be told; else None."""
    known = counted(measurement)
    if known is None:
        return None
    from assay.estimation.intervals import clopper_pearson

    low, high = clopper_pearson(*known, level=level)
    return float(low), float(high)


def counted(measurement: Measurement) -> tuple[int, int] | None:
    """Hits and total of a proportion whose measured interval (Wilson, Clopper-Pearson) they reproduce; else None.

    >>> from assay.values import Measurement
    >>> counted(Measurement("p", "m", 0.1, 0.0025, 0.4450, 0.95, "normal", "share", "lower", scored=10))
    """
    value, low, high = measurement.value, measurement.low, measurement.high
    name = measurement.method.lower()
    if value is None or low is None or high is None or not 0.0 <= value <= 1.0:
        return None
    if "wilson" not in name and "clopper" not in name:
        return None
    from assay.estimation.intervals import adjusted_wilson, clopper_pearson, critical_value, wilson

    for total in {measurement.attempted, measurement.scored} - {0}:
        hits, num = np.asarray(round(value * total)), np.asarray(total)
        if "clopper" in name:
            limits = clopper_pearson(hits, num, level=measurement.level)
        elif "adjusted" in name:
            limits = adjusted_wilson(hits, num, level=measurement.level)
        else:
            limits = wilson(hits, num, critical=critical_value(measurement.level))
        same = max(abs(float(hits / num) - value), abs(float(limits[0]) - low), abs(float(limits[1]) - high)) <= _SAME
        if same:
            return int(hits), total
    return None
