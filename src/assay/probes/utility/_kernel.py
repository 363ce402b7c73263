"""Kernel calibration error: no bins, no bias, and a test of perfect calibration that errs at its level."""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from assay.stats import Draws, Estimate, rate
from assay.values import Array

BANDWIDTH = 0.1  # of the Gaussian kernel on stated probabilities; fixed, so that systems are comparable
NODES = 33  # its features: exact to 1e-8 at this bandwidth
SIMULATED = 10_000
ROWS = 1 << 16  # looked at together: memory must not grow with the rows
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
    num = int(scored.sum())
    if num < 2:
        reason = "fewer than two rows are scored"
        return [Estimate(None, None, None, METHOD, reason=reason, level=draws.level)] * (1 + stated.shape[1])
    blocks = np.array_split(np.flatnonzero(scored), -(-num // ROWS))

    @lru_cache(maxsize=1)  # a single block is not asked for twice
    def pulls(place: int) -> list[Array]:
        own, truth = stated[blocks[place]], happened[blocks[place]]
        each = [(truth[:, c] - own[:, c])[:, None] * features(own[:, c]) for c in range(own.shape[1])]
        return [np.concatenate(each, axis=1), *each] if len(each) > 1 else each * 2

    width = [pull.shape[1] for pull in pulls(0)]
    sums, grams = [np.zeros(one) for one in width], [np.zeros((one, one)) for one in width]
    for place in range(len(blocks)):
        for part, pull in enumerate(pulls(place)):
            sums[part] += pull.sum(axis=0)
            grams[part] += pull.T @ pull
    centres, points = [total / num for total in sums], []
    for centre, gram in zip(centres, grams, strict=True):
        norm, chance = float(np.linalg.norm(centre)), float(np.trace(gram)) / num
        value = float(np.sqrt(max(0.0, (num * norm**2 - chance) / (num - 1))))
        points.append((value, norm, _reach((gram - num * np.outer(centre, centre)) / (num - 1) / num, draws.level)))
    directions = np.zeros((len(stated), len(centres)))
    for place, block in enumerate(blocks):
        for part, (pull, centre) in enumerate(zip(pulls(place), centres, strict=True)):
            directions[block, part] = (pull - centre) @ (centre / max(float(np.linalg.norm(centre)), 1e-300))
    moved = draws.sums(directions)[1:] / num
    lost = draws.sums((~scored)[:, None].astype(np.float64))[:, 0]
    share = rate(lost, np.full(len(lost), float(len(scored))), level=draws.level)
    return [
        _estimate(point, np.maximum(0.0, point[0] + moved[:, column]), share) for column, point in enumerate(points)
    ]


def _estimate(point: tuple[float, float, float], replicates: Array, lost: Estimate) -> Estimate:
    """With the share of rows that are not scored, each a gap of 1; both widths are added as squares (MOVER).

    Where the scored rows may be without error, only those that are not scored say that there is any: their lower limit.
    (The value cannot be below 0, so it is too large on average there, and the squares took its excess for evidence.)
    """
    value, norm, reach = point
    failed, few, many = (float(one or 0.0) if lost.value else 0.0 for one in (lost.value, lost.low, lost.high))
    without = 0.0 if lost.replicates is None else lost.replicates
    rest, low, high = 1 - failed, min(value, max(0.0, norm - reach)), max(value, min(1.0, norm + reach))
    whole = failed + rest * value
    return Estimate(
        whole,
        whole - float(np.hypot(rest * (value - low), (1 - value) * (failed - few))) if low > 0 else few,
        min(1.0, whole + float(np.hypot(rest * (high - value), (1 - value) * (many - failed)))),
        METHOD,
        without + (1 - without) * replicates,
        "",
        lost.level,
    )


def _reach(covariance: Array, level: float) -> float:
    """The `level` quantile of the norm of a mean, a Gaussian with this covariance `(D, D)`."""
    spread = np.linalg.eigvalsh(covariance).clip(0)
    spread = spread[spread > 1e-9 * max(spread.max(), 1e-300)]
    return float(np.sqrt(np.quantile(_squares(len(spread)) @ spread.astype(np.float32), level)))


@lru_cache(maxsize=8)
def _squares(num: int) -> Array:
    """Squared standard normal numbers, the same for everything that is measured."""
    rng = np.random.Generator(np.random.Philox(2026))
    squares: Array = rng.standard_normal((SIMULATED, num), dtype=np.float32) ** 2
    return squares
