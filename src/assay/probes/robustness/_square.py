"""Square: random search that sees answers and logits alone, so that it shows what gradients hide."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from assay.probes.robustness._scope import TINY, Scope
from assay.values import Array

Window = tuple[slice, slice, slice, slice]  # of pictures (A, C, H, W)
FULL = 5000  # tries of the full search: Croce and Hein 2020, section 5
FIRST_SHARE = 0.8  # of the picture that the first squares cover
FULL_BATCH = 256  # rows: fewer in one pass of a model cost more each
MOST_AT_ONCE = 8  # changes of a row
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000)  # of 5,000 tries: Andriushchenko et al. 2020, section 4


def share_of(attempt: int, num_tries: int) -> float:
    """Share of the picture that a square covers, in the schedule of the full search stretched to `num_tries`.

    >>> [share_of(attempt, 5000) for attempt in (0, 11, 4999)]
    [0.8, 0.4, 0.00625]
    """
    place = attempt * FULL / num_tries
    return float(FIRST_SHARE / 2 ** sum(place > mark for mark in HALVED_AT))


@cache
def _pyramid(height: int, width: int) -> Array:
    """The bump of Andriushchenko et al. 2020, equation 2: high in the middle, of length 1."""
    middle = height // 2
    rows, columns = np.arange(1, height + 1)[:, None], np.arange(1, width + 1)[None]
    depth = middle - np.maximum(np.abs(rows - middle - 1), np.abs(columns - width // 2 - 1))
    terms = 1 / np.square(middle + 1 - np.arange(middle + 1, dtype=np.float64))
    bump: Array = np.where(depth >= 0, np.cumsum(terms)[np.clip(depth, 0, middle)], 0.0)
    bump /= np.sqrt(np.square(bump).sum() + TINY)
    return bump


def bump(side: int, rng: np.random.Generator) -> Array:
    """Two pyramids of opposite sign beside or above each other, `(side, side)`, of length 1."""
    top = _pyramid(side // 2, side) if side > 1 else np.zeros((0, side))
    both: Array = np.concatenate([top, -_pyramid(side - side // 2, side)])
    both /= np.sqrt(np.square(both).sum()) + TINY
    return both.T if rng.random() < 0.5 else both


def scatter(scope: Scope, active: Array, *, num_tries: int, rng: np.random.Generator) -> Array:
    """Which of the positions `active (A,)` break at one of `num_tries` + 1 points; one query row each while they hold.

    A change is kept where the margin of the label's logit falls. Pictures: squares of constant colour (L-infinity) or
    a bump moved from one window to another (L2). Tables: sets of columns. Where it lands is drawn once for all rows.
    Where few rows are left each tries several changes in one pass, and keeps the best.
    """
    shape = scope.inputs.shape[1:]
    grid = tuple(shape) if len(shape) == 3 else (1, 1, scope.low.shape[1])
    broken, places = np.zeros(len(active), dtype=bool), np.arange(len(active))
    points, done = _first(scope, active, grid, rng), 1
    logits, wrong = scope.look(points, active)
    lowest = margins(logits, scope.labels[active])
    while True:
        broken[places[wrong]] = True
        places, points, lowest = places[~wrong], points[~wrong], lowest[~wrong]
        if not len(places) or done > num_tries:
            return broken
        at = active[places]
        num = min(max(1, FULL_BATCH // len(at)), MOST_AT_ONCE, num_tries + 1 - done)
        moved = np.empty((num, len(at), points.shape[1]), dtype=np.float32)
        for one in moved:
            _move(scope, points, at, one, grid=grid, share=share_of(done - 1, num_tries), rng=rng)
            done += 1
        logits, lost = scope.look(moved.reshape(-1, points.shape[1]), np.tile(at, num))
        found = np.where(lost, -np.inf, margins(logits, np.tile(scope.labels[at], num))).reshape(num, -1)
        best = found.argmin(axis=0)
        found, wrong = found[best, np.arange(len(at))], np.any(lost.reshape(num, -1), axis=0)
        better = np.flatnonzero((found < lowest) | wrong)
        points[better], lowest[better] = moved[best[better], better], found[better]


def margins(logits: Array, labels: Array) -> Array:
    """The logit of each label minus the highest of the others `(A,)`; inf where that is not a number."""
    rows, others = np.arange(len(labels)), logits.copy()
    others[rows, labels] = -np.inf
    found: Array = logits[rows, labels] - others.max(axis=1)
    return np.where(np.isfinite(found), found, np.inf)


def _signs(rng: np.random.Generator, *shape: int) -> Array:
    return np.where(rng.random(shape) < 0.5, -1.0, 1.0).astype(np.float32)


def _first(scope: Scope, active: Array, grid: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Vertical stripes (L-infinity), or bumps side by side all over (L2)."""
    channels, height, width = grid
    num = len(active)
    if scope.norm == "linf" or height == 1:
        steps = np.broadcast_to(_signs(rng, num, channels, 1, width), (num, *grid))
    else:
        side = max(min(height, width) // 5, 1)
        steps = np.zeros((num, *grid), dtype=np.float32)
        for top in range(0, height - side + 1, side):
            for left in range(0, width - side + 1, side):
                tile = bump(side, rng) * _signs(rng, num, channels, 1, 1)
                steps[:, :, top : top + side, left : left + side] = tile
    flat = steps.reshape(num, -1)
    if scope.norm == "l2":
        flat = flat * np.where(scope.width > 0, 1, 0)
        flat = flat / (scope.length(flat)[:, None] + TINY)
    return scope.clip((scope.radius * flat).astype(np.float32), active)


def _move(
    scope: Scope,
    points: Array,
    at: Array,
    moved: Array,
    *,
    grid: tuple[int, ...],
    share: float,
    rng: np.random.Generator,
) -> None:
    """Write the points `(A, D)`, each changed in one window, to `moved (A, D)`."""
    channels, height, width = grid
    if height == 1:
        moved[:] = scope.clip(_columns(scope, points, share, rng), at)
        return
    moved[:] = points
    pictures, low, high = (one.reshape(-1, *grid) for one in (moved, scope.low, scope.high))
    if scope.norm == "linf":
        side = max(1, min(round(math.sqrt(share * height * width)), height, width))
        windows: list[Window] = [_window(side, grid, rng)]
        pictures[windows[0]] += 2 * scope.radius * _signs(rng, channels, 1, 1)
    else:
        windows = _bumps(scope.radius, pictures, share=share, rng=rng)
    for window in windows:
        np.clip(pictures[window], low[(at, *window[1:])], high[(at, *window[1:])], out=pictures[window])


def _window(side: int, grid: tuple[int, ...], rng: np.random.Generator) -> Window:
    top, left = (int(rng.integers(0, size - side + 1)) for size in grid[1:])
    return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def _columns(scope: Scope, points: Array, share: float, rng: np.random.Generator) -> Array:
    """A random set of columns, each pushed to one end; under L2 the step then has the length of the radius again."""
    can = np.flatnonzero(scope.width > 0)
    chosen = rng.choice(can, size=max(1, round(share * len(can))), replace=False)
    moved: Array = points.copy()
    moved[:, chosen] += 2 * scope.radius * _signs(rng, len(chosen))
    if scope.norm == "l2":
        moved = (scope.radius * moved / (scope.length(moved)[:, None] + TINY)).astype(np.float32)
    return moved


def _bumps(radius: float, steps: Array, *, share: float, rng: np.random.Generator) -> list[Window]:
    """Take what one window of the steps `(A, C, H, W)` holds, and spend it with what is unused in another, in place.

    Which windows changed. No step grows longer than the radius. Source: Andriushchenko et al. 2020, algorithm 3.
    """
    _, channels, height, width = steps.shape
    side = max(3, round(math.sqrt(share * height * width)))
    side = min(side + 1 - side % 2, height, width)
    here, there = (_window(side, steps.shape[1:], rng) for _ in range(2))
    unused = np.maximum(radius**2 * (1 - 1e-6) - np.einsum("achw,achw->a", steps, steps), 0)
    held = np.einsum("achw,achw->ac", steps[here], steps[here])
    old = steps[here] / (np.sqrt(held) + TINY)[:, :, None, None]
    steps[here] = 0
    held += np.einsum("achw,achw->ac", steps[there], steps[there])
    steps[there] = 0
    new = bump(side, rng) * _signs(rng, len(steps), channels, 1, 1) + old
    size = np.sqrt((held + unused[:, None] / channels) / (np.einsum("achw,achw->ac", new, new) + TINY))
    steps[here] = new * size[:, :, None, None]
    return [here, there]
