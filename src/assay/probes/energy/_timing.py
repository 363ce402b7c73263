"""How often a pass is timed, and percentiles with bounds: shared by the probes of this family."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom

from assay.stats import Estimate
from assay.values import Array

LEVEL = 0.95
WARM_UP = 3  # passes that the meter runs and does not report
# Batch size: timed passes, the same for all probes of this family, so that they read the same ones. An upper bound of
# the 99th percentile takes 368; of many rows at once a pass varies less, and costs more.
REPEATS = {1: 370, 8: 120, 64: 40, 256: 20}


def passes_of(*batch_sizes: int) -> dict[str, int]:
    """Rows that passes of these sizes run, warming up included; the same for any system, and shared by name."""
    return {f"passes, batch={size}": size * (REPEATS[size] + WARM_UP) for size in batch_sizes}


def percentile(seconds: Array, share: float, *, level: float = LEVEL) -> Estimate:
    """A percentile with distribution-free bounds; a bound that needs more passes than there are is None, and said."""
    method = "order statistics; no replicates"
    ordered, num = np.sort(np.asarray(seconds, dtype=np.float64)), len(seconds)
    if num == 0 or not np.isfinite(ordered).all():
        return Estimate(None, None, None, method, None, "no pass could be timed", level)
    tail = (1 - level) / 2
    below = int(binom.ppf(tail, num, share))  # P(B < below) <= tail, so the below-th smallest is under the percentile
    above = int(binom.ppf(1 - tail, num, share)) + 1
    value = float(ordered[max(1, math.ceil(share * num - 1e-9)) - 1])
    low = float(ordered[below - 1]) if below >= 1 else None
    high = float(ordered[above - 1]) if above <= num else None
    least = {
        "lower": _fewest(1 - share, tail) if low is None else 0,
        "upper": _fewest(share, tail) if high is None else 0,
    }
    missing = [name for name, takes in least.items() if takes]
    reason = f"no {' and '.join(missing)} bound from {num} passes: it takes {max(least.values())}" if missing else ""
    return Estimate(value, low, high, method, None, reason, level)


def _fewest(share: float, tail: float) -> int:
    """Passes of which the last, in order, lies beyond the percentile but for a chance of `tail`.

    >>> _fewest(0.99, 0.025)
    368
    """
    return math.ceil(math.log(tail) / math.log(share))
