"""Intervals for proportions: pure formulas, vectorised, no draws."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from assay.values import Array


def clopper_pearson(hits: Array, totals: Array, *, level: float = 0.95) -> tuple[Array, Array]:
    """Exact limits: coverage is at least `level` for every rate.

    >>> low, high = clopper_pearson(0, 10)
    >>> round(float(low), 4), round(float(high), 4)
    (0.0, 0.3085)
    """
    tail = (1 - level) / 2
    hits, totals = np.asarray(hits, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    misses = totals - hits
    low = np.where(hits > 0, special.betaincinv(np.maximum(hits, 1e-9), misses + 1, tail), 0.0)
    high = np.where(misses > 0, special.betaincinv(hits + 1, np.maximum(misses, 1e-9), 1 - tail), 1.0)
    return low, high


def wilson(hits: Array, totals: Array, *, critical: float = 1.959963984540054) -> tuple[Array, Array]:
    """Score limits: the rates p with |hits/totals - p| <= critical * sqrt(p (1-p) / totals).

    >>> low, high = wilson(0, 10)
    >>> round(float(low), 4), round(float(high), 4)
    (0.0, 0.2775)
    """
    hits, totals = np.asarray(hits, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    rates, square = hits / totals, critical * critical
    centre = (rates + square / (2 * totals)) / (1 + square / totals)
    half = critical * np.sqrt(rates * (1 - rates) / totals + square / (4 * totals**2)) / (1 + square / totals)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def critical_value(level: float) -> float:
    """Two-sided standard normal quantile.

    >>> round(critical_value(0.95), 3)
    1.96
    """
    return float(stats.norm.ppf((1 + level) / 2))
