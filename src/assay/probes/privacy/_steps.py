"""What the steps of a private training show: of the noise, and of how their rows were drawn."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom, chi2, norm

from assay.values import Array

NEAR = 1e-9  # counts are whole numbers, their mean is a float


def likelihood_ratio(sums: Array, noise_multiplier: float, sample_rate: float) -> Array:
    r"""$\sum_t \log(1 - q + q\,e^{(s_t - 1/2)/\sigma^2})$ of sums `(T, m)`: how much likelier each canary is in.

    The best test there is of a training that keeps its claim (Neyman and Pearson), by steps that are independent.

    >>> likelihood_ratio(np.array([[0.0, 1.0]]), 1.0, 0.5).round(2).tolist()
    [-0.22, 0.28]
    """
    exponent = (sums.astype(np.float64) - 0.5) / noise_multiplier**2
    with np.errstate(divide="ignore"):
        total: Array = np.logaddexp(np.log1p(-sample_rate), math.log(sample_rate) + exponent).sum(axis=0)
    return total


def noise_share(sums: Array, noise_multiplier: float, *, level: float) -> tuple[float, float, float]:
    """Spread of sums that hold noise alone over the claimed one, and its exact interval by chi-squared.

    >>> noise_share(np.zeros((3, 4)), 1.0, level=0.95)
    (0.0, 0.0, 0.0)
    """
    total, num = float(np.square(sums.astype(np.float64)).sum()) / noise_multiplier**2, sums.size
    low, high = chi2.ppf([0.5 - level / 2, 0.5 + level / 2], num)
    return math.sqrt(total / num), math.sqrt(total / high), math.sqrt(total / low)


def even_p_value(counts: Array, num: int, share: float) -> float:
    r"""Exact p-value, both sides, of $\max_j |X_j - n p|$ where all counts are independent binomial (n, p).

    Counts more even than coins would give them are as unlikely as counts that are too uneven.

    >>> even_p_value(np.full(20, 50), 100, 0.5) < 1e-20  # the same number every time: dealt, not tossed
    True
    >>> round(even_p_value(np.array([3]), 10, 0.5), 2)  # twice P(X <= 3) + P(X >= 7)
    0.69
    """
    mean = num * share
    away = float(np.abs(counts - mean).max())
    within = binom.cdf(math.floor(mean + away + NEAR), num, share) - binom.cdf(
        math.ceil(mean - away - NEAR) - 1, num, share
    )
    nearer = binom.cdf(math.ceil(mean + away - NEAR) - 1, num, share) - binom.cdf(
        math.floor(mean - away + NEAR), num, share
    )
    if within <= 0:  # beyond what floats hold
        return 0.0
    too_even = math.exp(len(counts) * math.log(within))
    too_uneven = 1.0 if nearer <= 0 else abs(math.expm1(len(counts) * math.log(min(nearer, 1.0))))
    return min(1.0, 2 * min(too_even, too_uneven))


def follows_p_value(sums: Array, batch_sizes: Array, *, noise_multiplier: float, expected: float) -> float:
    r"""Whether noise gets smaller where a batch is larger, as in sums divided by the realised size; both sides.

    With $S_t$ the squares of m sums of noise over their variance and $w_t = 1 - |B_t| / \mathrm{E}|B|$:
    $\sum_t w_t (S_t - m)$ has mean 0 and variance $2 m \sum_t w_t^2$, and is nearly normal (a sum of T m squares).
    """
    squares = np.square(sums.astype(np.float64)).sum(axis=1) / noise_multiplier**2
    weights = 1 - batch_sizes / expected
    spread = math.sqrt(2 * sums.shape[1] * float(np.square(weights).sum()))
    if spread == 0:
        return 1.0
    return float(2 * norm.sf(abs(float((weights * (squares - sums.shape[1])).sum())) / spread))
