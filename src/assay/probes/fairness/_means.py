"""What fairness probes of means share: the mean of a group, and the largest gap between several."""

from __future__ import annotations

import numpy as np

from assay.stats import Estimate, mean
from assay.values import Array


def bounded_mean(totals: Array, rows: Array, errored: int, level: float) -> Estimate:
    """Mean of a group, `(1 + B,)` each; undefined where an example errored, as its number has no bound."""
    if errored:
        reason = f"{errored} of {int(rows[0])} examples errored, and their error has no bound"
        return Estimate(None, None, None, "skewness-corrected t", reason=reason, level=level)
    return mean(totals, rows, level=level)


def gap_of_means(bands: list[Estimate], level: float) -> Estimate:
    """Largest minus smallest group mean; the limits hold because all group limits hold together."""
    method = "skewness-corrected t, Bonferroni over groups"
    undefined = [one.reason for one in bands if one.value is None]
    if len(bands) < 2 or undefined:
        reason = undefined[0] if undefined else "fewer than two groups have examples"
        return Estimate(None, None, None, method, reason=reason, level=level)
    values = np.array([one.value for one in bands])
    top, bottom = int(values.argmax()), int(values.argmin())
    gap, first, last = float(values[top] - values[bottom]), bands[top].replicates, bands[bottom].replicates
    replicates = None if first is None or last is None else first - last
    unbounded = [one.reason for one in bands if one.low is None or one.high is None]
    if unbounded:
        reason = f"{len(unbounded)} of {len(bands)} groups have {unbounded[0]}"
        return Estimate(gap, None, None, method, replicates, reason, level)
    lows, highs = (np.array([getattr(one, name) for one in bands]) for name in ("low", "high"))
    low, high = max(0.0, float(lows.max() - highs.min())), float(highs.max() - lows.min())
    return Estimate(gap, low, high, method, replicates, "", level)
