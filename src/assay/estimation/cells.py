"""Rows to classes, and classes to resampled units: pure functions of arrays and a generator.

Rows equal in every declared code form one class. A unit is what a draw picks: a row, or for many rows a random block.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from assay.digests import Array

MAX_CLASSES = 8_192  # a column that would make more is not compressed: its cells are drawn row by row
MAX_UNITS = 32_768  # above this many rows, random blocks of rows are drawn instead of rows
BLOCK = 1 << 16  # rows looked at in one go: a block's 64-bit copy stays in the processor's cache
MAX_TABLE = 1 << 22  # entries of a lookup table
SHORT = 13  # bits of MAX_CLASSES
PRODUCT = 64  # cells up to which counts are added by one matrix product
SMALL_WHOLE = 63  # a pair of products with a byte fits into 16 bits, which is what some processors add in
TOGETHER = 1 << 15  # numbers drawn in one go: of small samples many draws, so that they do not pay for calls


def derive(key: bytes, name: str) -> bytes:
    """HMAC-SHA256: a key for one use, from which the parent key cannot be told.

    >>> len(derive(b"key", "a")), derive(b"key", "a") == derive(b"key", "b")
    (32, False)
    """
    return hmac.digest(key, name.encode(), "sha256")


def generator(key: bytes, name: str) -> np.random.Generator:
    """The counter-based Philox stream of one key and use: equal on every machine.

    >>> int(generator(b"key", "a").integers(1000)) == int(generator(b"key", "a").integers(1000))
    True
    """
    seed: Any = _Key(np.frombuffer(derive(key, name), dtype="<u8", count=2))  # numpy's stub knows SeedSequence only
    return np.random.Generator(np.random.Philox(seed))


class _Key(ISeedSequence):
    """A seed that is Philox's key as it stands: `Philox(key=...)` first asks the system for entropy it does not use."""

    def __init__(self, words: Array) -> None:
        self.words = words

    def generate_state(self, num_words: int, dtype: Any = np.uint32) -> Array:
        """The two words Philox asks for."""
        return self.words


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
    short = _shifted(columns)
    if short is not None:
        return _renumber(*short)
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


def _shifted(columns: Sequence[Array]) -> tuple[Array, int] | None:
    """Codes with the bits of all columns side by side, where few bits do: one look for the range instead of two.

    Order among the codes is that of the mixed radix, so the classes are the same. None where bits may be too many.
    """
    union = [int(np.bitwise_or.reduce(column)) for column in columns]  # no value has more bits; negative if one is
    bits = [one.bit_length() for one in union]
    if min(union) < 0 or sum(bits) > SHORT:
        return None
    small = np.min_scalar_type(1 << sum(bits))
    wide = columns[0].astype(small)
    for column, own in zip(columns[1:], bits[1:], strict=True):
        wide *= small.type(1 << own)
        wide += column.astype(small, copy=False)
    return wide, 1 << sum(bits)


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
    return look_up(table, wide), tally[present]


def look_up(table: Array, codes: Array) -> Array:
    """`table[codes]`; where both are bytes without a copy of the codes as 64-bit numbers, which else is one of a block.

    >>> look_up(np.array([5, 7], dtype=np.uint8), np.array([1, 0, 1], dtype=np.uint8)).tolist()
    [7, 5, 7]
    """
    if len(codes) > BLOCK:
        found = np.empty(len(codes), dtype=table.dtype)
        for part in blocks(len(codes)):
            found[part] = look_up(table, codes[part])
        return found
    if table.dtype != np.uint8 or codes.dtype != np.uint8:
        return table.take(codes)
    return np.frombuffer(codes.tobytes().translate(table.tobytes()[:256].ljust(256)), dtype=np.uint8)


def parts_of(num: int, most: int) -> list[slice]:
    """Slices that cover `num`, of about `most` each and alike: short ones, and not of eights, have other kernels.

    >>> parts_of(20, 12)
    [slice(0, 16, None), slice(16, 20, None)]
    """
    size = -(-num // (8 * max(1, -(-num // most)))) * 8
    return [slice(begin, min(begin + size, num)) for begin in range(0, num, max(1, size))]


def are_small_whole(values: Array) -> bool:
    """Whether `whole_product` takes these numbers.

    >>> are_small_whole(np.array([1.0, -63.0])), are_small_whole(np.array([0.5])), are_small_whole(np.array([64.0]))
    (True, False, False)
    """
    if values.dtype == np.int8:
        return True
    return bool(np.abs(values).max(initial=0) <= SMALL_WHOLE and np.array_equal(values, np.rint(values)))


def whole_product(weights: Array, values: Array) -> Array:
    """`weights @ values` of bytes below 128 `(B, U)` and of small whole numbers `(U, P)`, exact, as float64 `(B, P)`.

    Processors multiply bytes several times as fast as floats, and no copy of the weights is made; the product is
    `torch._int_mm`, which is whole numbers throughout.

    >>> whole_product(np.array([[2, 0, 1]], dtype=np.uint8), np.array([[1], [5], [-3]])).tolist()
    [[-1.0]]
    """
    import torch

    num = values.shape[1]
    if not values.size:
        return np.zeros((len(weights), num))
    table = np.zeros((len(values), num if num == 1 else -(-num // 16) * 16), dtype=np.int8)  # 16 at a time: faster
    table[:, :num] = values
    product = torch._int_mm(torch.from_numpy(weights.view(np.int8)), torch.from_numpy(table))
    found: Array = product.numpy()[:, :num].astype(np.float64)
    return found


def first_rows(classes: Array, num_classes: int) -> Array:
    """One row of each class, `(K,)`; stops reading as soon as every class was seen.

    >>> first_rows(np.array([1, 0, 1]), 2)
    array([1, 2])
    """
    first = np.full(num_classes, -1, dtype=np.int64)
    if classes.dtype == np.uint8:  # few classes: the processor finds a byte in 32 at once
        data = classes[:BLOCK].tobytes()
        first[:] = [data.find(one) for one in range(num_classes)]
    for part in blocks(len(classes)):
        missing = first < 0
        if not missing.any():
            break
        rows = np.flatnonzero(missing.take(classes[part])) + part.start
        first[classes[rows]] = rows
    return first


def merge(class_counts: Array, cells: Array, num_cells: int) -> Array:
    """Counts `(R, num_cells)` from class counts `(R, K)` and the cell of each class `(K,)`.

    >>> merge(np.array([[1.0, 2.0, 4.0]]), np.array([1, 0, 1]), 2)
    array([[2., 5.]])
    """
    if len(cells) <= num_cells and (np.bincount(cells, minlength=num_cells) <= 1).all():  # each class is a cell
        result = np.zeros((len(class_counts), num_cells))
        result[:, cells] = class_counts
        return result
    if num_cells <= PRODUCT:  # whole numbers: the product is exact
        table = np.zeros((len(cells), num_cells))
        table[np.arange(len(cells)), cells] = 1
        product: Array = class_counts @ table
        return product
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
    num, wide = int(num_units.sum()), num_units.astype(np.float64)
    result = np.empty((len(class_counts), num), dtype=np.uint8)
    for part in parts_of(len(drawn), max(1, TOGETHER // max(1, num))):
        repeats, rows = drawn[part].ravel(), np.arange(len(drawn[part]))
        chance = rng.random(int(repeats.sum()))
        chance *= np.tile(wide, len(rows)).repeat(repeats)
        picked = chance.astype(np.int64)
        picked += np.add.outer(rows * num, starts).ravel().repeat(repeats)
        result[part] = np.bincount(picked, minlength=len(rows) * num).reshape(len(rows), num)
    return result
