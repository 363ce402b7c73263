"""Which rows are the same: one integer for equal content, over any number of splits."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from assay.values import Array


def contents(inputs: Array) -> list[bytes]:
    """What makes each row `(N,)` itself, as bytes: cells, pixels, or the text but for runs of white space."""
    if inputs.dtype.kind == "T":
        return [" ".join(text.split()).encode("utf-8", "surrogatepass") for text in inputs.tolist()]
    if inputs.dtype.kind == "f":
        inputs = np.where(np.isnan(inputs), np.nan, inputs) + np.zeros(1, inputs.dtype)  # one NaN, one zero
    flat = np.ascontiguousarray(inputs).reshape(len(inputs), -1)
    return [row.tobytes() for row in flat]


def identities(*parts: Sequence[bytes]) -> list[Array]:
    """For each list of contents its integers `(N,)`: equal if and only if the contents are, across all lists.

    >>> [found.tolist() for found in identities([b"x", b"y", b"x"], [b"y", b"z"])]
    [[0, 1, 0], [1, 2]]
    """
    known: dict[bytes, int] = {}
    return [np.array([known.setdefault(one, len(known)) for one in part], dtype=np.int64) for part in parts]


def labelled(inputs: Array, labels: Array) -> list[bytes]:
    """Contents together with labels."""
    return [content + b"\0" + label for content, label in zip(contents(inputs), contents(labels), strict=True)]


def repeats(codes: Array) -> Array:
    """Mask `(N,)` of the rows whose code an earlier row has.

    >>> repeats(np.array([3, 1, 3, 3])).tolist()
    [False, False, True, True]
    """
    mask = np.ones(len(codes), dtype=bool)
    mask[np.unique(codes, return_index=True)[1]] = False
    return mask


def folds(parts: Sequence[bytes], num_folds: int) -> Array:
    """A fold `(N,)` for each content: copies share one, and the order of rows does not matter."""
    return np.array([zlib.crc32(one) % num_folds for one in parts], dtype=np.int64)
