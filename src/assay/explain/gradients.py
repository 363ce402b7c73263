"""Explanations from gradients: integrated gradients, GradientSHAP and input x gradient are one sum over points.

Each is the mean over points on lines from a start b to the row x of (x - b) times the gradient at the point; they
differ in the starts, the places on the line and their weights. All rows and points go through the model in large
batches, and what comes back is summed at once, so memory does not grow with the number of points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from assay.units import Ground
from assay.values import Array, Task

# Logits `(m, K)` and the rows `(m,)` they belong to, to what each logit is weighted by `(m, K)`.
Objective = Callable[[Array, Array], Array]
# Points `(M, ...)`, the row of each `(M,)` and the objective, to logits `(M, K)` and gradients `(M, ...)`.
Pull = Callable[[Array, Array, Objective], tuple[Array, Array]]
Rule = Literal["gauss", "middle", "right"]
CHUNK = 1 << 22  # numbers in one batch of points: 16 MiB


@dataclass(frozen=True)
class Points:
    """S points for each row: `starts` broadcasts to `(R, S, ...)`, `places` to `(R, S)`; `weights (S,)` sum to 1."""

    starts: Array
    places: Array
    weights: Array


def rule_of(num_steps: int, rule: Rule = "gauss") -> tuple[Array, Array]:
    """Places in [0, 1] and weights of a rule of integration, `(S,)` each.

    "gauss" is Gauss-Legendre, exact for polynomials of degree 2S - 1; "middle" and "right" are Riemann sums.

    >>> places, weights = rule_of(2)
    >>> places.round(4).tolist(), weights.tolist()
    ([0.2113, 0.7887], [0.5, 0.5])
    """
    if rule == "gauss":
        nodes, weights = _gauss(num_steps)
        return (nodes + 1) / 2, weights / 2
    shift = 0.5 if rule == "middle" else 1.0
    return (np.arange(num_steps) + shift) / num_steps, np.full(num_steps, 1 / num_steps)


@cache  # half a millisecond, as long as a small model takes at all of them
def _gauss(num_steps: int) -> tuple[Array, Array]:
    found: tuple[Array, Array] = np.polynomial.legendre.leggauss(num_steps)
    return found


def integrated_gradients(
    pull: Pull, rows: Array, starts: Array, objective: Objective, *, num_steps: int = 50, rule: Rule = "gauss"
) -> Array:
    r"""Integrated gradients $(x - b) \int_0^1 \nabla f(b + a (x - b)) da$ of rows `(R, ...)`, `(R, ...)`.

    Shapes: `starts` b `(R, ...)` or `(1, ...)`. Direction: the sum over a row is f(x) - f(b) up to the rule's error.
    Limits: points between b and x may be impossible inputs; another b is another explanation.
    Source: Sundararajan, Taly and Yan 2017, section 3; Gauss-Legendre as captum's default.

    >>> def pull(points, owner, objective):
    ...     return points.sum(axis=1, keepdims=True) ** 2, 2 * points.sum(axis=1, keepdims=True) * np.ones_like(points)
    >>> integrated_gradients(pull, np.array([[1.0, 3.0]]), np.zeros((1, 2)), lambda f, _: f, num_steps=2).round(6)
    array([[ 4., 12.]])
    """
    places, weights = rule_of(num_steps, rule)
    return along(pull, rows, Points(starts[:, None], places[None], weights), objective)


@dataclass(frozen=True)
class Inside:
    """A model entered behind a first part that is affine: a line through inputs is a line there, too.

    `enter` takes rows `(R, ...)` there, `back(rows, gradients)` takes gradients there back to the rows, and `pull` is
    the rest of the model.
    """

    enter: Callable[[Array], Array]
    back: Callable[[Array, Array], Array]
    pull: Pull


def integrated_inside(
    inside: Inside, rows: Array, starts: Array, objective: Objective, *, num_steps: int = 50, rule: Rule = "gauss"
) -> Array:
    r"""`integrated_gradients` with the first part run once a row each way instead of once a point.

    With h its affine map and $f = g \circ h$, the points h(b) + a (h(x) - h(b)) are those of the line, and
    $\int \nabla f = J_h^T \int \nabla g$. Limits: rounding differs, so where a point lies within rounding of a kink (a
    ReLU at 0) its gradient may be the other side's, as it may in any other order of the same sums.
    """
    places, weights = rule_of(num_steps, rule)
    points = Points(inside.enter(starts)[:, None], places[None], weights)
    there = inside.enter(rows)
    mean = np.empty(there.shape, dtype=np.float64)
    for part, _, gradients in _at_points(inside.pull, there, points, objective):
        mean[part] = np.einsum("s,rs...->r...", weights, gradients, dtype=np.float64)
    return np.asarray((rows.astype(np.float64) - starts) * inside.back(rows, mean))


def gradient_shap(
    pull: Pull, rows: Array, starts: Array, objective: Objective, *, num_points: int, rng: np.random.Generator
) -> Array:
    """GradientSHAP: the mean over `num_points` random starts out of `(B, ...)` and random places on the line.

    `starts` is `(R, B, ...)` where each row has its own. Estimates the mean of integrated gradients over starts; each
    point is unbiased for it. Limits: its error falls with the root of the number of points only. Source: Erion et al.
    2021, section 2.2 (expected gradients).
    """
    chosen = rng.integers(starts.shape[starts.ndim - rows.ndim], size=(len(rows), num_points))
    places = rng.random((len(rows), num_points))
    drawn = starts[chosen] if starts.ndim == rows.ndim else starts[np.arange(len(rows))[:, None], chosen]
    return along(pull, rows, Points(drawn, places, np.full(num_points, 1 / num_points)), objective)


def input_times_gradient(pull: Pull, rows: Array, starts: Array, objective: Objective) -> Array:
    """(x - b) times the gradient at x, `(R, ...)`: what integrated gradients would be if f were linear from b to x.

    Source: Shrikumar et al. 2016, section 2 (with b = 0).
    """
    return along(pull, rows, Points(starts[:, None], np.ones((1, 1)), np.ones(1)), objective)


def along(pull: Pull, rows: Array, points: Points, objective: Objective) -> Array:
    """Sum over points of weight times (x - start) times the gradient there, `(R, ...)` float64.

    A number that is missing in a row stays missing at every point, and has attribution 0.
    """
    found = np.empty(rows.shape, dtype=np.float64)
    for part, gap, gradients in _at_points(pull, rows, points, objective):
        np.nan_to_num(gap, copy=False, nan=0.0)
        if gap.shape[1] == 1:  # one start a row: sum the gradients first
            found[part] = gap[:, 0] * np.einsum("s,rs...->r...", points.weights, gradients, dtype=np.float64)
        else:
            found[part] = np.einsum("s,rs...->r...", points.weights, gap * gradients, dtype=np.float64)
    return found


def _at_points(pull: Pull, rows: Array, points: Points, objective: Objective) -> Iterator[tuple[slice, Array, Array]]:
    """Some rows after the other: which, row less start `(r, 1 or S, ...)`, gradients at the points `(r, S, ...)`."""
    num_rows, num_points = len(rows), len(points.weights)
    extra = (1,) * (rows.ndim - 1)
    step = max(1, CHUNK // max(1, num_points * rows[:1].size))
    for start in range(0, num_rows, step):
        part = slice(start, min(start + step, num_rows))
        row = rows[part, None].astype(np.float32)
        base = (points.starts if len(points.starts) == 1 else points.starts[part]).astype(np.float32)
        places = points.places if len(points.places) == 1 else points.places[part]
        gap = row - base
        at = base + places.reshape(*places.shape, *extra).astype(np.float32) * gap
        owner = np.repeat(np.arange(part.start, part.stop), num_points)
        _, gradients = pull(at.reshape(-1, *rows.shape[1:]), owner, objective)
        yield part, gap, gradients.reshape(at.shape)


def occlusion(
    function: Callable[[Array], Array], rows: Array, ground: Ground, baseline: Array, *, target: Array
) -> Array:
    """How much the output falls when one unit alone is replaced: f(x) - f(x with unit i of the baseline), `(R, U)`.

    Shapes: rows `(R, ...)`, baseline `(...)`, target `(R,)` output columns; R (U + 1) model rows.
    Limits: units that stand in for each other all read low. Source: Zeiler and Fergus 2014, section 4.2.
    """
    num_units = ground.count
    own = np.broadcast_to(~np.eye(num_units, dtype=bool), (len(rows), 1, num_units, num_units))
    mixed = ground.units.mix(rows, own, np.broadcast_to(baseline, (len(rows), 1, *baseline.shape)))
    without = function(mixed).reshape(len(rows), num_units, -1)
    full = function(rows)[np.arange(len(rows)), target]
    found: Array = full[:, None].astype(np.float64) - np.take_along_axis(without, target[:, None, None], axis=2)[..., 0]
    return found


def of_output(task: Task, target: Array) -> Objective:
    """The objective "the explained output of each row": the probability of class `target (R,)`, or the value.

    Its derivative by the logits is p_t (1[k = t] - p_k).
    """

    def objective(logits: Array, rows: Array) -> Array:
        chosen = np.arange(logits.shape[1]) == target[rows, None]
        if not task.classes:
            return np.asarray(chosen, dtype=np.float32)
        probabilities = task.probabilities(logits)
        own = np.take_along_axis(probabilities, target[rows, None], axis=1)
        return np.asarray(own * (chosen - probabilities), dtype=np.float32)

    return objective


def of_logit(target: Array) -> Objective:
    """The objective "the logit of class `target (R,)`", as captum explains it."""

    def objective(logits: Array, rows: Array) -> Array:
        return np.asarray(np.arange(logits.shape[1]) == target[rows, None], dtype=np.float32)

    return objective
