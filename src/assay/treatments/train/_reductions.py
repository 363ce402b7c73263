"""Fair classification as cost-sensitive ones in turn: a game between answers and multipliers of constraints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from assay.errors import Problem, TreatmentError
from assay.values import Array

Respond = Callable[[Array, Array], Array]  # (labels (N,) in {0, 1}, weights (N,)) -> which rows it selects (N,) bool
FIRST, LAST, GROWTH = 1.0, 100.0, 4.0  # bound on the sum of the multipliers: what a unit of excess costs
NOISE = 0.5  # of the standard error of the error rate: a game nearer to its end than this is over (fairlearn 0.15)
UNUSED = 1e-4  # a smaller weight is none


@dataclass(frozen=True)
class Constraints:
    r"""$|\mathrm E[h \mid g, e] - \mathrm E[h \mid e]| \le r / 2$ for each group g and event e: M differences of means.

    `matrix (M, N)` gives each difference as a sum over the rows that are selected; `limit` is r / 2.
    """

    matrix: Array
    limit: float


def constraints_of(events: Array, groups: Array, *, tolerance: float, min_num: int) -> Constraints:
    """Of codes `(N,)`, -1 in no event or group; a group with fewer than `min_num` rows of an event is left out of it.

    >>> constraints_of(np.zeros(4, int), np.array([0, 0, 1, 1]), tolerance=0.1, min_num=1).matrix.tolist()
    [[0.25, 0.25, -0.25, -0.25], [-0.25, -0.25, 0.25, 0.25]]
    """
    rows = []
    for event in np.unique(events[events >= 0]):
        members = [(events == event) & (groups == group) for group in np.unique(groups[groups >= 0])]
        kept = [member for member in members if member.sum() >= max(min_num, 1)]
        everyone = np.any(kept, axis=0) if len(kept) > 1 else np.zeros(len(events), dtype=bool)
        rows += [member / member.sum() - everyone / everyone.sum() for member in kept if len(kept) > 1]
    return Constraints(np.array(rows).reshape(len(rows), len(events)), tolerance / 2)


@dataclass(frozen=True)
class Solution:
    """Which answers to draw from, how often, and how near that is to the best there is."""

    weights: Array  # (K,) of the answers in the order they were given, sum 1
    error: float  # expected, on the rows
    excess: float  # of the worst difference over its limit; 0 where all hold
    gap: float  # how much less than the mixture's the value of the game may be
    is_solved: bool  # whether that is within the noise of the error rate


@dataclass(frozen=True)
class _Programme:
    weights: Array
    multipliers: Array  # (M,) signed
    value: float  # error + bound * excess
    excess: float


def solve(
    labels: Array, importance: Array, constraints: Constraints, *, respond: Respond, first: Array, num: int
) -> Solution:
    r"""The mixture Q of least error under the constraints, of `first (N,)` and at most `num` more answers.

    $\min_Q \max_{\|\lambda\|_1 \le B} \mathrm{err}(Q) + \sum_j \lambda_j\gamma_j(Q) - \frac r2\|\lambda\|_1$. Each turn
    solves this linear programme over the answers so far and asks for the best one against multipliers halfway between
    the programme's and those with the best lower bound yet. B starts small, and grows when the game is over and a
    constraint does not hold: huge multipliers ask for answers that nobody wants. Labels `(N,)` are 0 or 1,
    `importance (N,)` has mean 1.
    """
    truth, answers, bound = labels.astype(bool), [first], FIRST
    noise = NOISE * float(np.std(importance * (first != truth))) / np.sqrt(len(labels))
    centre, lower = np.zeros(len(constraints.matrix)), -np.inf
    while True:
        best = _programme(answers, truth, importance, constraints, bound)
        is_over = best.value - lower <= noise or len(answers) > num
        if is_over and best.excess > UNUSED and bound < LAST:
            bound = min(bound * GROWTH, LAST)
            continue
        if is_over:
            error, gap = float(best.weights @ _errors(answers, truth, importance)), float(best.value - lower)
            return Solution(best.weights, error, best.excess, gap, bool(gap <= noise))
        asked = (centre + best.multipliers) / 2
        gains = importance * (2.0 * truth - 1) / len(labels) - asked @ constraints.matrix  # of selecting a row
        answers.append(respond((gains > 0).astype(np.int64), np.abs(gains) * len(labels)))
        moments = np.stack([constraints.matrix @ answer for answer in answers])
        values = _errors(answers, truth, importance) + moments @ asked - constraints.limit * np.abs(asked).sum()
        if values.min() > lower:
            centre, lower = asked, float(values.min())


def _errors(answers: Sequence[Array], truth: Array, importance: Array) -> Array:
    return np.array([np.mean(importance * (answer != truth)) for answer in answers])


def _programme(
    answers: Sequence[Array], truth: Array, importance: Array, constraints: Constraints, bound: float
) -> _Programme:
    """Weights of the answers so far with the least error + bound * excess, and the multipliers that say why."""
    errors = _errors(answers, truth, importance)
    moments = np.stack([constraints.matrix @ answer for answer in answers], axis=1)  # (M, K)
    num, least = moments.shape
    sides = np.block([[moments, -np.ones((num, 1))], [-moments, -np.ones((num, 1))]])
    whole = np.append(np.ones(least), 0.0)[None]
    limits = np.full(2 * num, constraints.limit)
    solved = linprog(np.append(errors, bound), A_ub=sides, b_ub=limits, A_eq=whole, b_eq=[1.0], method="highs")
    if not solved.success:
        raise TreatmentError(Problem(f"the linear programme of exponentiated_gradient failed: {solved.message}"))
    duals = -np.asarray(solved.ineqlin.marginals)
    weights = np.where(solved.x[:least] > UNUSED, solved.x[:least], 0.0)
    return _Programme(weights / weights.sum(), duals[:num] - duals[num:], float(solved.fun), float(solved.x[least]))
