"""Rows of a table that are nearly another one: equal categories, numbers that differ by next to nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    spread = np.nanstd(known[:, numeric].astype(np.float64), axis=0)
    unit = TOLERANCE * np.where(spread > 0, spread, 1.0)
    left, right = (side[:, numeric].astype(np.float64) / unit for side in (inputs, known))
    codes = inputs[:, ~numeric], known[:, ~numeric]
    for grid in range(NUM_GRIDS):
        shift = CELL * grid / NUM_GRIDS
        cells: dict[bytes, list[int]] = {}
        for place, key in enumerate(_keys(right, codes[1], shift)):
            cells.setdefault(key, []).append(place)
        for row, key in enumerate(_keys(left, codes[0], shift)):
            if found[row] < 0 and key in cells:
                places = np.array(cells[key])
                close = (np.abs(right[places] - left[row]) <= 1).all(axis=1)
                if close.any():
                    found[row] = places[close][0]
    return found


def _keys(scaled: Array, codes: Array, shift: float) -> list[bytes]:
    whole = np.floor((scaled + shift) / CELL)
    both = np.concatenate([np.nan_to_num(whole, nan=-1e300), codes], axis=1) + 0.0
    return [row.tobytes() for row in both]
