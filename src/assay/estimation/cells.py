"""Rows to classes, and classes to resampled units: pure functions of arrays and a generator.

Rows equal in every declared code form one class. A unit is what a draw picks: a row, or for many rows a random block.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import numpy as np

from assay.digests import Array

MAX_CLASSES = 8_192  # a column that would make more is not compressed: its cells are drawn row by row
MAX_UNITS = 32_768  # above this many rows, random blocks of rows are drawn instead of rows
BLOCK = 1 << 16  # rows looked at in one go: a block's 64-bit copy stays in the processor's cache
MAX_TABLE = 1 << 22  # entries of a lookup table


def derive(key: bytes, name: str) -> bytes:
    """HMAC-SHA256: a key for one use, from which the parent key cannot be told.

    >>> len(derive(b"key", "a")), derive(b"key", "a") == derive(b"key", "b")
    (32, False)
    """
    return hmac.new(key, name.encode(), hashlib.sha256).digest()


def generator(key: bytes, name: str) -> np.random.Generator:
    """The counter-based Philox stream of one key and use: equal on every machine.

    >>> int(generator(b"key", "a").integers(1000)) == int(generator(b"key", "a").integers(1000))
    True
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(derive(key, name)[:16], "little")))


def blocks(num_rows: int) -> list[slice]:
    """Consecutive slices that cover `num_rows`.

    >>> blocks(3)
    [slice(0, 3, None)]
    """
    return [slice(begin, min(begin + BLOCK, num_rows)) for begin in range(0, num_rows, BLOCK)]


def starts_of(lengths: Array) -> Array:
    """Where each of several consecutive runs begins.

    >>> starts_of(np.array([2, 3, 1]))
    array([0, 2, 5])
    """
    starts: Array = np.cumsum(lengths) - lengths
    return starts


def compress(columns: Sequence[Array]) -> tuple[Array, Array]:
    """Classes `(N,)` of rows equal in all integer columns, numbered by mixed radix, and their sizes `(K,)`.

    A column that would make more than MAX_CLASSES classes is skipped, so classes may be coarser than the columns.

    >>> classes, sizes = compress([np.array([5, 5, 7]), np.array([0, 1, 1])])
    >>> classes.tolist(), sizes.tolist()
    ([0, 1, 2], [1, 1, 1])
    """
    wide, num_cells = np.zeros(len(columns[0]), dtype=np.uint8), 1
    for column in columns if len(wide) else ():
        codes, low = column, int(column.min())
        radix = int(column.max()) - low + 1
        if num_cells * radix > MAX_TABLE:  # far apart: number the values that occur
            values, codes = np.unique(column, return_inverse=True)
            low, radix = 0, len(values)
        if num_cells * radix > MAX_TABLE:
            continue
        small = np.min_scalar_type(num_cells * radix)
        codes = codes if low == 0 else np.subtract(codes, low, dtype=np.int64)
        finer = np.multiply(wide, small.type(radix), dtype=small)
        finer += codes.astype(small, copy=False)
        if num_cells * radix <= MAX_CLASSES:  # cannot be too many: number them once, at the end
            wide, num_cells = finer, num_cells * radix
            continue
        classes, sizes = _renumber(finer, num_cells * radix)
        if len(sizes) <= MAX_CLASSES:
            wide, num_cells = classes, len(sizes)
    return _renumber(wide, num_cells)


def _renumber(wide: Array, num_cells: int) -> tuple[Array, Array]:
    """Codes in [0, num_cells) as classes 0, 1, ... of those that occur, and their sizes."""
    tally = np.zeros(num_cells, dtype=np.int64)
    for part in blocks(len(wide)):
        tally += np.bincount(wide[part], minlength=num_cells)
    present = np.flatnonzero(tally)
    if len(present) == num_cells:
        return wide, tally
    table = np.zeros(num_cells, dtype=np.min_scalar_type(len(present)))
    table[present] = np.arange(len(present))
    return table.take(wide), tally[present]


def first_rows(classes: Array, num_classes: int) -> Array:
    """One row of each class, `(K,)`; stops reading as soon as every class was seen.

    >>> first_rows(np.array([1, 0, 1]), 2)
    array([1, 2])
    """
    first = np.full(num_classes, -1, dtype=np.int64)
    for part in blocks(len(classes)):
        first[classes[part]] = np.arange(part.start, part.stop)
        if first.min() >= 0:
            break
    return first


def merge(class_counts: Array, cells: Array, num_cells: int) -> Array:
    """Counts `(R, num_cells)` from class counts `(R, K)` and the cell of each class `(K,)`.

    >>> merge(np.array([[1.0, 2.0, 4.0]]), np.array([1, 0, 1]), 2)
    array([[2., 5.]])
    """
    result = np.zeros((len(class_counts), num_cells))
    order = np.argsort(cells, kind="stable")
    present, starts = np.unique(cells[order], return_index=True)
    if len(present):
        result[:, present] = np.add.reduceat(class_counts[:, order], starts, axis=1)
    return result


def num_units_of(sizes: Array) -> Array:
    """Units of each class `(K,)`: its rows where all fit into MAX_UNITS, else at most an equal cap (at least 32).

    >>> num_units_of(np.array([3, 10])).tolist(), num_units_of(np.array([3, 10**6])).tolist()
    ([3, 10], [3, 32765])
    """
    low, high = 32, max(32, int(sizes.max(initial=0)))
    while low < high:
        middle = (low + high + 1) // 2
        fits = np.minimum(sizes, middle).sum() <= MAX_UNITS
        low, high = (middle, high) if fits else (low, middle - 1)
    capped: Array = np.minimum(sizes, low)
    return capped


def units_of(classes: Array, sizes: Array, rng: np.random.Generator) -> Array:
    """Unit of each row `(N,)`; the units of one class are consecutive.

    Blocks are filled at random, not in turn: in a sorted file blocks filled in turn would be too alike.
    """
    num_units = num_units_of(sizes)
    order = np.argsort(classes, kind="stable")
    rank = np.empty(len(classes), dtype=np.int32)
    rank[order] = np.arange(len(classes)) - np.repeat(starts_of(sizes), sizes)
    del order
    if (num_units < sizes).any():
        caps = num_units.astype(np.int32)[classes]
        # At most MAX_UNITS < 2^24 blocks, so 24 random bits pick evenly enough.
        chance = (rng.random(len(classes), dtype=np.float32) * caps).astype(np.int32)
        rank = np.where((num_units < sizes)[classes], np.minimum(chance, caps - 1), rank)
    units: Array = rank + starts_of(num_units).astype(np.int32)[classes]
    return units


def pick_units(class_counts: Array, sizes: Array, rng: np.random.Generator) -> Array:
    """How often each unit is drawn, `(B, U)` uint8, given how many rows each class gets, `(B, K)`.

    Within a class rows are drawn with equal chance and replacement: Poisson(1)-like, so 255 is out of reach.
    """
    num_units = num_units_of(sizes)
    starts = starts_of(num_units)
    drawn = np.rint(class_counts * (num_units / np.maximum(sizes, 1))).astype(np.int64)
    drawn = np.maximum(drawn, class_counts > 0)
    result = np.empty((len(class_counts), int(num_units.sum())), dtype=np.uint8)
    for row, repeats in enumerate(drawn):
        picked = (rng.random(repeats.sum()) * np.repeat(num_units, repeats)).astype(np.int64)
        result[row] = np.bincount(picked + np.repeat(starts, repeats), minlength=result.shape[1])
    return result
