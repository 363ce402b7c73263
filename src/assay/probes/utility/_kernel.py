"""Kernel calibration error: no bins, no bias, and a test of perfect calibration that errs at its level."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from assay.stats import Draws, Estimate
from assay.values import Array

BANDWIDTH = 0.1  # of the Gaussian kernel on stated probabilities; fixed, so that systems are comparable
NODES = 33  # its features: exact to 1e-8 at this bandwidth
SIMULATED = 10_000
METHOD = "norm of a Gaussian, simulated"


@cache
def _root() -> tuple[Array, Array]:
    """Nodes on [0, 1] and the matrix that turns kernel values at them into features (Nyström)."""
    nodes = np.linspace(0, 1, NODES)
    values, vectors = np.linalg.eigh(_kernel(nodes, nodes))
    kept = values > 1e-11 * values[-1]
    return nodes, vectors[:, kept] / np.sqrt(values[kept])


def _kernel(first: Array, second: Array) -> Array:
    shape: Array = np.exp(-((first[:, None] - second[None, :]) ** 2) / (2 * BANDWIDTH**2))
    return shape


def features(stated: Array) -> Array:
    """`(N, D)` whose inner products are the kernel of stated probabilities `(N,)`.

    >>> found = features(np.array([0.2, 0.3]))
    >>> round(float(found[0] @ found[1]), 5), round(float(np.exp(-0.5)), 5)
    (0.60653, 0.60653)
    """
    nodes, root = _root()
    found: Array = _kernel(stated, nodes) @ root
    return found


def kernel_errors(stated: Array, happened: Array, draws: Draws) -> list[Estimate]:
    """Of each column `(N, C)`, and of all together (first), over rows that are finite; the rest are gaps of 1.

    With r = happened - stated and features f of the stated: theta = mean of r f. Its squared norm, less what chance
    adds to it, is the unbiased estimate of the squared error. |theta - truth| is at most q with the chance asked
    for, q from the Gaussian limit of theta; so is the distance of their norms, which is the interval.
    """
    scored = np.asarray(np.isfinite(stated).all(axis=1))
    num, failed = int(scored.sum()), float((~scored).mean()) if len(scored) else 0.0
    if num < 2:
        reason = "fewer than two rows are scored"
        return [Estimate(None, None, None, METHOD, reason=reason, level=draws.level)] * (1 + stated.shape[1])
    pulls = [
        (happened[scored, c] - stated[scored, c])[:, None] * features(stated[scored, c]) for c in range(stated.shape[1])
    ]
    parts = [np.concatenate(pulls, axis=1), *pulls] if len(pulls) > 1 else pulls * 2
    directions, points = np.zeros((len(stated), len(parts))), []
    for column, pull in enumerate(parts):
        centre = pull.mean(axis=0)
        norm = float(np.linalg.norm(centre))
        chance = float((pull**2).sum(axis=1).mean())
        value = float(np.sqrt(max(0.0, (num * norm**2 - chance) / (num - 1))))
        points.append((value, norm, _reach(pull - centre, draws.level)))
        directions[scored, column] = (pull - centre) @ (centre / max(norm, 1e-300))
    moved = draws.sums(directions)[1:] / num
    return [
        _estimate(point, np.maximum(0.0, point[0] + moved[:, column]), failed, draws.level)
        for column, point in enumerate(points)
    ]


def _estimate(point: tuple[float, float, float], replicates: Array, failed: float, level: float) -> Estimate:
    value, norm, reach = point
    rest = 1 - failed
    low, high = max(0.0, norm - reach), min(1.0, norm + reach)
    return Estimate(
        failed + rest * value,
        failed + rest * min(value, low),
        failed + rest * max(value, high),
        METHOD,
        failed + rest * replicates,
        "",
        level,
    )


def _reach(deviations: Array, level: float) -> float:
    """The `level` quantile of the norm of their mean, `(n, D)`: of a Gaussian with their covariance."""
    num = len(deviations)
    spread = np.linalg.eigvalsh(deviations.T @ deviations / (num - 1) / num).clip(0)
    spread = spread[spread > 1e-9 * max(spread.max(), 1e-300)]
    return float(np.sqrt(np.quantile(_squares(len(spread)) @ spread.astype(np.float32), level)))


@lru_cache(maxsize=8)
def _squares(num: int) -> Array:
    """Squared standard normal numbers, the same for everything that is measured."""
    rng = np.random.Generator(np.random.Philox(2026))
    squares: Array = rng.standard_normal((SIMULATED, num), dtype=np.float32) ** 2
    return squares
