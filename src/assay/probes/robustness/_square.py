"""Square: random search that sees answers and logits alone, so that it shows what gradients hide."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from assay.probes.robustness._scope import TINY, Scope
from assay.values import Array

FULL = 5000  # tries of the full search: Croce and Hein 2020, section 5
FIRST_SHARE = 0.8  # of the picture that the first squares cover
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
    """
    shape = scope.inputs.shape[1:]
    as_picture = len(shape) == 3
    grid = tuple(shape) if as_picture else (1, 1, scope.origin.shape[1])
    broken, places = np.zeros(len(active), dtype=bool), np.arange(len(active))
    points = _first(scope, active, grid, rng)
    margins = np.full(len(active), np.inf)
    for attempt in range(num_tries + 1):
        if not len(places):
            break
        at = active[places]
        if attempt:
            share = share_of(attempt - 1, num_tries)
            moved = _moved(scope, points[places], at, grid=grid, share=share, rng=rng)
        else:
            moved = points[places]
        logits, wrong = scope.look(moved, at)
        found = _margins(logits, scope.labels[at])
        better = (found < margins[places]) | wrong
        points[places[better]], margins[places[better]] = moved[better], found[better]
        broken[places[wrong]] = True
        places = places[~wrong]
    return broken


def _margins(logits: Array, labels: Array) -> Array:
    rows, others = np.arange(len(labels)), logits.copy()
    others[rows, labels] = -np.inf
    margins: Array = logits[rows, labels] - others.max(axis=1)
    return np.where(np.isfinite(margins), margins, np.inf)


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
    return scope.clip((scope.origin[active] + scope.radius * flat).astype(np.float32), active)


def _moved(
    scope: Scope, points: Array, at: Array, *, grid: tuple[int, ...], share: float, rng: np.random.Generator
) -> Array:
    """New points `(A, D)`, each changed in one window."""
    channels, height, width = grid
    if height == 1:
        moved = _columns(scope, points, at, share, rng)
    elif scope.norm == "linf":
        side = max(1, min(round(math.sqrt(share * height * width)), height, width))
        top, left = (int(rng.integers(0, size - side + 1)) for size in (height, width))
        moved = points.reshape(-1, *grid).copy()
        window = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
        moved[window] += 2 * scope.radius * _signs(rng, channels, 1, 1)
        moved = moved.reshape(len(points), -1)
        return np.clip(moved, scope.low[at], scope.high[at])
    else:
        moved = _bumps(scope, points, at, grid=grid, share=share, rng=rng)
    return scope.clip(moved.astype(np.float32), at).astype(np.float32)


def _columns(scope: Scope, points: Array, at: Array, share: float, rng: np.random.Generator) -> Array:
    """A random set of columns, each pushed to one end; under L2 the step then has the length of the radius again."""
    can = np.flatnonzero(scope.width > 0)
    chosen = rng.choice(can, size=max(1, round(share * len(can))), replace=False)
    moved: Array = points.copy()
    moved[:, chosen] += 2 * scope.radius * _signs(rng, len(chosen))
    if scope.norm == "linf":
        return moved
    away = moved - scope.origin[at]
    moved = scope.origin[at] + scope.radius * away / (scope.length(away)[:, None] + TINY)
    return moved


def _bumps(
    scope: Scope, points: Array, at: Array, *, grid: tuple[int, ...], share: float, rng: np.random.Generator
) -> Array:
    """Take what one window holds, and spend it with what is unused in another (Andriushchenko 2020, algorithm 3)."""
    channels, height, width = grid
    side = max(3, round(math.sqrt(share * height * width)))
    side = min(side + 1 - side % 2, height, width)
    corners = [(int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))) for _ in range(2)]
    here, there = ((..., slice(top, top + side), slice(left, left + side)) for top, left in corners)
    away = (points - scope.origin[at]).reshape(-1, *grid)
    unused = np.maximum(scope.radius**2 - np.square(away).sum(axis=(1, 2, 3), keepdims=True), 0)
    mask = np.zeros((height, width), dtype=np.float32)
    mask[here[1:]] = mask[there[1:]] = 1
    held = np.square(away * mask).sum(axis=(2, 3), keepdims=True)
    old = away[here]
    old = old / (np.sqrt(np.square(old).sum(axis=(2, 3), keepdims=True)) + TINY)
    new = bump(side, rng) * _signs(rng, len(points), channels, 1, 1) + old
    new = new / (np.sqrt(np.square(new).sum(axis=(2, 3), keepdims=True)) + TINY)
    away[there] = 0
    away[here] = new * np.sqrt(held + unused / channels)
    moved: Array = scope.origin[at] + away.reshape(len(points), -1)
    return moved
