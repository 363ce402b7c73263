"""FAB: the nearest wrong answer, by projecting on where the system would be undecided if it were linear."""

from __future__ import annotations

import numpy as np

from assay.probes.robustness._scope import TINY, Objective, Scope
from assay.values import Array

LARGEST_PULL = 0.1  # Croce and Hein 2020, FAB, section 3: share of the step that starts from the row itself
OVERSHOOT = 1.05
BACK = 0.9  # from a wrong answer a step back towards the row


def nearest(points: Array, slopes: Array, need: Array, *, low: Array, high: Array, norm: str) -> Array:
    r"""The shortest steps d `(A, D)` with $w \cdot d = c$ and low <= p + d <= high; where there is none, the farthest.

    Each coordinate's share of $w \cdot d$ rises along with one number t until its room is used up: $|d_i| = \min(t,
    room_i)$ in L-infinity, $\min(t|w_i|, room_i)$ in L2. So c is reached at a t found by sorting where rooms end.
    `points`, slopes w, low and high `(A, D)`; need c `(A,)`. Source: Croce and Hein 2020, FAB, section 2.2.

    >>> zero, one = np.zeros((1, 2)), np.ones((1, 2))
    >>> nearest(zero, np.array([[2.0, -1.0]]), np.array([1.5]), low=-one, high=one, norm="linf").tolist()
    [[0.5, -0.5]]
    """
    wanted = slopes * np.where(need < 0, -1.0, 1.0)[:, None]
    sizes = np.abs(wanted)
    room = np.maximum(np.where(wanted > 0, high - points, points - low), 0)
    room = np.where(sizes > 0, room, 0)
    rate = sizes if norm == "linf" else np.square(sizes)  # how fast a coordinate's share of w.d rises with t
    ends = room if norm == "linf" else room / np.where(sizes > 0, sizes, 1)
    order = np.argsort(ends, axis=1)
    ends_sorted = np.take_along_axis(ends, order, axis=1)
    rates = np.take_along_axis(rate, order, axis=1).astype(np.float64)
    used = np.cumsum(np.take_along_axis(sizes * room, order, axis=1), axis=1, dtype=np.float64)
    left = rates.sum(axis=1, keepdims=True) - np.cumsum(rates, axis=1)  # rate of those whose room ends later
    reached = used + np.maximum(left, 0) * ends_sorted  # w.d when t is at the end of each room
    target = np.abs(need).astype(np.float64)
    place = (reached < target[:, None]).sum(axis=1)  # the first end at which c is reached
    beyond = place == points.shape[1]
    place = np.minimum(place, points.shape[1] - 1)
    rows = np.arange(len(points))
    before = np.where(place > 0, used[rows, place - 1], 0.0)
    speed = left[rows, place] + rates[rows, place]
    t = np.where(beyond, np.inf, (target - before) / np.maximum(speed, TINY))[:, None]
    with np.errstate(invalid="ignore"):
        reach = np.where(sizes > 0, t if norm == "linf" else t * sizes, 0.0)
    steps: Array = np.sign(wanted) * np.minimum(reach, room)
    return steps


def gap_to(labels: Array, targets: Array) -> Objective:
    """The logit of the target minus that of the label, `(M,)` each."""

    def objective(logits: Array, at: Array) -> tuple[Array, Array]:
        rows, weights = np.arange(len(at)), np.zeros(logits.shape)
        weights[rows, targets[at]] += 1.0
        weights[rows, labels[at]] -= 1.0
        return (logits * weights).sum(axis=1), weights

    return objective


def approach(scope: Scope, active: Array, *, targets: Array, num_steps: int) -> Array:
    """Which of the positions `active (A,)` break within the radius on the way to the class `targets (M,)`.

    One pass, forward and backward, a step. Where the answer is wrong but too far off, the search goes back towards the
    row and on from there with the gradient it has, which saves the second pass of the paper's algorithm 1.
    """
    objective = gap_to(scope.labels, targets)
    broken, places = np.zeros(len(active), dtype=bool), np.arange(len(active))
    now = scope.origin[active].copy()
    for step in range(num_steps + 1):
        if not len(places):
            break
        at = active[places]
        gaps, slopes, _, wrong = scope.slopes(now, at, objective)
        lost = wrong & scope.within(now, at)
        broken[places[lost]] = True
        places, at, now, gaps, slopes, wrong = (one[~lost] for one in (places, at, now, gaps, slopes, wrong))
        if step < num_steps and len(places):
            now = _step(scope, at, now, gaps=gaps, slopes=slopes, wrong=wrong)
    return broken


def _step(scope: Scope, at: Array, now: Array, *, gaps: Array, slopes: Array, wrong: Array) -> Array:
    """The next points `(A, D)`: from the present ones and from the rows themselves to the plane, and a mixture."""
    origin, low, high = scope.origin[at], scope.floor[at], scope.ceiling[at]
    gaps = np.where(np.isfinite(gaps), gaps, 0.0)
    plane = np.einsum("ad,ad->a", slopes, now) - gaps  # w.x = plane is where the two logits would be equal
    now = np.where(wrong[:, None], origin + BACK * (now - origin), now)
    steps = []
    for points in (now, origin):
        need = plane - np.einsum("ad,ad->a", slopes, points)
        steps.append(nearest(points, slopes, need, low=low, high=high, norm=scope.norm))
    lengths = [np.maximum(scope.length(one), 1e-8) for one in steps]
    pull = np.minimum(lengths[0] / (lengths[0] + lengths[1]), LARGEST_PULL)[:, None]
    mixed = (1 - pull) * (now + OVERSHOOT * steps[0]) + pull * (origin + OVERSHOOT * steps[1])
    clipped: Array = np.clip(mixed, low, high).astype(np.float32)
    return clipped
