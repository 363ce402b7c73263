"""Equal rows of tables by 64-bit hashes, in blocks of rows: a table may be most of the memory there is.

Two different rows share a hash with chance 2^-64: over ten million rows about one table in 400,000 has such a pair.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from assay.data.splits import keyed_hash
from assay.values import Array

BLOCK = 1 << 16  # rows looked at in one go


def blocks(num_rows: int) -> Iterator[slice]:
    """Consecutive slices that cover the rows."""
    return (slice(begin, min(begin + BLOCK, num_rows)) for begin in range(0, num_rows, BLOCK))


def hashes(cells: Array) -> Array:
    """One uint64 a row of numbers `(N, F)`, computed as float64; -0 is 0 and every NaN is the same.

    >>> found = hashes(np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]))
    >>> bool(found[0] == found[1]), bool(found[0] == found[2])
    (True, False)
    """
    total = np.zeros(len(cells), dtype=np.uint64)
    for place, column in enumerate(cells.T):
        wide = column.astype(np.float64) + 0.0
        wide[np.isnan(wide)] = np.nan
        total = keyed_hash(total ^ wide.view(np.uint64), place)
    return total


def row_hashes(inputs: Array, labels: Array | None = None) -> Array:
    """`hashes` of rows `(N, F)`, with their labels `(N,)` where given."""
    return np.concatenate(
        [np.zeros(0, dtype=np.uint64), *(hashes(_cells(inputs, labels, part)) for part in blocks(len(inputs)))]
    )


def first_of_each(codes: Array) -> Array:
    """Places of the rows whose code no earlier row has, in order.

    >>> first_of_each(np.array([3, 1, 3, 3])).tolist()
    [0, 1]
    """
    order = np.argsort(codes, kind="stable")
    again = np.zeros(len(codes), dtype=bool)
    codes = codes[order]
    again[order[1:][codes[1:] == codes[:-1]]] = True
    return np.flatnonzero(~again)


def copies(inputs: Array, known: Array, labels: tuple[Array, Array] | None = None) -> Array:
    """Mask over `inputs (M, F)`: rows that `known (N, F)` has; with `labels (M,), (N,)` under the same label.

    Candidates have equal hashes; each is compared cell by cell.

    >>> copies(np.array([[1.0], [2.0]]), np.array([[2.0], [3.0]])).tolist()
    [False, True]
    """
    if not len(known):
        return np.zeros(len(inputs), dtype=bool)
    own, theirs = labels or (None, None)
    mine = row_hashes(inputs, own)
    wanted = np.unique(mine)
    place = np.full(len(wanted) + 1, -1, dtype=np.int64)
    for part in blocks(len(known) if len(wanted) else 0):
        found = hashes(_cells(known, theirs, part))
        at = np.searchsorted(wanted, found)
        hit = np.flatnonzero(wanted[at.clip(max=len(wanted) - 1)] == found)
        place[at[hit]] = hit + part.start
    mask = np.zeros(len(inputs), dtype=bool)
    for part in blocks(len(inputs)):
        source = place[np.searchsorted(wanted, mine[part])]
        left, right = _cells(inputs, own, part), _cells(known, theirs, source)
        mask[part] = (source >= 0) & ((left == right) | (np.isnan(left) & np.isnan(right))).all(axis=1)
    return mask


def _cells(inputs: Array, labels: Array | None, rows: slice | Array) -> Array:
    return inputs[rows] if labels is None else np.column_stack([inputs[rows], labels[rows]])
