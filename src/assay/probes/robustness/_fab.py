"""FAB: the nearest wrong answer, by projecting on where the system would be undecided if it were linear."""

from __future__ import annotations

import numpy as np

from assay.probes.robustness._scope import Objective, Scope
from assay.probes.robustness._seats import Seats
from assay.values import Array

LARGEST_PULL = 0.1  # Croce and Hein 2020, FAB, section 3: share of the step that starts from the row itself
OVERSHOOT = 1.05
BACK = 0.9  # from a wrong answer a step back towards the row
MOST_ROUNDS = 100  # of Newton's method; a handful is usual
CLOSE = 1e-7


def nearest(points: Array, slopes: Array, need: Array, *, low: Array, high: Array, norm: str) -> Array:
    r"""The shortest steps d `(A, D)` with $w \cdot d = c$ and low <= p + d <= high; where there is none, the farthest.

    Each coordinate's share of $w \cdot d$ rises along with one number t until its room is used up: $|d_i| = \min(t,
    room_i)$ in L-infinity, $\min(t|w_i|, room_i)$ in L2. $w \cdot d$ is then concave and piecewise linear in t: from
    t = 0 Newton's method rises to the piece in which c is reached, and there it is exact.
    `points`, slopes w, low and high `(A, D)`; need c `(A,)`. Source: Croce and Hein 2020, FAB, section 2.2.

    >>> zero, one = np.zeros((1, 2)), np.ones((1, 2))
    >>> nearest(zero, np.array([[2.0, -1.0]]), np.array([1.5]), low=-one, high=one, norm="linf").tolist()
    [[0.5, -0.5]]
    """
    wanted = slopes * np.where(need < 0, -1, 1).astype(slopes.dtype)[:, None]
    sizes = np.abs(wanted)
    room = np.where(wanted > 0, high - points, points - low)
    np.maximum(room, 0, out=room)
    pace = np.sign(sizes) if norm == "linf" else sizes  # of a coordinate as t rises
    rate = sizes * pace  # of its share of w.d
    t, target = np.zeros(len(points)), np.abs(need).astype(np.float64)
    reach, free = np.zeros_like(sizes), room > 0
    for _ in range(MOST_ROUNDS):
        missing = target - np.einsum("ad,ad->a", reach, sizes)
        speed = np.einsum("ad,ad->a", rate, free)
        open_ = (missing > CLOSE * target) & (speed > 0)
        if not open_.any():
            break
        t[open_] += missing[open_] / speed[open_]
        np.multiply(pace, t.astype(sizes.dtype)[:, None], out=reach)
        np.less(reach, room, out=free)
        np.minimum(reach, room, out=reach)
    steps: Array = np.copysign(reach, wanted)
    return steps


def gap_to(logits: Array, labels: Array, targets: Array) -> tuple[Array, Array]:
    """The logit of the target minus that of the label, `(A,)`, and its derivative by the logits `(A, K)`."""
    rows, weights = np.arange(len(labels)), np.zeros(logits.shape)
    weights[rows, targets] += 1.0
    weights[rows, labels] -= 1.0
    return logits[rows, targets].astype(np.float64) - logits[rows, labels], weights


def _between(labels: Array, targets: Array) -> Objective:
    return lambda logits, rows: gap_to(logits, labels[rows], targets[rows])


def approach(scope: Scope, at: Array, *, targets: Array, num_steps: int) -> Array:
    """Which of J searches `(J,)`, of the rows `at (J,)` towards the classes `targets (J,)`, break them in the radius.

    One pass, forward and backward, a step. Where the answer is wrong but too far off, the search goes back towards the
    row and on from there with the gradient it has, which saves the second pass of the paper's algorithm 1.
    """
    broken = np.zeros(len(at), dtype=bool)
    seats = Seats(at, num_rows=len(scope.labels), num_places=scope.query.rows_a_batch)
    now, step = np.zeros((seats.num_places, scope.low.shape[1]), np.float32), np.zeros(seats.num_places, np.int64)
    while True:
        new = len(seats.fill())
        num, here = seats.num, seats.at
        if not num:
            return broken
        now[num - new : num], step[num - new : num] = 0, 0
        between = _between(scope.labels[here], targets[seats.seated])
        gaps, slopes, _, wrong = scope.slopes(now[:num], here, between)
        lost = np.zeros(num, dtype=bool)
        lost[wrong] = scope.within(now[:num][wrong], here[wrong])
        broken[seats.seated[lost]] = True
        now[:num] = _moved(scope, here, now[:num], gaps=gaps, slopes=slopes, wrong=wrong)
        step[:num] += 1
        seats.leave(step[:num] > num_steps, wrong=lost, arrays=[now, step])


def _moved(scope: Scope, at: Array, now: Array, *, gaps: Array, slopes: Array, wrong: Array) -> Array:
    """The next steps `(A, D)`: from the present ones and from none to the plane, and a mixture."""
    low, high = scope.floor[at], scope.ceiling[at]
    plane = np.einsum("ad,ad->a", slopes, now) - np.where(
        np.isfinite(gaps), gaps, 0.0
    )  # w.x where the logits are equal
    now = now * np.where(wrong, BACK, 1.0).astype(np.float32)[:, None]
    steps = []
    for points in (now, np.zeros_like(now)):
        need = plane - np.einsum("ad,ad->a", slopes, points)
        steps.append(nearest(points, slopes, need, low=low, high=high, norm=scope.norm))
    lengths = [np.maximum(scope.length(one), 1e-8) for one in steps]
    pull = np.minimum(lengths[0] / (lengths[0] + lengths[1]), LARGEST_PULL)[:, None].astype(np.float32)
    mixed = (1 - pull) * (now + OVERSHOOT * steps[0]) + pull * OVERSHOOT * steps[1]
    clipped: Array = np.clip(mixed, low, high).astype(np.float32)
    return clipped
