"""Which row goes to which split: keyed hashes of row numbers, stratified, the same on every machine."""

from __future__ import annotations

import numpy as np

from assay.values import Array

TRAIN, VALIDATION, TEST = 0, 1, 2


def keyed_hash(rows: Array, key: int) -> Array:
    """One uint64 per row number: output number `row` (from 1) of SplitMix64 seeded with `key`.

    Source: Steele, Lea, Flood 2014, figure 17. The same on every machine and release, unlike a library's shuffle.

    >>> keyed_hash(np.array([1]), 0)  # the published generator's first output for seed 0
    array([16294208416658607535], dtype=uint64)
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the definition
        state = np.uint64(key) + rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Array = state ^ (state >> np.uint64(31))
    return mixed


def carve(rows: Array, strata: Array, *, share: float, key: int) -> Array:
    """Mask `(N,)` of the rows taken: in each stratum of n rows, the floor(share n + 1/2) rows of smallest keyed hash.

    A stratum of one row gives none unless share ≥ 1/2. Ties (equal hashes) go by row order.
    """
    order = np.lexsort((keyed_hash(rows, key), strata))
    _, starts, sizes = np.unique(strata[order], return_index=True, return_counts=True)
    ranks = np.arange(len(rows)) - np.repeat(starts, sizes)
    taken = np.zeros(len(rows), dtype=bool)
    taken[order] = ranks < np.repeat(np.floor(share * sizes + 0.5), sizes)
    return taken


def assign(strata: Array, *, test: float, validation: float, seed: int) -> Array:
    """Split of each row `(N,)` int8: 0 train, 1 validation, 2 test. `validation` is a share of the rows not in test."""
    rows = np.arange(1, len(strata) + 1)
    result = np.full(len(strata), TRAIN, dtype=np.int8)
    result[carve(rows, strata, share=test, key=2 * seed)] = TEST
    return add_validation(result, strata, validation=validation, seed=seed)


def assign_newest(times: Array, *, test: float, validation: float) -> Array:
    """Split of each row `(N,)` int8 by its time `(N,)`: the newest rows are test, those before them validation.

    Each is the smallest set of newest times that holds its share of the rows; `validation` is a share of the rest.

    >>> assign_newest(np.array([3.0, 1.0, 2.0, 3.0, 0.0]), test=0.2, validation=0.3).tolist()
    [2, 0, 1, 2, 0]
    """
    result = np.full(len(times), TRAIN, dtype=np.int8)
    for split, share in ((TEST, test), (VALIDATION, validation)):
        rest = np.flatnonzero(result == TRAIN)
        num = int(np.floor(share * len(rest) + 0.5))
        if num:
            result[rest[times[rest] >= np.sort(times[rest])[-num]]] = split
    return result


def add_validation(assigned: Array, strata: Array, *, validation: float, seed: int) -> Array:
    """A copy of `assigned (N,)` with a share of its train rows moved to validation."""
    result = assigned.copy()
    train = np.flatnonzero(assigned == TRAIN)
    taken = carve(train + 1, strata[train], share=validation, key=2 * seed + 1)
    result[train[taken]] = VALIDATION
    return result
