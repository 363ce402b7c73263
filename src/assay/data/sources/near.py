"""Texts that are nearly the same: found by sketches, and kept on one side of every split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from assay.data import splits as split_rows
from assay.data.quality.near_text import RUN, SIMILAR, level, shingles
from assay.values import Array

SKETCH = 64  # smallest distinct hashes kept of a text
SHARED = 4  # of these, the smallest few that make two texts candidates
CHUNK = 1 << 21  # code points hashed at a time: bounds the memory
NEIGHBOURS = 8  # earlier candidates that each hash gives
PAIRS = 1 << 14  # compared at a time: bounds the memory
NONE = np.uint64(2**64 - 1)
MARGIN = 0.2  # four standard errors of the estimate: below it nothing is compared in full
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def near_duplicates(texts: Sequence[str], *, language: str) -> Array:
    """A cluster number for each text `(N,)`: texts in one cluster are linked by near-duplicates.

    Near-duplicates are what `assay.data.quality` calls near copies: the Jaccard similarity of their sets of letter
    runs is 0.8 or more, exactly. Candidates: texts that share one of their 4 smallest hashes, and whose similarity by
    their 64 smallest is 0.6 or more (its standard error at 0.8 is 0.05). Limits: of the texts that share a hash, each
    is compared with the first 8 only. Source: Broder 1997, On the resemblance and containment of documents, section 4.

    >>> near_duplicates(["A good phone, really.", "a good phone - really!", "a bad film"], language="en").tolist()
    [0, 0, 2]
    """
    run = RUN.get(language, 5)
    plain = [level(text) for text in texts]
    sketches = _sketches(plain, run)
    pairs = _candidates(sketches)
    parent = np.arange(len(texts)).tolist()
    for later, earlier in pairs[_resemblance(sketches, pairs) >= SIMILAR - MARGIN].tolist():
        a, b = _root(parent, later), _root(parent, earlier)
        if a != b:
            one, other = shingles(plain[later], run), shingles(plain[earlier], run)
            if len(one & other) >= SIMILAR * len(one | other):
                parent[max(a, b)] = min(a, b)
    return np.array([_root(parent, i) for i in range(len(texts))], dtype=np.int64)


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


def _sketches(texts: Sequence[str], width: int) -> Array:
    """The smallest distinct hashes of each text, in order: uint64 `(N, 64)`, the rest filled with `NONE`."""
    found = np.full((len(texts), SKETCH), NONE)
    done = 0
    for chunk in _chunks(texts):
        lengths = np.array([max(1, len(text)) for text in chunk])
        # Every text is followed by zeros, so that it has a window at each letter and none reaches the next text.
        padded = [np.frombuffer((text or "\0").encode("utf-32-le", "surrogatepass"), dtype="<u4") for text in chunk]
        gap = np.zeros(width - 1, dtype=np.uint64)
        points = np.concatenate([part for text in padded for part in (text.astype(np.uint64), gap)])
        hashes = _rolling(points, width)
        owner = np.repeat(np.arange(len(chunk)), lengths)
        starts = np.cumsum(lengths + width - 1) - (lengths + width - 1)
        hashes = hashes[np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + starts[owner]]
        # Of long texts, only hashes that can be among the smallest 64: eight times as many are expected below.
        few = hashes < np.minimum(8.0 * SKETCH / lengths, 0.999)[owner] * 2.0**64
        hashes, owner = hashes[few], owner[few]
        order = np.lexsort((hashes, owner))
        hashes, owner = hashes[order], owner[order]
        first = np.ones(len(hashes), dtype=bool)
        first[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
        hashes, owner = hashes[first], owner[first]
        ranks = np.arange(len(owner)) - np.searchsorted(owner, owner)
        kept = ranks < SKETCH
        found[done + owner[kept], ranks[kept]] = hashes[kept]
        done += len(chunk)
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


def _rolling(points: Array, width: int) -> Array:
    """A hash of each window of `width` code points, uint64: a polynomial, then the finaliser of SplitMix64."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the definition
        state = np.zeros(len(points) - width + 1, dtype=np.uint64)
        for offset in range(width):
            state = state * _MULTIPLIER + points[offset : len(points) - width + 1 + offset]
    return split_rows.keyed_hash(state, 0)


def _candidates(sketches: Array) -> Array:
    """Pairs of rows `(P, 2)`, later first, that share one of their smallest hashes."""
    seen: dict[int, list[int]] = {}
    pairs: set[tuple[int, int]] = set()
    for row, sketch in enumerate(sketches[:, :SHARED].tolist()):
        for value in sketch:
            before = seen.setdefault(value, [])
            if value != NONE:
                pairs.update((row, earlier) for earlier in before)
            if len(before) < NEIGHBOURS:
                before.append(row)
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _resemblance(sketches: Array, pairs: Array) -> Array:
    """Estimated Jaccard similarity of each pair `(P,)`: of the 64 smallest hashes of both, the share in each."""
    found = np.zeros(len(pairs))
    for start in range(0, len(pairs), PAIRS):
        both = np.sort(sketches[pairs[start : start + PAIRS]].reshape(-1, 2 * SKETCH), axis=1)
        again = np.zeros(both.shape, dtype=bool)
        again[:, 1:] = both[:, 1:] == both[:, :-1]
        inside = (np.cumsum(~again, axis=1) <= SKETCH) & (both != NONE)
        found[start : start + PAIRS] = (again & inside).sum(axis=1) / np.maximum(1, (~again & inside).sum(axis=1))
    return found


def _root(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row
