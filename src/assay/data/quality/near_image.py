"""Pictures that are nearly another one: coarse pictures find candidates, all pixels decide."""

from __future__ import annotations

import numpy as np

from assay.values import Array

GRID = 8  # the coarse picture is at most GRID x GRID to a channel
COARSE, SIMILAR = 0.75, 0.99
MAX_CANDIDATES = 5
CHUNK = 1 << 24  # products held in one go


def near_images(images: Array, known: Array, *, similarity: float = SIMILAR) -> Array:
    """For each picture `(M, C, H, W)` the place in `known (N, C, H, W)` of one that is nearly the same, or -1.

    Nearly: the correlation of all pixels is at least `similarity`, as they are or moved by one pixel up, down, left or
    right. So brightness, contrast, weak noise and a shift by one pixel do not hide a copy. Candidates: the five known
    pictures most correlated after averaging down to 8 x 8, all pairs being compared. Limits: a cropped, turned or
    mirrored copy is not found; a picture of one colour has no correlation and matches nothing.
    Source: average hashing, as in Zauner (2010), Implementation and benchmarking of perceptual image hash functions,
    section 3.2, with the correlation of the coarse pictures in place of a Hamming distance.

    >>> rng = np.random.default_rng(0)
    >>> known = rng.integers(0, 200, (5, 1, 12, 12)).astype(np.uint8)
    >>> near_images(np.stack([known[3] // 2 + 40, 200 - known[3]]), known).tolist()
    [3, -1]
    """
    found = np.full(len(images), -1, dtype=np.int64)
    if not len(images) or not len(known):
        return found
    left, right = standard(coarse(images)), standard(coarse(known))
    step = max(1, CHUNK // len(known))
    num = min(MAX_CANDIDATES, len(known))
    for begin in range(0, len(images), step):
        alike = left[begin : begin + step] @ right.T
        top = np.argpartition(-alike, num - 1, axis=1)[:, :num]
        best = np.take_along_axis(alike, top, axis=1)
        for row in np.flatnonzero((best >= COARSE).any(axis=1)):
            for place in top[row][np.argsort(-best[row])]:
                if alike[row, place] < COARSE:
                    break
                if correlation(images[begin + row], known[place]) >= similarity:
                    found[begin + row] = place
                    break
    return found


def coarse(images: Array) -> Array:
    """Averages of up to 8 x 8 fields of each channel, `(N, D)` float32."""
    num, channels, height, width = images.shape
    rows, columns = (np.linspace(0, size, min(GRID, size) + 1).round().astype(int)[:-1] for size in (height, width))
    pooled = np.add.reduceat(np.add.reduceat(images.astype(np.float32), rows, axis=2), columns, axis=3)
    area = np.diff([*rows, height])[:, None] * np.diff([*columns, width])[None, :]
    flat: Array = (pooled / area).reshape(num, channels * len(rows) * len(columns))
    return flat


def standard(flat: Array) -> Array:
    """Rows with mean 0 and length 1, so that their products are correlations; a row without spread becomes 0."""
    centred = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    scaled: Array = np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-6)
    return scaled


def correlation(one: Array, other: Array) -> float:
    """The largest correlation of the pixels of two pictures `(C, H, W)`, one of them moved by at most one pixel."""
    height, width = one.shape[1:]
    best = -1.0
    for down, across in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
        a = one[:, max(0, down) : height + min(0, down), max(0, across) : width + min(0, across)]
        b = other[:, max(0, -down) : height + min(0, -down), max(0, -across) : width + min(0, -across)]
        pair = standard(np.stack([a.ravel(), b.ravel()]).astype(np.float32))
        best = max(best, float(pair[0] @ pair[1]))
    return best
