"""Rows that are there twice: within a split, across splits, and with labels that disagree."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from assay.data.quality.identity import contents, identities, labelled, repeats
from assay.data.quality.near import near_copies
from assay.data.quality.report import QualityRow, of_these_rows, share_row
from assay.data.quality.table_rows import copies, first_of_each, row_hashes
from assay.values import Array, Data, Split


def conflicting(codes: Array, labels: Array) -> Array:
    """Mask `(N,)` of the rows that share their inputs' code with a row of another label.

    >>> conflicting(np.array([0, 0, 1, 1]), np.array([1, 0, 1, 1])).tolist()
    [True, True, False, False]
    """
    if not len(codes):
        return np.zeros(0, dtype=bool)
    _, names = np.unique(labels, return_inverse=True)
    pairs = np.unique(np.stack([codes, names.reshape(-1)], axis=1), axis=0)
    mask: Array = np.bincount(pairs[:, 0], minlength=int(codes.max()) + 1)[codes] > 1
    return mask


def copies_of_train(train: Split, other: Split) -> Array:
    """Mask over `other (M,)`: rows whose inputs and label some training row has."""
    if is_table(train.inputs):
        return copies(other.inputs, train.inputs, (other.labels, train.labels))
    known, codes = identities(labelled(train.inputs, train.labels), labelled(other.inputs, other.labels))
    mask: Array = np.isin(codes, known)
    return mask


def near_of_train(data: Data, name: str) -> Array:
    """Mask over the rows of a split that are nearly, but not exactly, some training row; labels play no part."""
    train, other = data.splits["train"], data.splits[name]
    if is_table(train.inputs):
        unlike = np.flatnonzero(~copies(other.inputs, train.inputs))
        once = first_of_each(row_hashes(train.inputs))
    else:
        known, codes = identities(contents(train.inputs), contents(other.inputs))
        unlike = np.flatnonzero(~np.isin(codes, known))
        once = np.flatnonzero(~repeats(known))
    kept = train.inputs if len(once) == len(train) else train.inputs[once]  # not a copy where nothing repeats
    near = near_copies(other.inputs[unlike], kept, data.columns)
    mask = np.zeros(len(other), dtype=bool)
    mask[unlike[near >= 0]] = True
    return mask


def is_table(inputs: Array) -> bool:
    """Whether these are rows of cells `(N, F)`."""
    return inputs.ndim == 2 and inputs.dtype.kind == "f"


def check_duplicates(data: Data, *, level: float, near: bool = True) -> Iterator[QualityRow]:
    """Repeats within every split, rows of equal inputs and unequal labels, copies and near copies across splits."""
    for name, split in data.splits.items():
        advice = "Drop the copies (drop_duplicates), unless they are different persons" if name == "train" else ""
        advice = advice or "Each copy counts twice in every measurement: drop it where the data are made"
        mask = repeats(identities(labelled(split.inputs, split.labels))[0])
        row = share_row("duplicate rows", name, mask, numbers=split.rows, level=level, advice=advice)
        yield of_these_rows(row)
    if data.classes:
        for name, split in data.splits.items():
            mask = conflicting(identities(contents(split.inputs))[0], split.labels)
            advice = "No model can be right about both: have these rows labelled again"
            row = share_row("conflicting labels", name, mask, numbers=split.rows, level=level, advice=advice)
            yield of_these_rows(row)
    for name in [name for name in data.splits if name != "train"]:
        split = data.splits[name]
        mask = copies_of_train(data.splits["train"], split)
        advice = "Results on them show memory, not skill: drop the training copies (drop_duplicates)"
        where = f"{name} in train"
        yield share_row("copies across splits", where, mask, numbers=split.rows, level=level, advice=advice)
        if near:
            mask = near_of_train(data, name)
            advice = "Look at the pairs; drop the training ones (drop_duplicates, near) if they are the same thing"
            yield share_row("near copies across splits", where, mask, numbers=split.rows, level=level, advice=advice)
