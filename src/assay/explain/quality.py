"""How good an explanation is: curves of units lost and put back, infidelity, and the most that it changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from assay.units import Ground
from assay.values import Array

Function = Callable[[Array], Array]  # inputs (M, ...) to outputs (M, K)
CHUNK = 1 << 24  # numbers in one batch of inputs


def areas(function: Function, rows: Array, ground: Ground, *, ranks: Array, target: Array) -> Array:
    """Areas `(R, Q, Z, 2)` under the insertion and deletion curves, for ranks `(R, Q, U)`, 0 = first.

    Shapes: the ground's background are the baselines, `(Z, ...)` that serve every row or `(R, Z, ...)` of each row's
    own; target `(R,)` the output. Model rows: R Q Z 2 (U - 1), the R rows and all baselines.
    Source: Petsiuk, Das and Saenko 2018 (RISE), section 4.2; trapezoid over k/U.
    """
    num_rows, num_orders, num_units = ranks.shape
    given, width = ground.background, rows.shape[1:]
    baselines = given if given.ndim > rows.ndim else np.broadcast_to(given, (num_rows, *given.shape))
    num_baselines = baselines.shape[1]
    first = ranks[:, :, None, None, :] < np.arange(1, num_units)[:, None]
    masks = np.concatenate([first, ~first], axis=3)
    pairs, steps = num_orders * num_baselines, 2 * (num_units - 1)  # an order and a baseline stand in for one block
    masks = np.broadcast_to(masks, (num_rows, num_orders, num_baselines, steps, num_units))
    masks = masks.reshape(num_rows, pairs, steps, num_units)
    outputs = np.zeros((num_rows, num_orders, num_baselines, steps))
    step = max(1, CHUNK // max(1, pairs * steps * max(num_units, rows[:1].size)))
    for start in range(0, num_rows if num_units > 1 else 0, step):
        part = slice(start, start + step)
        own = masks[part]
        inputs = ground.units.mix(rows[part], own, np.concatenate([baselines[part]] * num_orders, axis=1))
        found = function(inputs).reshape(len(own), pairs * steps, -1)
        outputs[part] = np.take_along_axis(found, target[part, None, None], axis=2).reshape(-1, *outputs.shape[1:])
    full = function(rows)
    of_each = function(given.reshape(-1, *width)).reshape(-1, num_baselines, full.shape[1])
    of_each = np.broadcast_to(of_each, (num_rows, *of_each.shape[1:]))
    empty = np.take_along_axis(of_each, target[:, None, None], axis=2)[:, None, :, 0]
    ends = (full[np.arange(num_rows), target][:, None, None] + empty) / 2  # the trapezoid counts both ends half
    kept, gone = outputs[..., : num_units - 1].sum(axis=3), outputs[..., num_units - 1 :].sum(axis=3)
    found = np.stack([kept + ends, gone + ends], axis=3) / num_units
    return np.asarray(found)


def infidelity(function: Function, rows: Array, values: Array, *, moves: Array, target: Array) -> Array:
    """Mean over moves I of (I . phi - (f(x) - f(x - I)))^2 of each row, `(R,)`.

    Shapes: rows and values phi `(R, ...)`, moves `(R, K, ...)`, target `(R,)` the output. R (K + 1) model rows.
    Direction: lower; 0 = every change foreseen. Limits: of the moves given; their size decides what is seen.
    Source: Yeh et al. 2019, definition 2.1.
    """
    num_rows, num_moves = moves.shape[:2]
    full = function(rows)[np.arange(num_rows), target].astype(np.float64)
    foreseen = (moves.reshape(num_rows, num_moves, -1) @ values.reshape(num_rows, -1, 1))[:, :, 0]
    found = np.empty((num_rows, num_moves))
    step = max(1, CHUNK // max(1, moves[:1].size))
    for start in range(0, num_rows, step):
        part = slice(start, start + step)
        moved = (rows[part, None] - moves[part]).reshape(-1, *rows.shape[1:])
        outputs = function(moved).reshape(len(moves[part]), num_moves, -1)
        found[part] = np.take_along_axis(outputs, target[part, None, None], axis=2)[..., 0]
    return np.asarray(((foreseen - (full[:, None] - found)) ** 2).mean(axis=1))


def max_sensitivity(explainer: Callable[[Array, Array], Array], rows: Array, values: Array, *, moves: Array) -> Array:
    """Largest |phi(x + d) - phi(x)| / |phi(x)| over moves d of each row, `(R,)`; a length of 0 counts as 1.

    Shapes: rows and values phi `(R, ...)`, moves `(R, K, ...)`; `explainer` takes inputs `(M, ...)` and the row of
    each `(M,)`. Source: Yeh et al. 2019, definition 4.1 (by Monte Carlo).
    """
    num_rows, num_moves = moves.shape[:2]
    first = values.reshape(num_rows, 1, -1)
    length = np.linalg.norm(first, axis=2)
    found = np.empty((num_rows, num_moves))
    step = max(1, CHUNK // max(1, moves[:1].size))
    for start in range(0, num_rows, step):
        part = slice(start, min(start + step, num_rows))
        owner = np.repeat(np.arange(part.start, part.stop), num_moves)
        moved = explainer((rows[part, None] + moves[part]).reshape(-1, *rows.shape[1:]), owner)
        found[part] = np.linalg.norm(moved.reshape(-1, num_moves, first.shape[2]) - first[part], axis=2)
    return np.asarray((found / np.where(length == 0, 1.0, length)).max(axis=1))
