"""Least cost under relaxed equalized odds: one linear programme over the groups' ROC hulls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from assay.errors import Problem, TreatmentError
from assay.tasks.group_thresholds import ALWAYS, NEVER
from assay.values import Array

EDGE = 1e-7  # rates closer than this are the same rate: the solver's own tolerance


@dataclass(frozen=True)
class Hull:
    """Upper concave hull of one group's ROC: vertices from (0, 0), never select, to (1, 1), always select."""

    false_positive_rates: Array  # (V,) rising
    true_positive_rates: Array  # (V,) rising
    thresholds: Array  # (V,) falling; selected when probability >= threshold
    num_negative: int
    num_positive: int


def roc_hull(probabilities: Array, labels: Array) -> Hull:
    """Hull of all thresholds of probabilities `(N,)` for labels `(N,)` in {0, 1}; O(N log N).

    Thresholds lie halfway between neighbouring probabilities, so that the last bit of a float changes no answer.
    """
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)  # last row of each run of equal ones
    positives = np.cumsum(labels[order].astype(np.float64))[last]
    negatives = last + 1 - positives
    between = (falling[last[:-1]] + falling[last[:-1] + 1]) / 2
    num_positive, num_negative = int(positives[-1]), int(negatives[-1])
    x = np.concatenate([[0.0], negatives])
    y = np.concatenate([[0.0], positives])
    thresholds = np.concatenate([[NEVER], between, [ALWAYS]])
    keep = _concave(x, y)
    return Hull(
        x[keep] / max(num_negative, 1), y[keep] / max(num_positive, 1), thresholds[keep], num_negative, num_positive
    )


def _concave(x: Array, y: Array) -> Array:
    """Positions of the upper hull's vertices of points sorted by x, then y. Whole counts: exact, no tolerance."""
    # A vertex is reached by a rise and left sideways: corners only, which leaves few points for the loop.
    corner = np.flatnonzero((np.diff(y)[:-1] > 0) & (np.diff(x)[1:] > 0)) + 1
    corner = np.concatenate([[0], corner, [len(x) - 1]])
    kept: list[int] = []
    for at in corner.tolist():
        while len(kept) >= 2:
            first, middle = kept[-2], kept[-1]
            turn = (x[middle] - x[first]) * (y[at] - y[first]) - (y[middle] - y[first]) * (x[at] - x[first])
            if turn < 0:
                break
            kept.pop()
        kept.append(at)
    return np.array(kept)


def least_cost_rates(hulls: list[Hull], *, costs: Array, tolerance: float) -> Array:
    r"""Rates `(G, 2)`, columns false and true positive rate, one point per group.

    Minimises $\sum_g c_{g0} f_g - c_{g1} t_g$, `costs (G, 2)`, with each point inside its hull and above the diagonal,
    and $\max_g f_g - \min_g f_g \le r$, $\max_g t_g - \min_g t_g \le r$. Variables: f, t and the two minima; the
    programme has one row per hull edge, not one per row of data. Raises TreatmentError when the solver gives up.
    """
    num = len(hulls)
    rows, limits = [], []
    for g, hull in enumerate(hulls):
        x, y = hull.false_positive_rates, hull.true_positive_rates
        for run, rise, x0, y0 in zip(np.diff(x), np.diff(y), x[:-1], y[:-1], strict=True):
            row = np.zeros(2 * num + 2)  # below the edge: run * (t - y0) <= rise * (f - x0)
            row[2 * g], row[2 * g + 1] = -rise, run
            rows.append(row)
            limits.append(run * y0 - rise * x0)
        row = np.zeros(2 * num + 2)  # above the diagonal: worse than a coin is never needed
        row[2 * g], row[2 * g + 1] = 1, -1
        rows.append(row)
        limits.append(0.0)
        for rate in (0, 1):
            row = np.zeros(2 * num + 2)
            row[2 * g + rate], row[2 * num + rate] = 1, -1
            rows += [row, -row]
            limits += [tolerance, 0.0]
    objective = np.zeros(2 * num + 2)
    objective[0 : 2 * num : 2], objective[1 : 2 * num : 2] = costs[:, 0], -costs[:, 1]
    solved = linprog(objective, A_ub=np.array(rows), b_ub=np.array(limits), bounds=(0, 1), method="highs")
    if not solved.success:
        raise TreatmentError(Problem(f"the linear programme of group thresholds failed: {solved.message}"))
    return np.asarray(solved.x[: 2 * num]).reshape(num, 2)


def mixture_at(hull: Hull, rates: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most three thresholds and weights whose mean rates are `rates (2,)`: false, true positive rate.

    Of all pairs of vertices whose piece of hull contains the point, the closest two (by rows that lie between their
    thresholds) bound the lottery, so that as few people as possible meet chance.
    """
    x, y = hull.false_positive_rates, hull.true_positive_rates
    f, t = float(np.clip(rates[0], 0, 1)), float(np.clip(rates[1], 0, 1))
    selected = x * hull.num_negative + y * hull.num_positive
    ahead = (x[None, :] - x[:, None]) * (t - y[:, None]) - (y[None, :] - y[:, None]) * (f - x[:, None])
    inside = (ahead >= -EDGE) & (x[:, None] <= f + EDGE) & (y[:, None] <= t + EDGE)
    inside &= (x[None, :] >= f - EDGE) & (y[None, :] >= t - EDGE)
    span = np.where(np.triu(inside), selected[None, :] - selected[:, None], np.inf)
    unreachable = Problem(
        f"no mixture of thresholds reaches the rates {f:.4f} and {t:.4f}", "between diagonal and hull"
    )
    if not np.isfinite(span).any():
        raise TreatmentError(unreachable)
    first, last = np.unravel_index(int(np.argmin(span)), span.shape)
    if first == last:
        return (float(hull.thresholds[first]),), (1.0,)
    edges = np.arange(first, last)
    corners = np.stack([x, y], axis=1)
    best: tuple[float, Array, list[int]] = (np.inf, np.zeros(0), [])
    for edge in edges.tolist():  # the triangle (first, edge, edge + 1) of the fan that holds the point
        picked = sorted({int(first), edge, edge + 1})
        system = np.vstack([corners[picked].T, np.ones(len(picked))])
        weights = np.linalg.lstsq(system, np.array([f, t, 1.0]), rcond=None)[0]
        miss = float(np.abs(system @ weights - [f, t, 1.0]).max() + np.maximum(-weights, 0).max())
        if miss < best[0]:
            best = (miss, weights, picked)
    if best[0] > 100 * EDGE:
        raise TreatmentError(unreachable)
    weights = np.where(best[1] > EDGE, best[1], 0.0)
    weights /= weights.sum()
    used = [k for k in range(len(weights)) if weights[k] > 0]
    return tuple(float(hull.thresholds[best[2][k]]) for k in used), tuple(float(weights[k]) for k in used)
