"""From arrays with a class and a split each to `Data`: what every picture and text loader ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.data.declare import SPLIT_NAMES
from assay.values import Array, Column, Data, Groups, Split


@dataclass(frozen=True)
class Rows:
    """`inputs (N, ...)`, `labels (N,)` class indices, `assigned (N,)` 0 train, 1 validation, 2 test (-1 dropped).

    `codes (N, G)` index into the group columns; `numbers (N,)` are the rows' numbers in the source, from 1.
    """

    inputs: Array
    labels: Array
    assigned: Array
    codes: Array | None = None
    group_columns: tuple[Column, ...] = ()
    numbers: Array | None = None


def assemble(
    name: str,
    column: Column,
    rows: Rows,
    *,
    classes: tuple[str, ...],
    positive: str | None = None,
    source: Mapping[str, Any],
) -> Data:
    """`Data` with one feature column. Rows assigned -1 are left out."""
    num = len(rows.labels)
    codes = np.zeros((num, 0), dtype=np.int64) if rows.codes is None else rows.codes.astype(np.int64)
    numbers = np.arange(1, num + 1, dtype=np.int64) if rows.numbers is None else rows.numbers
    whole = Split(rows.inputs, rows.labels.astype(np.int64), Groups(codes, rows.group_columns), numbers)
    splits = {split: whole.take(np.flatnonzero(rows.assigned == code)) for code, split in enumerate(SPLIT_NAMES)}
    counts = {split: np.bincount(one.labels, minlength=len(classes)).tolist() for split, one in splits.items()}
    num_kept = int((rows.assigned >= 0).sum())
    facts = {**source, "num_rows": num_kept, "num_train": len(splits["train"]), "class_counts": counts}
    return Data(name, (column,), "class", rows.group_columns, splits, classes, positive, facts)
