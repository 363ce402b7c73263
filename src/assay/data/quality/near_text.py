"""Texts that are nearly another one: MinHash finds candidates, exact overlap of letter runs decides."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from assay.values import Array

NUM_HASHES, BAND = 64, 4  # P(found) = 1 - (1 - J^4)^16: 0.9998 at J = 0.8, 0.99 at 0.7, 0.64 at 0.5
SIMILAR = 0.8
RUN = {"zh": 3, "ja": 3}  # letters to a shingle; other languages: 5
CHUNK = 1 << 21  # letters hashed in one go
MAX_CANDIDATES = 40  # texts compared in full with one text
_NOT_WORD = re.compile(r"[\W_]+")


def near_texts(texts: Array, known: Array, *, language: str = "", similarity: float = SIMILAR) -> Array:
    r"""For each text `(M,)` the place in `known (N,)` of one that is nearly the same, or -1.

    Nearly: $J(A, B) = |A \cap B| / |A \cup B| \ge$ `similarity`, A and B the sets of runs of 5 letters (Chinese: 3)
    after case, width, punctuation and white space are levelled. Candidates come from 64 MinHashes in 16 bands of 4;
    each is verified on the full sets, so nothing below `similarity` is reported. Limits: a text below J = 0.8 by
    translation or paraphrase is not found; texts shorter than a run must be equal; of more than 40 candidates of one
    text, the 40 that look most alike are compared.
    Source: Broder (1997), On the resemblance and containment of documents; Leskovec et al., Mining of Massive Datasets,
    section 3.4 (bands).

    >>> from assay.values import texts
    >>> known = texts(["The parcel came late and the box was torn open.", "A quiet hotel close to the station."])
    >>> near_texts(texts(["The parcel came late, and the box was torn open!", "Quiet."]), known).tolist()
    [0, -1]
    """
    found = np.full(len(texts), -1, dtype=np.int64)
    if not len(texts) or not len(known):
        return found
    run = RUN.get(language, 5)
    left, right = [level(text) for text in texts.tolist()], [level(text) for text in known.tolist()]
    signatures = signature(left, run), signature(right, run)
    sets: dict[int, frozenset[str]] = {}
    for row, places in candidates(*signatures).items():
        alike = (signatures[1][places] == signatures[0][row]).mean(axis=1)
        order = np.argsort(-alike, kind="stable")[:MAX_CANDIDATES]
        own = shingles(left[row], run)
        for place in places[order[alike[order] >= similarity - 0.25]].tolist():  # four standard deviations below
            other = sets.setdefault(place, shingles(right[place], run))
            if len(own & other) >= similarity * len(own | other):
                found[row] = place
                break
    return found


def level(text: str) -> str:
    """Without differences of width, case, punctuation and white space; an all-punctuation text stays as it is."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _NOT_WORD.sub(" ", plain).strip() or text


def shingles(text: str, run: int) -> frozenset[str]:
    """All runs of letters; of a shorter text, itself."""
    return frozenset(text[i : i + run] for i in range(max(1, len(text) - run + 1)))


def signature(texts: Sequence[str], run: int) -> Array:
    """MinHashes `(N, 64)` uint32: the smallest value of each hash over a text's runs of letters."""
    rng = np.random.default_rng(1997)
    factors = rng.integers(0, 1 << 32, NUM_HASHES, dtype=np.uint32) | np.uint32(1)
    shifts = rng.integers(0, 1 << 32, NUM_HASHES, dtype=np.uint32)
    result = np.empty((len(texts), NUM_HASHES), dtype=np.uint32)
    begin = 0
    while begin < len(texts):
        end, size = begin, 0
        while end < len(texts) and (end == begin or size + len(texts[end]) <= CHUNK):
            size += len(texts[end])
            end += 1
        hashes, starts = run_hashes(texts[begin:end], run)
        for number in range(NUM_HASHES):
            mixed = (hashes ^ shifts[number]) * factors[number]
            mixed ^= mixed >> np.uint32(15)
            result[begin:end, number] = np.minimum.reduceat(mixed * np.uint32(0x846CA68B), starts)
        begin = end
    return result


def run_hashes(texts: Sequence[str], run: int) -> tuple[Array, Array]:
    """Hash of every run of letters, all texts in one array uint32, and where each text starts."""
    padded = [text.ljust(run, "\0") for text in texts]
    lengths = np.array([len(text) for text in padded])
    letters = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    total = np.zeros(len(letters) - run + 1, dtype=np.uint64)
    for offset in range(run):
        total = total * np.uint64(0x9E3779B97F4A7C15) + letters[offset : offset + len(total)]
    total ^= total >> np.uint64(29)
    total *= np.uint64(0xBF58476D1CE4E5B9)
    ends = np.cumsum(lengths)
    inside = np.ones(len(letters), dtype=bool)
    for back in range(1, run):  # runs that would cross into the next text
        inside[ends - back] = False
    counts = lengths - run + 1
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    hashes: Array = (total >> np.uint64(32)).astype(np.uint32)[inside[: len(total)]]
    return hashes, starts


def candidates(left: Array, right: Array) -> dict[int, Array]:
    """Rows of `right` that share a band with each row of `left`, by row of `left`; rows without any are left out."""
    rows, places = [], []
    powers = (np.uint64(0x9E3779B97F4A7C15) ** np.arange(BAND, dtype=np.uint64)).astype(np.uint64)
    for band in range(NUM_HASHES // BAND):
        part = slice(band * BAND, (band + 1) * BAND)
        keys = [(side[:, part].astype(np.uint64) * powers).sum(axis=1, dtype=np.uint64) for side in (left, right)]
        order = np.argsort(keys[1], kind="stable")
        ranked = keys[1][order]
        first, last = np.searchsorted(ranked, keys[0], "left"), np.searchsorted(ranked, keys[0], "right")
        sizes = np.minimum(last - first, MAX_CANDIDATES)
        hit = np.flatnonzero(sizes)
        within = np.arange(sizes[hit].sum()) - np.repeat(np.cumsum(sizes[hit]) - sizes[hit], sizes[hit])
        rows.append(np.repeat(hit, sizes[hit]))
        places.append(order[np.repeat(first[hit], sizes[hit]) + within])
    pairs = np.unique(np.stack([np.concatenate(rows), np.concatenate(places)], axis=1), axis=0)
    if not len(pairs):
        return {}
    heads, starts = np.unique(pairs[:, 0], return_index=True)
    return dict(zip(heads.tolist(), np.split(pairs[:, 1], starts[1:]), strict=True))
