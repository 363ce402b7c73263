"""Rates of many groups, each allowed to learn from the others: a normal model of log odds with main effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit, logit

from assay.values import Array

SPREADS = np.array([0.03, 0.12, 0.25, 0.45, 0.7, 1.1, 1.7, 2.6])  # of main effects, and of what they leave over
MEAN_SPREAD = 3.0  # of the common log odds: 95 % between 0.3 % and 99.7 %
STEPS = 12  # of Newton
NUM_POINTS, REACH = 241, 9.0  # of the grid of one group's log odds: so many standard deviations to each side
LEAST_WEIGHT, LEAST_VARIANCE = 1e-5, 1e-9


@dataclass(frozen=True)
class Borrowed:
    """Posterior mean and limits of the rate of each group `(G,)`, and how the mean moves with the rates `(G, G)`."""

    means: Array
    lows: Array
    highs: Array
    moves: Array  # d mean[g] / d rate[h]


def borrow(hits: Array, totals: Array, members: Sequence[Sequence[int]], *, level: float) -> Borrowed:
    """Rates from `hits (G,)` of `totals (G,)`; `members[g]` says which value of each column makes up group g.

    log odds of group g = m + sum_c a[c, g's value of c] + u[g]; a ~ N(0, s^2), u ~ N(0, t^2), with s and t averaged
    over a grid by their evidence under half-normal priors of scale 2. What the other groups say of g is normal, by the
    Laplace approximation with g left out; g's own rows enter by their exact binomial likelihood, on a grid.
    """
    kernels = _kernels(np.array(members))
    modes, precisions = _modes(hits, totals, kernels)
    weights = _evidence(hits, totals, kernels, modes, precisions)
    used = np.flatnonzero(weights >= LEAST_WEIGHT)
    told = _told(kernels[used], modes[used], precisions[used], (hits, totals))
    shares = weights[used] / weights[used].sum()
    points = _points(modes[used], told.after, shares)
    own = hits[:, None] * log_expit(points) + (totals - hits)[:, None] * log_expit(-points)
    # The own rows count once under each kernel, and once in its share. In place: a new megabyte costs more than a sum.
    part = points - told.centre[:, :, None]
    part *= part
    part /= -2 * told.spread[:, :, None]
    part += own
    part -= part.max(axis=2, keepdims=True)
    np.exp(part, out=part)
    sums = part.sum(axis=2, keepdims=True)
    part *= shares[:, None, None]
    part /= sums
    posterior = part.sum(axis=0)
    below = np.cumsum(posterior, axis=1) - posterior / 2
    means = (posterior * expit(points)).sum(axis=1)
    low, high = (
        expit(np.array([np.interp(at, row, place) for row, place in zip(below, points, strict=True)]))
        for at in ((1 - level) / 2, (1 + level) / 2)
    )
    gains: Array = np.tensordot(shares, told.gain, axes=1)
    return Borrowed(means, np.minimum(low, means), np.maximum(high, means), (means * (1 - means))[:, None] * gains)


def _points(modes: Array, variances: Array, shares: Array) -> Array:
    """Log odds `(G, P)` that span what is possible for each group, from modes and variances `(S, G)`."""
    centre = shares @ modes
    spread = np.sqrt(shares @ (variances + (modes - centre) ** 2))
    points: Array = centre[:, None] + spread[:, None] * np.linspace(-REACH, REACH, NUM_POINTS)
    return points


def _kernels(members: Array) -> Array:
    """Prior covariances of the log odds `(S, G, G)`, from `members (G, C)`.

    Of one column, main effects and what they leave over are the same thing.
    """
    num, num_columns = members.shape
    own, common, variances = np.eye(num), np.full((num, num), MEAN_SPREAD**2), SPREADS[:, None, None] ** 2
    if num_columns == 1:
        return np.asarray(common + variances * own)
    shared: Array = (members[:, None, :] == members[None, :, :]).sum(axis=2)
    return np.asarray((common + variances * shared)[:, None] + variances * own).reshape(-1, num, num)


def _modes(hits: Array, totals: Array, kernels: Array) -> tuple[Array, Array]:
    """Most likely log odds under each kernel, and the curvature of the likelihood there, `(S, G)` each."""
    start = np.clip(logit((hits.sum() + 0.5) / (totals.sum() + 1)), -6, 6)
    modes = np.full(kernels.shape[:2], start)
    eye = np.eye(len(hits))
    for _ in range(STEPS):
        rates = expit(modes)
        curvature = np.maximum(totals * rates * (1 - rates), 1e-9)
        root = np.sqrt(curvature)
        target = curvature * modes + hits - totals * rates
        inner = eye + root[:, :, None] * kernels * root[:, None, :]
        solved = np.linalg.solve(inner, root[:, :, None] * (kernels @ target[:, :, None]))[:, :, 0]
        step = (kernels @ (target - root * solved)[:, :, None])[:, :, 0] - modes
        modes = modes + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-6:
            break
    rates = expit(modes)
    return modes, np.maximum(totals * rates * (1 - rates), 1e-9)


def _evidence(hits: Array, totals: Array, kernels: Array, modes: Array, precisions: Array) -> Array:
    """Weight of each kernel `(S,)`: Laplace's evidence times the prior of its spreads (Rasmussen, Williams 3.32)."""
    root = np.sqrt(precisions)
    inner = np.eye(len(hits)) + root[:, :, None] * kernels * root[:, None, :]
    likelihood = (hits * log_expit(modes) + (totals - hits) * log_expit(-modes)).sum(axis=1)
    gradient = hits - totals * expit(modes)  # at the mode it is kernel^-1 mode
    fit = likelihood - 0.5 * (modes * gradient).sum(axis=1) - 0.5 * np.linalg.slogdet(inner)[1]
    cells = np.gradient(SPREADS) * np.exp(-(SPREADS**2) / 8)
    prior = np.log(cells) if len(kernels) == len(SPREADS) else np.add.outer(np.log(cells), np.log(cells)).ravel()
    weights = np.exp(fit + prior - (fit + prior).max())
    shares: Array = weights / weights.sum()
    return shares


@dataclass(frozen=True)
class _Told:
    """Under each kernel: what the others say of a group, its variance after its own rows, and the gain by rates."""

    centre: Array  # (S, G)
    spread: Array  # (S, G) variance
    after: Array  # (S, G) variance
    gain: Array  # (S, G, G)


def _told(kernels: Array, modes: Array, precisions: Array, counts: tuple[Array, Array]) -> _Told:
    """Each group left out in turn, in closed form (Rasmussen and Williams 5.12), under kernels `(S, G, G)`."""
    hits, totals = counts
    seen, eye = modes + (hits - totals * expit(modes)) / precisions, np.eye(len(hits))
    inverse = np.linalg.inv(kernels + eye * (1 / precisions)[:, None, :])
    alone, smooth = np.diagonal(inverse, axis1=1, axis2=2), kernels @ inverse
    spread = np.maximum(1 / alone - 1 / precisions, LEAST_VARIANCE)
    after = np.maximum(np.diagonal(kernels, axis1=1, axis2=2) - (smooth * kernels).sum(axis=2), LEAST_VARIANCE)
    centre = seen - (inverse @ seen[:, :, None])[:, :, 0] / alone
    return _Told(centre, spread, after, smooth * (totals / precisions)[:, None, :])
