"""Texts that are nearly the same: found by sketches, and kept on one side of every split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from assay.data import splits as split_rows
from assay.data.quality.near_text import NUM_HASHES, RUN, SIMILAR, candidates, level, run_hashes, shingles
from assay.values import Array

CHUNK = 1 << 21  # letters hashed at a time: bounds the memory
MARGIN = 0.25  # four standard errors of the estimate from 64 minima: below it nothing is compared in full
NONE = np.uint64(2**64 - 1)
STEP = np.uint64(0x9E3779B97F4A7C15)


def near_duplicates(texts: Sequence[str], *, language: str) -> Array:
    """A cluster number for each text `(N,)`: texts in one cluster are linked by near-duplicates.

    Near-duplicates are what `assay.data.quality` calls near copies: the Jaccard similarity J of their sets of letter
    runs is 0.8 or more, exactly. Candidates share 4 neighbouring of 64 minima: of long texts, 1 - (1 - J^4)^16 of such
    pairs (0.9998 at 0.8); of texts of fewer than about 100 letters fewer, as their minima repeat. Limits: what is no
    candidate is not found; more than 40 texts with the same minima are compared with the first 40.
    Source: Broder 1997, On the resemblance and containment of documents; Shrivastava, Li 2014, Densifying one
    permutation hashing, section 4 (one pass over the letters instead of 64).

    >>> near_duplicates(["A good phone, really.", "a good phone - really!", "a bad film"], language="en").tolist()
    [0, 0, 2]
    """
    run = RUN.get(language, 5)
    plain = [level(text) for text in texts]
    minima = _minima(plain, run)
    parent = np.arange(len(texts)).tolist()
    for row, places in (candidates(minima, minima) if len(texts) else {}).items():
        before = places[places < row]
        alike = (minima[before] == minima[row]).mean(axis=1)
        for place in before[alike >= SIMILAR - MARGIN].tolist():
            a, b = _root(parent, row), _root(parent, place)
            if a != b and _is_near(plain[row], plain[place], run):
                parent[max(a, b)] = min(a, b)
    return np.array([_root(parent, i) for i in range(len(texts))], dtype=np.int64)


def _is_near(one: str, other: str, run: int) -> bool:
    left, right = shingles(one, run), shingles(other, run)
    return len(left & right) >= SIMILAR * len(left | right)


def joined(clusters: Array, keys: Sequence[str]) -> Array:
    """Clusters `(N,)` that also hold together rows of one key (one document, one person); "" is no key."""
    parent = np.arange(len(clusters)).tolist()
    first: dict[str, int] = {}
    for row, (cluster, key) in enumerate(zip(clusters.tolist(), keys, strict=True)):
        for name in (f"c{cluster}", f"k{key}" if key else ""):
            if name:
                a, b = _root(parent, row), _root(parent, first.setdefault(name, row))
                parent[max(a, b)] = min(a, b)
    return np.array([_root(parent, row) for row in range(len(clusters))], dtype=np.int64)


def assign_clusters(clusters: Array, labels: Array, *, test: float, validation: float, seed: int) -> Array:
    """Split of each row `(N,)`, whole clusters at a time, stratified by the class of a cluster's first row."""
    _, first, member = np.unique(clusters, return_index=True, return_inverse=True)
    assigned: Array = split_rows.assign(labels[first], test=test, validation=validation, seed=seed)[member]
    return assigned


def keep_published(clusters: Array, labels: Array, published: Array, *, validation: float, seed: int) -> Array:
    """A published train and test split `(N,)`: training rows with a near-duplicate in test get -1 (dropped).

    A share of the clusters left in train becomes validation, stratified by class.
    """
    of_test = np.isin(clusters, clusters[published == split_rows.TEST])
    result = np.where(of_test & (published == split_rows.TRAIN), -1, published)
    train = np.flatnonzero(result == split_rows.TRAIN)
    _, first, member = np.unique(clusters[train], return_index=True, return_inverse=True)
    strata = labels[train][first]
    share = split_rows.add_validation(np.zeros(len(first), dtype=np.int64), strata, validation=validation, seed=seed)
    result[train] = share[member]
    return result


def _minima(texts: Sequence[str], run: int) -> Array:
    """The smallest hash in each of 64 equal parts of the hashes' range, uint64 `(N, 64)`.

    A part without a hash takes the minimum of the next part that has one, marked by how far away that is.
    """
    found = np.full((len(texts), NUM_HASHES), NONE)
    done = 0
    for chunk in _chunks(texts):
        hashes, starts = run_hashes(chunk, run)
        mixed = split_rows.keyed_hash(hashes, 0)
        owner = np.repeat(np.arange(len(chunk)), np.diff([*starts, len(hashes)]))
        np.minimum.at(found, (done + owner, (mixed >> np.uint64(58)).astype(np.int64)), mixed)
        done += len(chunk)
    empty = found == NONE
    for _ in range(NUM_HASHES if empty.any() else 0):
        with np.errstate(over="ignore"):
            found = np.where(
                empty, np.where(np.roll(empty, -1, axis=1), NONE, np.roll(found, -1, axis=1) + STEP), found
            )
        empty = found == NONE
    return found


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size > CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _root(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row
