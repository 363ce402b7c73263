"""Where a search may go and what it may ask: rows in unit coordinates, under one norm and radius."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from assay.units.ranges import Ranges, box
from assay.values import Array, Groups

if TYPE_CHECKING:
    from assay.access.handles import Query

Norm = Literal["linf", "l2"]
# Logits (m, K) and their places (m,) in the batch to what is climbed (m,), and its derivative by the logits (m, K).
Objective = Callable[[Array, Array], tuple[Array, Array]]
TINY = 1e-12
BATCH = 8192  # rows that one call of the model takes


@dataclass(frozen=True)
class Scope:
    """M rows, and the steps from them, flattened to D coordinates: shares of a column's or pixel's plausible range.

    `low` and `high (M, D)` bound a step by radius, `floor` and `ceiling (M, D)` by what is plausible at all. What
    cannot move has width 0. Whole-number coordinates are rounded before anything is asked, always towards the row
    under L2, so that a point asked never lies outside the radius.
    """

    query: Query
    inputs: Array  # (M, ...) raw, float32
    labels: Array  # (M,)
    groups: Groups
    norm: Norm
    radius: float
    width: Array  # (D,) raw units of one unit
    low: Array  # (M, D) float32, at most 0
    high: Array  # at least 0
    floor: Array
    ceiling: Array
    whole: Array | None  # (D,) bool

    @classmethod
    def of(cls, query: Query, rows: Array, known: Ranges, *, norm: Norm, radius: float, rounded: bool) -> Scope:
        """The test rows `rows (M,)`; `rounded` whether whole numbers must stay whole."""
        inputs = np.ascontiguousarray(query.inputs[rows], dtype=np.float32)
        flat, size = inputs.reshape(len(rows), -1).astype(np.float64), int(np.prod(inputs.shape[1:]))
        known = known if rounded else Ranges(known.numeric, known.low, known.high, np.zeros_like(known.whole))
        with np.errstate(invalid="ignore"):
            width = known.high - known.low
        moves = known.numeric & np.isfinite(width) & (width > 0)
        width = np.where(moves, width, 0.0).reshape(size)
        scale = np.where(width > 0, width, 1.0)
        still = (width == 0) | ~np.isfinite(flat)

        def steps(values: Array) -> Array:
            with np.errstate(invalid="ignore"):
                found = (values.reshape(len(rows), size).astype(np.float64) - flat) / scale
            return np.where(still, 0.0, found).astype(np.float32)

        low, high = (steps(one) for one in box(inputs, known, radius))
        floor, ceiling = (steps(one) for one in box(inputs, known, 1.0))
        whole = known.whole.reshape(size) if known.whole.any() else None
        labels, groups = query.labels[rows], query.groups.take(rows)
        return cls(
            query, inputs, labels, groups, norm, radius, width.astype(np.float32), low, high, floor, ceiling, whole
        )

    @property
    def can_move(self) -> bool:
        """Whether any coordinate of any row can move."""
        return bool((self.high > self.low).any())

    def settle(self, steps: Array, at: Array) -> Array:
        """Steps `(A, D)` of the positions `at (A,)` as the system will meet them."""
        if self.whole is None:
            return steps
        raw = steps * self.width
        numbers = np.trunc(raw + np.sign(raw) * 1e-3) if self.norm == "l2" else np.round(raw)
        rounded = numbers / np.where(self.width > 0, self.width, 1)
        return np.where(self.whole, np.clip(rounded, self.low[at], self.high[at]), steps).astype(np.float32)

    def raw(self, steps: Array, at: Array) -> Array:
        """Rows after settled steps, as raw inputs `(A, ...)`; a row that did not move is exactly itself."""
        shape = (len(at), *self.inputs.shape[1:])
        found: Array = self.inputs[at]
        found += (steps * self.width).reshape(shape)
        # Whole numbers come out of the unit coordinates a rounding error off.
        return found if self.whole is None else np.where(self.whole.reshape(shape[1:]), np.round(found), found)

    def look(self, steps: Array, at: Array) -> tuple[Array, Array]:
        """Logits `(A, K)`, and whether the answer is wrong `(A,)`, also to a row asked alone."""
        raw = self.raw(self.settle(steps, at), at)
        logits = self.query.fresh_logits(raw, batch_size=BATCH)
        return logits, self._wrong(logits, raw, steps, at)

    def slopes(self, steps: Array, at: Array, objective: Objective) -> tuple[Array, Array, Array, Array]:
        """The objective `(A,)`, its gradient `(A, D)` by unit coordinates, logits, and whether the answer is wrong."""
        raw = self.raw(self.settle(steps, at), at)
        values = np.full(len(at), -np.inf)

        def cotangent(logits: Array, places: Array) -> Array:
            values[places], weights = objective(logits, places)
            return weights

        logits, gradients = self.query.logits_and_gradients(raw, cotangent)
        slopes = gradients.reshape(len(at), -1)
        slopes *= self.width
        values = np.where(np.isfinite(values), values, -np.inf)
        return values, slopes, logits, self._wrong(logits, raw, steps, at)

    def answers(self, logits: Array, raw: Array, at: Array) -> Array:
        """The system's answers `(A,)`, decision rule included; -1 = errored."""
        system = self.query.system
        return system.decision.decide(system.task.probabilities(logits), raw, self.groups.take(at))

    def _wrong(self, logits: Array, raw: Array, steps: Array, at: Array) -> Array:
        """Whether each answer `(A,)` is wrong; within the radius only if it still is when the row is asked alone.

        Sums are rounded otherwise in another batch: without this a row on the edge could break thanks to the others.
        """
        wrong: Array = self.answers(logits, raw, at) != self.labels[at]
        again = np.flatnonzero(wrong)
        again = again[self.within(steps[again], at[again])] if len(again) else again
        if len(again):
            alone, raw, at = self.query.fresh_logits(raw[again], batch_size=1), raw[again], at[again]
            wrong[again] = self.answers(alone, raw, at) != self.labels[at]
        return wrong

    def clip(self, steps: Array, at: Array) -> Array:
        """The nearest steps `(A, D)` within the radius (L2: the ball first, then the ranges, as in APGD)."""
        if self.norm == "l2":
            steps = steps * np.minimum(1.0, self.radius / (self.length(steps)[:, None] + TINY))
        return np.clip(steps, self.low[at], self.high[at])

    def steepest(self, gradients: Array) -> Array:
        """The direction of length 1 in which the objective rises fastest, `(A, D)`."""
        if self.norm == "linf":
            return np.sign(gradients)
        largest = np.abs(gradients).max(axis=1, keepdims=True)
        scaled = gradients / np.where(largest > 0, largest, 1)  # squares of small floats would be 0
        length = np.sqrt(np.einsum("ad,ad->a", scaled, scaled))[:, None]
        return scaled / np.where(length > 0, length, 1)

    def length(self, steps: Array) -> Array:
        """Of each step `(A, D)`, in this norm."""
        if self.norm == "linf":
            largest: Array = np.abs(steps).max(axis=1)
            return largest
        euclidean: Array = np.sqrt(np.einsum("ad,ad->a", steps, steps))
        return euclidean

    def within(self, steps: Array, at: Array) -> Array:
        """Whether settled steps `(A, D)` lie within the radius, to the precision of float32."""
        settled, slack = self.settle(steps, at), 1e-6
        beyond = np.maximum(settled - self.high[at], self.low[at] - settled).max(axis=1)
        is_near: Array = (beyond <= slack) & (self.length(settled) <= self.radius * (1 + slack) + slack)
        return is_near

    def random_start(self, rng: np.random.Generator, at: Array) -> Array:
        """A step `(A, D)` of length radius in a random direction from each of the positions `at (A,)`."""
        shape = (len(at), self.low.shape[1])
        if self.norm == "linf":
            drawn = rng.random(shape, dtype=np.float32) * 2 - 1
        else:
            drawn = rng.standard_normal(shape, dtype=np.float32)
        drawn[self.high[at] <= self.low[at]] = 0.0
        drawn *= (self.radius / (self.length(drawn) + TINY))[:, None].astype(np.float32)
        return self.clip(drawn, at)
