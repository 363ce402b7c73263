"""Bring an interval to a higher level, so that many can hold together.

Three ways, the first that fits:

1. Clopper–Pearson and Wilson: computed anew from the counts, when that reproduces the interval that was measured.
2. Every other interval: extrapolated side by side. With t the Student quantile (scored − 1 degrees of freedom), the two
   distances d₊ = high − value, d₋ = value − low give scale σ = (d₊ + d₋)/2t and skewness γ from the Cornish–Fisher
   expansion d± = σ(t ± γ(t² − 1)/6); each side is the larger of that at the new t and d·t_new/t.
3. An interval of no width (a count of bytes) and a missing side stay as they are.

Never narrower than what was measured. Source: Cornish and Fisher 1937; Hall, The Bootstrap and Edgeworth Expansion,
section 2.5. Limits: 2 is an approximation, tested by simulation for proportions, means, skewed means and gaps; it
cannot know heavier tails than the measured interval shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from assay.values import Measurement

__all__ = ["widened"]

_FRACTIONS = frozenset({"fraction", "proportion", "probability", "rate", "share"})
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
    if exact is not None:
        return min(exact[0], value), max(exact[1], value)
    now, then = _quantile(measurement, measurement.level), _quantile(measurement, level)
    below = None if low is None else max(0.0, value - low)
    above = None if high is None else max(0.0, high - value)
    wider_below, wider_above = _stretch(below, above, now, then)
    floor, ceiling = _limits(measurement)
    return (
        None if wider_below is None or low is None else min(low, max(floor, value - wider_below)),
        None if wider_above is None or high is None else max(high, min(ceiling, value + wider_above)),
    )


def _stretch(below: float | None, above: float | None, now: float, then: float) -> tuple[float | None, float | None]:
    ratio = then / now
    linear = (None if below is None else below * ratio, None if above is None else above * ratio)
    if below is None or above is None or now <= 1.0:
        return linear
    scale = (below + above) / (2 * now)
    lean = (above - below) / 2 * (then**2 - 1) / (now**2 - 1)
    return max(below * ratio, scale * then - lean), max(above * ratio, scale * then + lean)


def _limits(measurement: Measurement) -> tuple[float, float]:
    inside = measurement.low is None or measurement.low >= 0.0
    inside = inside and (measurement.high is None or measurement.high <= 1.0)
    return (0.0, 1.0) if measurement.unit in _FRACTIONS and inside else (-math.inf, math.inf)


def _quantile(measurement: Measurement, level: float) -> float:
    num = measurement.scored or measurement.attempted
    if not 0 < num <= 10_000:
        return NormalDist().inv_cdf((1 + level) / 2)
    from scipy.special import stdtrit

    return float(stdtrit(max(1, num - 1), (1 + level) / 2))


def _from_counts(measurement: Measurement, level: float) -> tuple[float, float] | None:
    if measurement.value is None or measurement.low is None or measurement.high is None:
        return None
    if not 0.0 <= measurement.value <= 1.0:
        return None
    method = measurement.method.lower()
    formula = _clopper_pearson if "clopper" in method else _wilson if "wilson" in method else None
    if formula is None:
        return None
    return _reproduced(measurement, formula, level)


def _reproduced(
    measurement: Measurement, formula: Callable[[float, int, float], tuple[float, float]], level: float
) -> tuple[float, float] | None:
    value = measurement.value or 0.0
    for total in (measurement.attempted, measurement.scored):
        hits = round(value * total)
        if total > 0 and abs(hits / total - value) <= _SAME:
            low, high = formula(hits, total, measurement.level)
            if abs(low - (measurement.low or 0.0)) <= _SAME and abs(high - (measurement.high or 0.0)) <= _SAME:
                return formula(hits, total, level)
    return None


def _clopper_pearson(hits: float, total: int, level: float) -> tuple[float, float]:
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, total - hits + 1, tail))
    high = 1.0 if hits == total else float(betaincinv(hits + 1, total - hits, 1 - tail))
    return low, high


def _wilson(hits: float, total: int, level: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)
