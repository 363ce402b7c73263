"""What the picture sets share: the IDX format, and building `Data` from pictures with a published split."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from assay.data.sources.assemble import Rows, assemble
from assay.data.splits import TEST, TRAIN, add_validation
from assay.errors import DataError, Problem
from assay.values import Array, Column, Data

Pictures = tuple[Array, Array, Array, Array]  # training pictures (N, H, W) and labels, test pictures and labels
IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(raw: bytes) -> Array:
    """An array of bytes in the IDX format: two zero bytes, type 8, the number of axes, their lengths, the bytes.

    Source: LeCun, Cortes, Burges, the MNIST database, "file formats". Raises DataError.

    >>> idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    array([7, 9], dtype=uint8)
    """
    num_axes = raw[3] if len(raw) > 3 else 0
    start = 4 + 4 * num_axes
    if raw[:3] != b"\0\0\x08" or len(raw) < start:
        raise DataError(Problem("the bytes are not of the IDX format", "a head 0, 0, 8"))
    shape = struct.unpack(f">{num_axes}I", raw[4:start])
    if len(raw) - start != int(np.prod(shape, dtype=np.int64)):
        raise DataError(Problem(f"an IDX file says {shape}, and has {len(raw) - start} bytes", "as many as it says"))
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def to_idx(array: Array) -> bytes:
    """The inverse of `idx`, for arrays of uint8."""
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def read_idx(files: Mapping[str, bytes]) -> Pictures:
    """The four files of MNIST and its relatives, by their usual names."""
    train, train_labels, test, test_labels = (idx(files[name]) for name in IDX_NAMES)
    return train, train_labels, test, test_labels


def image_data(
    name: str,
    pictures: Pictures,
    *,
    classes: tuple[str, ...],
    validation: float,
    seed: int,
    source: Mapping[str, Any],
) -> Data:
    """`Data` of grey pictures with a published split; validation is carved from train by seed, stratified by class."""
    train, train_labels, test, test_labels = pictures
    inputs = np.concatenate([train, test])[:, None]
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    published = np.repeat([TRAIN, TEST], [len(train), len(test)])
    assigned = add_validation(published, labels, validation=validation, seed=seed)
    by = {"by": "published", "validation": validation, "seed": seed}
    return assemble(
        name,
        image_column(inputs),
        Rows(inputs, labels, assigned),
        classes=classes,
        source={**source, "splits": by},
    )


def image_column(inputs: Array) -> Column:
    """The column of pictures `(N, C, H, W)` of bytes."""
    shape = tuple(int(side) for side in inputs.shape[1:])
    return Column("image", "image", low=0.0, high=255.0, shape=shape)
