"""Two ways in which a result can be too good: the label among the features, test rows that were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from assay.data._features import Table
from assay.data._labels import Labels
from assay.data._problems import Problems, rows_text
from assay.data.splits import TEST, TRAIN
from assay.values import Array, Column

_INDEX = "row among the candidates"
MIN_ROWS = 20  # below, a one-to-one match with the label happens by chance


def check_leaks(inputs: Array, columns: Sequence[Column], labels: Labels, problems: Problems) -> None:
    """A feature that is the label again: one value per class in every row, or a straight line of the target.

    Limits: finds copies, not consequences of the label (a payment that only the approved make).
    """
    if len(inputs) < MIN_ROWS or inputs.shape[1] != len(columns):
        return
    for i, column in enumerate(columns):
        if _is_copy(inputs[:, i], column, labels):
            problems.error(
                f"feature {column.name!r} says the label exactly, in all {len(inputs)} rows",
                next="It leaks the label: leave it out of the features",
            )


def _is_copy(values: Array, column: Column, labels: Labels) -> bool:
    if np.isnan(values).any() or np.isnan(labels.values).any():
        return False
    if not labels.classes:
        wide, target = values.astype(np.float64), labels.values.astype(np.float64)
        if column.kind == "categorical" or not np.ptp(wide) or not np.ptp(target):
            return False
        return bool(abs(np.corrcoef(wide, target)[0, 1]) > 1 - 1e-9)
    num_classes = len(labels.classes)
    if len(np.unique(values[:1000])) > num_classes:  # settles nearly every column without sorting all of it
        return False
    found, codes = np.unique(values, return_inverse=True)
    if len(found) != num_classes or (labels.values < 0).any():
        return False
    pairs = np.bincount(codes * num_classes + labels.values, minlength=num_classes**2)
    return bool(np.count_nonzero(pairs) == num_classes)


def check_shared_rows(table: Table, problems: Problems) -> dict[str, Any]:
    """How many test rows have a training row with the same features and label; rows are kept as they are.

    Equal rows may be different people, so this is recorded, not refused; a high share flatters every result.
    """
    columns = [*table.features, table.declaration.label]
    rows = table.frame.select(columns)
    train, test = rows.filter(table.assigned == TRAIN), rows.filter(table.assigned == TEST)
    hashes = train.hash_rows().to_numpy(), test.hash_rows().to_numpy()
    candidates = np.flatnonzero(np.isin(hashes[1], hashes[0]))  # few: only these are compared cell by cell
    known = train.filter(np.isin(hashes[0], hashes[1][candidates])).unique()
    marked = test[candidates].with_row_index(_INDEX).join(known, on=columns, how="semi", nulls_equal=True)[_INDEX]
    if len(marked):
        mask = np.zeros(len(table.frame), dtype=bool)
        mask[np.flatnonzero(table.assigned == TEST)[candidates[marked.to_numpy()]]] = True
        share = len(marked) / len(test)
        problems.note(
            f"{share:.1%} of the test rows have the same features and label as a training row: {rows_text(mask)}"
        )
    return {"test_rows_also_in_train": len(marked), "test_rows": len(test)}
