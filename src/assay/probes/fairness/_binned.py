"""Calibration error of one set of rows, in bins of equal mass, with a closed interval: no draws are needed."""

from __future__ import annotations

import math

import numpy as np

from assay.estimation.intervals import critical_value
from assay.stats import Estimate
from assay.values import Array

SMALLEST_BIN = 20  # rows
METHOD = "debiased, score limits on the square"


def binned_error(stated: Array, happened: Array, *, num_bins: int, level: float) -> Estimate:
    """Debiased root mean square gap between stated and observed frequency, from `(n,)` each.

    With gap_b and v_b = h(1 - h)/(n_b - 1) of bin b: S = sum w_b (gap_b^2 - v_b), Var S = sum w_b^2 (4 gap_b^2 v_b + 2
    v_b^2), which grows with S: so the limits L solve (S - L)^2 = z^2 Var(L), and square roots are taken. In Var the
    frequency is that of two more rows, one of each outcome: a bin in which all or nothing happened has variance too.

    >>> found = binned_error(np.full(400, 0.75), np.tile([0.0, 0, 0, 1], 100), num_bins=10, level=0.95)
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.5, 0.46, 0.54)
    """
    num = len(stated)
    if num < 2:
        reason = "fewer than two examples"
        return Estimate(None, None, None, METHOD, reason=reason, level=level)
    num_edges = max(1, min(num_bins, num // SMALLEST_BIN))
    edges = np.quantile(stated, np.arange(1, num_edges) / num_edges)
    _, bins = np.unique(np.searchsorted(edges, stated), return_inverse=True)
    rows, hits, claims = (np.bincount(bins, weights=one) for one in (np.ones(num), happened, stated))
    frequency, gaps = hits / rows, (claims - hits) / rows
    variance = frequency * (1 - frequency) / np.maximum(rows - 1, 1)
    wider = (hits + 1) * (rows - hits + 1) / (rows + 2) ** 2 / rows
    weights = rows / num
    square = float((weights * (gaps**2 - variance)).sum())
    # Var(L) = 4 L grows + 2 stays
    grows, stays = float((weights**2 * wider).sum()), float((weights**2 * wider**2).sum())
    if (weights * gaps**2).sum() > 0:
        grows = max(grows, float((weights**2 * gaps**2 * wider).sum() / (weights * gaps**2).sum()))
    z = critical_value(level) * (1 + 5 / num)
    centre = square + 2 * z**2 * grows
    reach = z * math.sqrt(max(0.0, 4 * grows * square + 4 * z**2 * grows**2 + 2 * stays))
    low, high = math.sqrt(max(0.0, centre - reach)), math.sqrt(max(0.0, centre + reach))
    value = math.sqrt(max(0.0, square))
    return Estimate(value, min(low, value), max(high, value), METHOD, None, "", level)
