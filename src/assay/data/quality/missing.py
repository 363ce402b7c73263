"""Values that are not there: cells, empty texts, blank pictures, unknown groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from assay.data.quality.report import QualityRow, share_row
from assay.parts import modality
from assay.values import Array, Column, Data

KIND = "missing values"


def missing(inputs: Array, column: Column, place: int = 0) -> Array:
    """Mask `(N,)`: a number that is NaN, a category coded -1, a text of white space only, a picture of one colour."""
    if column.kind == "text":
        return np.array([not text.strip() for text in inputs.tolist()], dtype=bool)
    if column.kind == "image":
        flat = inputs.reshape(len(inputs), -1)
        blank: Array = flat.min(axis=1) == flat.max(axis=1) if len(flat) else np.zeros(0, dtype=bool)
        return blank
    cells = inputs[:, place]
    return np.isnan(cells) if column.kind == "numeric" else (cells < 0) | np.isnan(cells)


def check_missing(data: Data, *, level: float) -> Iterator[QualityRow]:
    """One row for each split and column where something is missing; else one row that says so for the split."""
    what = {"text": "Drop or fill the empty texts", "image": "Look at the blank pictures"}
    advice = what.get(
        modality(data.columns), "Fill them by a rule fitted on train (fill_missing), or say why they are missing"
    )
    for name, split in data.splits.items():
        any_missing = np.zeros(len(split), dtype=bool)
        for place, column in enumerate(data.columns):
            mask = missing(split.inputs, column, place)
            any_missing |= mask
            if mask.any():
                yield share_row(KIND, f"{name}: {column.name}", mask, numbers=split.rows, level=level, advice=advice)
        for place, column in enumerate(data.group_columns):
            mask = split.groups.codes[:, place] < 0
            if mask.any():
                unknown = "Rows without a group are in no comparison of groups: find out who they are"
                where = f"{name}: group {column.name}"
                yield share_row(KIND, where, mask, numbers=split.rows, level=level, advice=unknown)
        if not any_missing.any():
            yield share_row(KIND, name, any_missing, numbers=split.rows, level=level)
