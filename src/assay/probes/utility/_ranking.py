"""What the ranking metrics share: each class against the rest, and an interval on the log-odds scale."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from scipy.stats import rankdata

from assay.stats import Estimate, statistic
from assay.values import Array, Task

MOST_CLASSES = 50  # beyond this only the mean is reported


def one_against_rest(labels: Array, probabilities: Array, task: Task) -> tuple[Array, Array, Array, Array]:
    """Classes, or labels of several, `(C,)`; which rows are theirs and how they rank `(N, C)`; which rows errored."""
    errored: Array = np.logical_not(np.isfinite(probabilities).all(axis=1))
    if task.label_names:
        belongs = labels == 1
        return np.arange(task.num_outputs), belongs, _ranked(belongs, probabilities, errored), errored
    wanted = np.arange(task.num_outputs) if task.positive_index is None else np.array([task.positive_index])
    belongs = np.equal(labels[:, None], wanted)
    return wanted, belongs, _ranked(belongs, probabilities[:, wanted], errored), errored


def _ranked(belongs: Array, probabilities: Array, errored: Array) -> Array:
    """An errored example ranks lowest among the rows of its class and highest among the others."""
    return np.where(errored[:, None], np.where(belongs, -1.0, 2.0), probabilities)


def area_estimate(
    area: float, changes: Array, num_pairs: int, *, level: float, method: str = "DeLong, log-odds scale"
) -> Estimate:
    """An area in (0, 1) with its first-order changes under the draws `(1 + B,)`."""
    if num_pairs == 0:
        return Estimate(None, None, None, method, reason="the class or the rest has no rows", level=level)
    if 0 < area < 1:
        scaled = statistic(logit(area) + changes / (area * (1 - area)), level=level)
        if scaled.low is None or scaled.high is None:
            reason = "no interval: every row is ranked alike"
            return Estimate(float(area), None, None, method, area + changes[1:], reason, level)
        low, high = float(expit(scaled.low)), float(expit(scaled.high))
        return Estimate(float(area), low, high, method, area + changes[1:], "", level)
    edge = ((1 - level) / 2) ** (1 / num_pairs)  # this many independent pairs all came out the same way
    low, high = (edge, 1.0) if area >= 1 else (0.0, 1 - edge)
    return Estimate(float(area), low, high, "exact, disjoint pairs", area + changes[1:], "", level)


def areas_under_roc(belongs: Array, values: Array) -> tuple[Array, Array]:
    """Areas `(K,)` and the first-order change `(N, K)` that one more of each row makes; NaN and 0 where undefined."""
    areas, influence = np.full(belongs.shape[1], np.nan), np.zeros(belongs.shape)
    for k, own in enumerate(belongs.T):
        if own.all() or not own.any():
            continue
        ranks = rankdata(values[:, k])
        above = np.empty(len(own))  # share of the other side that this row is ranked rightly against
        above[own] = (ranks[own] - rankdata(values[own, k])) / (~own).sum()
        above[~own] = 1 - (ranks[~own] - rankdata(values[~own, k])) / own.sum()
        areas[k] = above[own].mean()
        influence[:, k] = (above - areas[k]) / np.where(own, own.sum(), (~own).sum())
    return areas, influence
