"""Rows that nobody wrote, drew or is: put together from parts of different rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from assay.units.text import words
from assay.values import Array, texts

GRID = 4  # a picture is cut into 4 x 4 patches


def taken_apart(inputs: Array, kind: str, language: str, rng: np.random.Generator) -> Array:
    """Rows `(M, ...)` put together from parts of these rows; every part is real.

    >>> taken_apart(texts(["a b", "c"]), "text", "en", np.random.default_rng(0)).tolist()
    ['c a', 'b']
    """
    if kind == "text":
        split = [words(text, language) for text in inputs.tolist()]
        pool = [word for one in split for word in one]
        pool = [pool[place] for place in rng.permutation(len(pool))]
        ends = np.cumsum([0, *map(len, split)])
        gap = "" if language in ("zh", "ja", "th") else " "
        dealt = (pool[start:end] for start, end in pairwise(ends))
        return texts(gap.join(word.strip() for word in one) for one in dealt)
    if kind == "image":
        return _patches_shuffled(inputs, rng)
    apart = inputs.copy()
    for place in range(apart.shape[1]):
        apart[:, place] = apart[rng.permutation(len(apart)), place]
    return apart


def _patches_shuffled(inputs: Array, rng: np.random.Generator) -> Array:
    """Each picture's 4 x 4 patches in an order of its own; rows and columns of pixels left over stay."""
    apart = inputs.copy()
    num, channels, height, width = inputs.shape
    h, w = height // GRID, width // GRID
    if not h or not w:
        return apart
    whole = inputs[:, :, : h * GRID, : w * GRID].reshape(num, channels, GRID, h, GRID, w)
    patches = whole.transpose(0, 2, 4, 1, 3, 5).reshape(num, GRID * GRID, channels, h, w)
    order = rng.permuted(np.tile(np.arange(GRID * GRID), (num, 1)), axis=1)
    patches = np.take_along_axis(patches, order[:, :, None, None, None], axis=1)
    back = patches.reshape(num, GRID, GRID, channels, h, w).transpose(0, 3, 1, 4, 2, 5)
    apart[:, :, : h * GRID, : w * GRID] = back.reshape(num, channels, h * GRID, w * GRID)
    return apart
