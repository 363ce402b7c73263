"""What guesses about who was included prove of epsilon: the one-run theorem, and the two-run bound beside it."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta, binom

from assay.values import Array

MAX_EPSILON = 64.0  # e^-64: no number of canaries that fits a machine reaches it


def p_value(num_canaries: int, guesses: int, correct: int, epsilon: float, delta: float = 0.0) -> float:
    r"""At most how likely `correct` or more right `guesses` are under (epsilon, delta): $\beta + 2 m \delta \alpha$.

    With q = 1 / (1 + e^-epsilon) and W binomial (guesses, q): beta = P(W >= v), and alpha = the largest of
    P(v > W >= v - i) / i. Each of the m canaries was included by its own fair coin; abstaining is free.

    Source: Steinke, Nasr and Jagielski 2023, theorem 5.2 and appendix D.

    >>> round(p_value(100, 100, 60, 0.0), 4)
    0.0284
    """
    share = float(expit(epsilon))
    tail = float(binom.sf(correct - 1, guesses, share))
    if delta == 0 or not correct:
        return min(tail, 1.0)
    steps = np.arange(1, correct + 1)
    alpha = float(((binom.sf(correct - steps - 1, guesses, share) - tail) / steps).max())
    return min(tail + 2 * num_canaries * delta * max(alpha, 0.0), 1.0)


def epsilon_bound(num_canaries: int, guesses: int, correct: int, *, delta: float = 0.0, error: float = 0.05) -> float:
    """Largest epsilon that these guesses refute with probability of error at most `error`; 0 when they refute none.

    >>> round(epsilon_bound(1000, 600, 600, delta=1e-5), 2)
    5.27
    """

    def refuted(epsilon: float) -> float:
        return error - p_value(num_canaries, guesses, correct, epsilon, delta)

    if not guesses or refuted(0.0) <= 0:
        return 0.0
    high = 1.0
    while refuted(high) > 0:
        if high >= MAX_EPSILON:
            return MAX_EPSILON
        high *= 2
    return float(brentq(refuted, 0.0, high, xtol=1e-6))


def best_bound(
    scores: Array,
    included: Array,
    *,
    delta: float,
    error: float = 0.05,
    num_looks: int = 8,
    one_sided: bool = False,
) -> tuple[float, int, int]:
    """Bound, guesses and right guesses: the best of a grid of abstentions, each at `error` / looks (Bonferroni).

    The k canaries with the highest scores `(m,)` are guessed included, the k with the lowest excluded; k runs over a
    geometric grid from m / 2^num_looks to m / 2, fixed before any score is seen. With `one_sided`, each k is looked at
    twice: the k highest also alone, as a canary that no step drew looks like one left out. `included (m,)` bool.

    >>> best_bound(np.arange(64.0), np.arange(64) >= 32, delta=0.0)[1:]
    (64, 64)
    """
    num = len(scores)
    rank, is_in = np.argsort(scores, kind="stable"), np.asarray(included, dtype=bool)
    best = (0.0, 0, 0)
    share = error / (num_looks * (1 + one_sided))
    for look in range(1, num_looks + 1):
        half = num >> look
        if half < 1:
            break
        high, low = int(is_in[rank[-half:]].sum()), int((~is_in[rank[:half]]).sum())
        for guesses, correct in [(2 * half, high + low), (half, high)][: 1 + one_sided]:
            found = epsilon_bound(num, guesses, correct, delta=delta, error=share)
            if found > best[0] or not best[1]:
                best = (found, guesses, correct)
    return best


def two_run_bound(
    true_claims: int, runs_with: int, false_claims: int, runs_without: int, *, delta: float = 0.0, error: float = 0.05
) -> float:
    """Epsilon that claims over many runs with and without one row refute: log((TPR_low - delta) / FPR_high).

    Clopper-Pearson bounds, half of `error` each.

    Source: Jagielski, Ullman and Oprea 2020, section 4; Nasr et al. 2021.

    >>> round(two_run_bound(90, 100, 5, 100), 2)
    1.99
    """
    half = error / 2
    low = float(beta.ppf(half, true_claims, runs_with - true_claims + 1)) if true_claims else 0.0
    unclaimed = runs_without - false_claims
    high = float(beta.ppf(1 - half, false_claims + 1, unclaimed)) if unclaimed else 1.0
    return max(0.0, float(np.log((low - delta) / high))) if low > delta else 0.0
