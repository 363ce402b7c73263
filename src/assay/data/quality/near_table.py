"""Rows of a table that are nearly another one: equal categories, numbers that differ by next to nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.data.quality.table_rows import blocks, hashes
from assay.values import Array, Column

TOLERANCE = 0.001  # of a standard deviation, in every number
CELL = 8  # grid cells are so many tolerances wide
NUM_GRIDS = 4
MIN_NUMBERS = 2


def near_rows(inputs: Array, known: Array, columns: Sequence[Column]) -> Array:
    """For each row `(M, F)` the place in `known (N, F)` of one that is nearly the same, or -1.

    Nearly: all categories are equal, and every number differs by at most 0.1 % of its standard deviation over `known`.
    Candidates: rows in the same cell of one of four shifted grids, whose cells are eight tolerances wide; each is
    verified. Limits: with many numeric columns a pair near a cell's edge in every grid is missed (differences of half
    the tolerance in each of 10 numbers: about 4 % are). A table of fewer than two numbers has no near rows, only equal
    ones: strangers would match by chance; of two numbers, about one in 100,000 pairs does.

    >>> columns = (Column("age", "numeric"), Column("pay", "numeric"), Column("job", "categorical", ("a", "b")))
    >>> known = np.array([[20, 3, 0], [40, 5, 1], [60, 9, 0]], dtype=np.float32)
    >>> near_rows(np.array([[40.01, 5, 1], [40.01, 5, 0], [44, 5, 1]]), known, columns).tolist()
    [1, -1, -1]
    """
    found = np.full(len(inputs), -1, dtype=np.int64)
    numeric = np.array([column.kind == "numeric" for column in columns], dtype=bool)
    if not len(inputs) or not len(known) or numeric.sum() < MIN_NUMBERS:
        return found
    unit = TOLERANCE * _spread(known, numeric)
    for grid in range(NUM_GRIDS):
        left = np.flatnonzero(found < 0)
        keys = np.concatenate([_keys(inputs[left[part]], numeric, unit, grid) for part in blocks(len(left))] or [left])
        places, codes = _in_cells_of(np.unique(keys), known, (numeric, unit, grid))
        low, high = (np.searchsorted(codes, keys, side) for side in ("left", "right"))
        turn = np.arange(len(left))[low < high]
        while len(turn):  # each row meets the first row of its cell, then the second, until one is close
            candidates = places[low[turn]]
            for part in blocks(len(turn)):
                close = _is_near(inputs[left[turn[part]]], known[candidates[part]], numeric, unit)
                found[left[turn[part][close]]] = candidates[part][close]
            low[turn] += 1
            turn = turn[(found[left[turn]] < 0) & (low[turn] < high[turn])]
    return found


def _spread(known: Array, numeric: Array) -> Array:
    """Standard deviation of each numeric column but for missing numbers; 1 where there is none. In blocks of rows."""
    total, count, squares = (np.zeros(int(numeric.sum())) for _ in range(3))
    for part in blocks(len(known)):
        values = known[part][:, numeric].astype(np.float64)
        count += (~np.isnan(values)).sum(axis=0)
        total = np.concatenate([total[None], np.where(np.isnan(values), 0.0, values)]).sum(axis=0)
    mean = total / np.maximum(count, 1)
    for part in blocks(len(known)):
        centred = known[part][:, numeric].astype(np.float64) - mean
        squares = np.concatenate([squares[None], np.where(np.isnan(centred), 0.0, centred**2)]).sum(axis=0)
    spread = np.sqrt(squares / np.maximum(count, 1))
    return np.where(spread > 0, spread, 1.0)


def _keys(rows: Array, numeric: Array, unit: Array, grid: int) -> Array:
    """A hash `(n,)` of each row's cell in a grid, and of its categories."""
    scaled = rows[:, numeric].astype(np.float64) / unit
    whole = np.floor((scaled + CELL * grid / NUM_GRIDS) / CELL)
    return hashes(np.concatenate([np.nan_to_num(whole, nan=-1e300), rows[:, ~numeric]], axis=1))


def _in_cells_of(wanted: Array, known: Array, how: tuple[Array, Array, int]) -> tuple[Array, Array]:
    """Places and keys `(n,)` of the known rows whose key is wanted: by key, then by place."""
    places, codes = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.uint64)]
    for part in blocks(len(known) if len(wanted) else 0):
        keys = _keys(known[part], *how)
        hit = np.flatnonzero(wanted[np.searchsorted(wanted, keys).clip(max=len(wanted) - 1)] == keys)
        places.append(hit + part.start)
        codes.append(keys[hit])
    together, all_codes = np.concatenate(places), np.concatenate(codes)
    order = np.argsort(all_codes, kind="stable")
    return together[order], all_codes[order]


def _is_near(left: Array, right: Array, numeric: Array, unit: Array) -> Array:
    """Row by row `(n,)`: equal categories, and no number further away than the tolerance."""
    apart = np.abs(right[:, numeric].astype(np.float64) / unit - left[:, numeric].astype(np.float64) / unit)
    found: Array = (apart <= 1).all(axis=1) & (left[:, ~numeric] == right[:, ~numeric]).all(axis=1)
    return found
