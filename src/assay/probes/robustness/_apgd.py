"""Auto-PGD: climbing an objective within a radius by steps that shrink when they stop paying."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assay.probes.robustness._scope import TINY, Objective, Scope
from assay.values import Array

MOMENTUM = 0.75  # Croce and Hein 2020, section 4: share of the new step; the rest repeats the last one
FIRST_STEP = 2.0  # of the radius
PROGRESS = 0.75  # halve the step when fewer of the steps than this raised the objective


def checkpoints(num_steps: int) -> frozenset[int]:
    """Steps after which the step size is reconsidered: after 22 % of the steps, then ever sooner, never under 6 %.

    >>> sorted(checkpoints(100))[:4]
    [22, 41, 57, 70]
    """
    marks = [0.0, 0.22]
    while marks[-1] < 1:
        marks.append(marks[-1] + max(marks[-1] - marks[-2] - 0.03, 0.06))
    return frozenset(int(np.ceil(round(mark * num_steps, 9))) for mark in marks[1:])


# ------------------------------------------------------------------ what is climbed


def cross_entropy(labels: Array) -> Objective:
    r"""$\log\sum_{k\ne y} e^{z_k} - z_y$ for labels `(M,)`: the cross-entropy is a rising function of it.

    Its gradient is that of the cross-entropy over $1 - p_y$, so a system sure of its answer does not round it to 0.
    """

    def objective(logits: Array, at: Array) -> tuple[Array, Array]:
        rows, own = np.arange(len(at)), labels[at]
        others = logits.astype(np.float64)
        mine = others[rows, own]
        others[rows, own] = -np.inf
        largest = others.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            weights = np.exp(others - largest)
            totals = weights.sum(axis=1, keepdims=True)
            weights /= totals
            values = largest[:, 0] + np.log(totals[:, 0]) - mine
        weights[rows, own] = -1.0
        return values, weights

    return objective


def towards(labels: Array, targets: Array) -> Objective:
    r"""The targeted DLR loss $(z_t - z_y)/(z_{(1)} - \frac12(z_{(3)}+z_{(4)}))$, labels and targets `(M,)`.

    With fewer than four classes the difference of logits alone. Source: Croce and Hein 2020, equation 8.
    """

    def objective(logits: Array, at: Array) -> tuple[Array, Array]:
        rows, own, other = np.arange(len(at)), labels[at], targets[at]
        logits = logits.astype(np.float64)
        gap = logits[rows, other] - logits[rows, own]
        weights = np.zeros_like(logits)
        if logits.shape[1] < 4:
            weights[rows, other] += 1.0
            weights[rows, own] -= 1.0
            return gap, weights
        order = np.argsort(logits, axis=1)
        first, third, fourth = order[:, -1], order[:, -3], order[:, -4]
        size = logits[rows, first] - (logits[rows, third] + logits[rows, fourth]) / 2 + TINY
        share = gap / size
        weights[rows, other] += 1.0
        weights[rows, own] -= 1.0
        for place, part in ((first, 1.0), (third, -0.5), (fourth, -0.5)):
            weights[rows, place] -= share * part
        return share, weights

    return objective


# ------------------------------------------------------------------ the climb


@dataclass(frozen=True)
class Climbed:
    """What a climb came to for each of its rows `(A,)`: broken or not, and its highest point."""

    broken: Array
    values: Array  # inf where broken
    points: Array  # (A, D)


def climb(
    scope: Scope, start: Array, active: Array, *, objective: Objective, num_steps: int, first_step: float = FIRST_STEP
) -> Climbed:
    """Climb from `start (A, D)` for the positions `active (A,)`; a row that breaks leaves the batch at once.

    `num_steps` + 1 passes, forward and backward, of each row that holds; the answer is read from the same pass.
    """
    marks = checkpoints(num_steps)
    values, points = np.full(len(active), -np.inf), np.array(start, dtype=np.float32)
    state = _State.at(np.arange(len(active)), points, first_step * scope.radius)
    for step in range(num_steps + 1):
        if not len(state.places):
            break
        found, slopes, _, wrong = scope.slopes(state.now, active[state.places], objective)
        state.note(found, slopes)
        if wrong.any():
            places = state.places[wrong]
            values[places], points[places] = np.inf, state.now[wrong]
            state = state.take(~wrong)
        if step in marks:
            state.reconsider()
        if step < num_steps:
            state.move(scope, active[state.places], 1.0 if step == 0 else MOMENTUM)
    values[state.places], points[state.places] = state.best_value, state.best
    return Climbed(np.isposinf(values), values, points)


@dataclass
class _State:
    """Where each row of the batch is and was, and its highest point with the gradient there."""

    places: Array  # (a,) of the rows that hold, in the climb
    now: Array  # (a, D)
    before: Array
    slope: Array
    best: Array
    best_slope: Array
    size: Array  # (a, 1) step
    numbers: Array  # (a, 4): best value, last value, best at the last checkpoint, rises since then
    halved: Array  # (a,) the step was halved at the last checkpoint
    steps: int = -1

    @classmethod
    def at(cls, places: Array, start: Array, size: float) -> _State:
        numbers = np.full((len(places), 4), -np.inf)
        numbers[:, 3] = 0
        sizes, halved = np.full((len(places), 1), size, dtype=np.float32), np.ones(len(places), dtype=bool)
        return cls(places, start.copy(), start, np.zeros_like(start), start.copy(), start, sizes, numbers, halved)

    @property
    def best_value(self) -> Array:
        return self.numbers[:, 0]

    def note(self, values: Array, slopes: Array) -> None:
        self.slope = slopes
        better = values > self.best_value
        if self.steps < 0:
            self.best_slope = slopes.copy()
            self.numbers[:, 2] = values
        else:
            self.numbers[:, 3] += values > self.numbers[:, 1]
        self.best[better], self.best_slope[better] = self.now[better], slopes[better]
        self.numbers[better, 0] = values[better]
        self.numbers[:, 1] = values
        self.steps += 1

    def move(self, scope: Scope, at: Array, share: float) -> None:
        stepped = scope.clip(self.now + self.size * scope.steepest(self.slope), at)
        mixed = self.now + share * (stepped - self.now) + (1 - share) * (self.now - self.before)
        self.before, self.now = self.now, scope.clip(mixed.astype(np.float32), at).astype(np.float32)

    def take(self, kept: Array) -> _State:
        parts = (self.places, self.now, self.before, self.slope, self.best, self.best_slope, self.size, self.numbers)
        places, now, before, slope, best, best_slope, size, numbers = (one[kept] for one in parts)
        return _State(places, now, before, slope, best, best_slope, size, numbers, self.halved[kept], self.steps)

    def reconsider(self) -> None:
        """Halve the step, and go back to the highest point, where the last steps brought too little."""
        stuck = ~self.halved & (self.best_value <= self.numbers[:, 2])
        halve = (self.numbers[:, 3] <= PROGRESS * self.steps) | stuck
        self.size[halve] /= 2
        self.now[halve], self.slope[halve] = self.best[halve], self.best_slope[halve]
        self.before = np.where(halve[:, None], self.now, self.before)
        self.halved = halve
        self.numbers[:, 2], self.numbers[:, 3] = self.best_value, 0
        self.steps = 0
