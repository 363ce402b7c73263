"""Search inside a box for an input that is answered wrongly: by gradient, and by luck as the baseline to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from assay.probes.robustness._apgd import MOMENTUM, PROGRESS, checkpoints
from assay.units.ranges import Ranges, settle
from assay.values import Array

Slopes = Callable[
    [Array, Array], tuple[Array, Array]
]  # (inputs (M, ...), positions (M,)) -> losses (M,), gradients (M, ...)
Wrong = Callable[[Array, Array], Array]  # (inputs (M, ...), positions (M,)) -> (M,) bool

FIRST_STEP = 0.25  # of the box's width: on tables, longer first steps jump over narrow bands of a skewed column


@dataclass(frozen=True)
class Box:
    """Where the search may go: `low` and `high (M, ...)` around each row, and what a column or pixel may hold."""

    low: Array
    high: Array
    known: Ranges

    def settle(self, points: Array, active: Array) -> Array:
        """Points of the active rows as the system will meet them."""
        return settle(points, self.low[active], self.high[active], self.known)


def follow_gradient(start: Array, box: Box, active: Array, *, num_steps: int, slopes: Slopes, wrong: Wrong) -> Array:
    """Positions `(W,)` of active rows that were found to break, by signed steps with momentum and a shrinking step.

    `start` is `(A, ...)` for the `active (A,)` positions. A row that breaks leaves the batch at once. Each step costs
    one gradient row and one query row for each row still in the batch.
    """
    marks = checkpoints(num_steps)
    width = (box.high - box.low)[active]
    state = _State.at(start.astype(np.float64), width)
    broken: list[Array] = []
    for step in range(1, num_steps + 1):
        if not len(active):
            break
        low, high = box.low[active], box.high[active]
        losses, gradients = slopes(state.now.astype(np.float32), active)
        state.note(losses)
        stepped = np.clip(state.now + state.size * np.sign(gradients), low, high)
        share = 1.0 if step == 1 else MOMENTUM
        moved = np.clip(state.now + share * (stepped - state.now) + (1 - share) * (state.now - state.before), low, high)
        state.move(moved)
        lost = wrong(box.settle(state.now, active), active)
        broken.append(active[lost])
        active, state = active[~lost], state.take(~lost)
        if step in marks:
            state.reconsider()
    return np.concatenate([*broken, active[:0]])


@dataclass
class _State:
    """Where each row of the batch is, where it was, and where its loss was highest."""

    now: Array
    before: Array
    size: Array  # (A, ...) step
    best: Array
    best_loss: Array  # (A,)
    last_loss: Array
    last_best: Array  # best loss at the last checkpoint
    rises: Array  # steps since the last checkpoint that raised the loss
    steps: int
    halved: Array  # (A,) bool: the step was halved at the last checkpoint

    @classmethod
    def at(cls, start: Array, width: Array) -> _State:
        least, none = np.full(len(start), -np.inf), np.zeros(len(start), dtype=bool)
        rises = np.zeros(len(start))
        return cls(start, start, FIRST_STEP * width, start, least, least, least, rises, 0, ~none)

    def note(self, losses: Array) -> None:
        losses = np.where(np.isfinite(losses), losses, -np.inf)
        better = losses > self.best_loss
        self.best = np.where(_wide(better, self.now), self.now, self.best)
        self.best_loss = np.maximum(losses, self.best_loss)
        self.rises = self.rises + (losses > self.last_loss)
        self.last_loss = losses
        self.steps += 1

    def move(self, moved: Array) -> None:
        self.before, self.now = self.now, moved

    def take(self, kept: Array) -> _State:
        now, before, size, best = (array[kept] for array in (self.now, self.before, self.size, self.best))
        best_loss, last_loss, last_best = (array[kept] for array in (self.best_loss, self.last_loss, self.last_best))
        rises, halved = self.rises[kept], self.halved[kept]
        return _State(now, before, size, best, best_loss, last_loss, last_best, rises, self.steps, halved)

    def reconsider(self) -> None:
        """Halve the step, and go back to the best point, where the last steps brought too little."""
        slow = self.rises < PROGRESS * self.steps
        stuck = ~self.halved & (self.best_loss <= self.last_best)
        halve = slow | stuck
        rows = _wide(halve, self.now)
        self.size = np.where(rows, self.size / 2, self.size)
        self.now = np.where(rows, self.best, self.now)
        self.before = np.where(rows, self.best, self.before)
        self.halved, self.last_best = halve, self.best_loss
        self.rises, self.steps = np.zeros(len(halve)), 0


def _wide(rows: Array, points: Array) -> Array:
    """One entry a row `(A,)`, to stand beside points `(A, ...)`."""
    return rows.reshape(-1, *[1] * (points.ndim - 1))


def try_at_random(box: Box, active: Array, *, num_tries: int, rng: np.random.Generator, wrong: Wrong) -> Array:
    """Positions `(W,)` that break at one of `num_tries` points: corners of the box and points inside it, in turn.

    Points are drawn for every row, broken or not, so that two systems meet the same points. One query row a try.
    """
    broken: list[Array] = []
    for attempt in range(num_tries):
        shares = rng.random(box.low.shape)
        shares = np.round(shares) if attempt % 2 == 0 else shares
        if not len(active):
            break
        points = (box.low + shares * (box.high - box.low))[active]
        lost = wrong(box.settle(points, active), active)
        broken.append(active[lost])
        active = active[~lost]
    return np.concatenate([*broken, active[:0]])
