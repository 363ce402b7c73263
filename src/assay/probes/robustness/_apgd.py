"""Auto-PGD: climbing an objective within a radius by steps that shrink when they stop paying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from assay.probes.robustness._scope import TINY, Scope
from assay.probes.robustness._seats import Seats
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


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    r"""$\log\sum_{k\ne y} e^{z_k} - z_y$ of logits `(A, K)`, and its derivative by them.

    The cross-entropy is a rising function of it. Its gradient is that of the cross-entropy over $1 - p_y$, so a system
    sure of its answer does not round it to 0.
    """
    rows, others = np.arange(len(labels)), logits.astype(np.float64)
    mine = others[rows, labels]
    others[rows, labels] = -np.inf
    largest = others.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        weights = np.exp(others - largest)
        totals = weights.sum(axis=1, keepdims=True)
        weights /= totals
        values = largest[:, 0] + np.log(totals[:, 0]) - mine
    weights[rows, labels] = -1.0
    return values, weights


def towards(logits: Array, labels: Array, targets: Array) -> tuple[Array, Array]:
    r"""The targeted DLR loss $(z_t - z_y)/(z_{(1)} - \frac12(z_{(3)}+z_{(4)}))$ of logits `(A, K)`, and its derivative.

    With fewer than four classes the difference of logits alone. Source: Croce and Hein 2020, equation 8.
    """
    rows, logits = np.arange(len(labels)), logits.astype(np.float64)
    gap = logits[rows, targets] - logits[rows, labels]
    weights = np.zeros_like(logits)
    weights[rows, targets] += 1.0
    weights[rows, labels] -= 1.0
    if logits.shape[1] < 4:
        return gap, weights
    order = np.argsort(logits, axis=1)
    first, third, fourth = order[:, -1], order[:, -3], order[:, -4]
    size = logits[rows, first] - (logits[rows, third] + logits[rows, fourth]) / 2 + TINY
    share = gap / size
    for place, part in ((first, 1.0), (third, -0.5), (fourth, -0.5)):
        weights[rows, place] -= share * part
    return share, weights


def either(logits: Array, labels: Array, targets: Array) -> tuple[Array, Array]:
    """`towards` the target of each row, or the `cross_entropy` where that is negative."""
    loss = targets < 0
    if loss.all():
        return cross_entropy(logits, labels)
    values, weights = towards(logits, labels, targets)
    if loss.any():
        values[loss], weights[loss] = cross_entropy(logits[loss], labels[loss])
    return values, weights


# ------------------------------------------------------------------ the climbs


@dataclass(frozen=True)
class Climbs:
    """J climbs to make: of the rows at positions `at (J,)`, towards the classes `targets (J,)` (-1: away from the
    label), each from the step that `start` gives for places `(n,)` among them: `(n, D)`.
    """

    at: Array
    targets: Array
    start: Callable[[Array], Array]


@dataclass(frozen=True)
class Climbed:
    """What each climb `(J,)` came to: whether it broke its row, and its highest point."""

    broken: Array
    values: Array  # inf where broken, -inf where it was never begun
    steps: Array  # (J, D)


def climb(scope: Scope, climbs: Climbs, *, num_steps: int, first_step: float = FIRST_STEP) -> Climbed:
    """Make the climbs in their order, as many at once as fill a batch: one that ends makes room for the next.

    `num_steps` + 1 passes, forward and backward, of each that does not break its row; the answer is read from the same
    pass. All climbs of a row end with the one that breaks it.
    """
    num, size = len(climbs.at), scope.low.shape[1]
    found = Climbed(np.zeros(num, dtype=bool), np.full(num, -np.inf), np.zeros((num, size), np.float32))
    at_mark = np.isin(np.arange(num_steps + 1), list(checkpoints(num_steps)))
    batch = _Batch(scope, climbs, first_step * scope.radius)
    while batch.fill():
        wrong = batch.look()
        batch.leave(batch.step == num_steps, wrong, found)
        batch.reconsider(at_mark)
        batch.move()
    return found


class _Batch:
    """Climbs under way: where each is and was, and its highest point."""

    def __init__(self, scope: Scope, climbs: Climbs, first_step: float) -> None:
        self.scope, self.climbs, self.first_step = scope, climbs, first_step
        self.seats = Seats(climbs.at, num_rows=len(scope.labels), num_places=scope.query.rows_a_batch)
        num, size = self.seats.num_places, scope.low.shape[1]
        now, before, spare, slope, best, best_slope, low, high = np.zeros((8, num, size), np.float32)
        self._now, self._before, self._spare, self._slope, self._best = now, before, spare, slope, best
        self._best_slope, self._low, self._high = best_slope, low, high
        self._steps = np.zeros((num, 2), dtype=np.int64)  # in all, and since the last checkpoint
        self._halved = np.zeros(num, dtype=bool)  # at the last checkpoint
        # Size of the step; best value, last value, best at the last checkpoint, rises since then.
        self._numbers = np.zeros((num, 5))

    @property
    def step(self) -> Array:
        """Steps made so far `(num,)`."""
        return self._steps[: self.seats.num, 0]

    def fill(self) -> int:
        """Begin as many climbs as there are places; how many are under way then."""
        new = self.seats.fill()
        num, at = self.seats.num, self.climbs.at[new]
        here = slice(num - len(new), num)
        if len(new):
            self._now[here] = self._before[here] = self._best[here] = self.climbs.start(new)
            self._low[here], self._high[here] = self.scope.low[at], self.scope.high[at]
            self._steps[here], self._halved[here] = -1, True
            self._numbers[here] = (self.first_step, -np.inf, -np.inf, -np.inf, 0)
        return num

    def look(self) -> Array:
        """One pass of all: values and slopes noted, answers `(num,)` wrong or not."""
        num, at = self.seats.num, self.seats.at
        labels, targets = self.scope.labels[at], self.climbs.targets[self.seats.seated]
        values, slopes, _, wrong = self.scope.slopes(
            self._now[:num], at, lambda logits, rows: either(logits, labels[rows], targets[rows])
        )
        self._slope[:num] = slopes
        _, best, last, marked, rises = self._numbers[:num].T
        began = self.step < 0
        better = np.flatnonzero((values > best) | began)
        marked[began] = values[began]
        rises += (values > last) & ~began
        self._best[better], self._best_slope[better] = self._now[better], slopes[better]
        best[better], last[:] = values[better], values
        self._steps[:num] += 1
        return wrong

    def leave(self, ended: Array, wrong: Array, found: Climbed) -> None:
        """Write down what climbs that end came to, and go on with the others."""
        num, seated = self.seats.num, self.seats.seated.copy()
        found.steps[seated[wrong]] = self._now[:num][wrong]
        found.values[seated[wrong]], found.broken[seated[wrong]] = np.inf, True
        done = ended & ~wrong
        found.steps[seated[done]], found.values[seated[done]] = self._best[:num][done], self._numbers[:num, 1][done]
        parts = (self._now, self._before, self._slope, self._best, self._best_slope, self._low, self._high)
        self.seats.leave(ended, wrong=wrong, arrays=[*parts, self._steps, self._halved, self._numbers])

    def reconsider(self, at_mark: Array) -> None:
        """At a checkpoint: halve the step, and go back to the highest point, where steps brought too little."""
        due = np.flatnonzero(at_mark[self.step])
        if not len(due):
            return
        _, best, _, marked, rises = self._numbers[due].T
        halve = (rises <= PROGRESS * self._steps[due, 1]) | (~self._halved[due] & (best <= marked))
        back = due[halve]
        self._numbers[back, 0] /= 2
        self._now[back] = self._before[back] = self._best[back]
        self._slope[back] = self._best_slope[back]
        self._halved[due], self._numbers[due, 3], self._numbers[due, 4], self._steps[due, 1] = halve, best, 0, 0

    def move(self) -> None:
        """A step up the slope, and a share of the last one again."""
        num, norm = self.seats.num, self.scope.norm
        now, before, spare, slope = (one[:num] for one in (self._now, self._before, self._spare, self._slope))
        size, share = self._numbers[:num, 0], np.where(self.step == 0, 1.0, MOMENTUM)
        if norm == "linf":
            np.sign(slope, out=spare)
        else:
            size = size / _lengths(slope)
            spare[:] = slope
        spare *= _column(size)
        spare += now
        self._clip(spare)
        # now + share (stepped - now) + (1 - share) (now - before), in place
        spare *= _column(share)
        before *= _column(share - 1)
        before += spare
        np.multiply(now, _column(2 - 2 * share), out=spare)
        before += spare
        self._clip(before)
        self._now, self._before = self._before, self._now

    def _clip(self, steps: Array) -> None:
        if self.scope.norm == "l2":
            steps *= _column(np.minimum(1.0, self.scope.radius / (np.sqrt(np.einsum("ad,ad->a", steps, steps)) + TINY)))
        np.clip(steps, self._low[: len(steps)], self._high[: len(steps)], out=steps)


def _column(numbers: Array) -> Array:
    return numbers.astype(np.float32)[:, None]


def _lengths(slopes: Array) -> Array:
    """Of gradients `(A, D)`, however small: squares of small floats would be 0. 1 where all are 0."""
    squares = np.einsum("ad,ad->a", slopes, slopes)
    lengths = np.sqrt(squares, dtype=np.float64)
    odd = np.flatnonzero((squares < 1e-30) | ~np.isfinite(squares))
    if len(odd):
        lengths[odd] = np.sqrt(np.square(slopes[odd], dtype=np.float64).sum(axis=1))
    return np.where(lengths > 0, lengths, 1.0)
