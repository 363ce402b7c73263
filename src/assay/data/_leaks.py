"""Two ways in which a result can be too good: the label among the features, test rows that were trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.data._labels import Labels
from assay.data._problems import Problems, rows_text
from assay.data.splits import keyed_hash
from assay.values import Array, Column, Split

_FEW = 1000  # rows that settle nearly every column without sorting all of it
MIN_ROWS = 20  # below, a one-to-one match with the label happens by chance


def check_leak(values: Array, column: Column, labels: Labels | None, problems: Problems) -> None:
    """A feature `(N,)` that is the label again: one value per class in every row, or a straight line of the target.

    Limits: finds copies, not consequences of the label (a payment that only the approved make).
    """
    if labels is not None and len(values) >= MIN_ROWS and _is_copy(values, column, labels):
        problems.error(
            f"feature {column.name!r} says the label exactly, in all {len(values)} rows",
            next="It leaks the label: leave it out of the features",
        )


def cannot_copy(values: Array, labels: Labels | None) -> Array:
    """Which of the features `(N, F)` have more values than there are classes, `(F,)` bool: `check_leak` finds nothing.

    The first thousand rows of all of them at once.
    """
    if labels is None or labels.names or not labels.classes:
        return np.zeros(values.shape[1], dtype=bool)
    ordered = np.sort(values[:_FEW], axis=0)
    found: Array = (ordered[1:] != ordered[:-1]).sum(axis=0) + 1 > len(labels.classes)
    return found


def _is_copy(values: Array, column: Column, labels: Labels) -> bool:
    if np.isnan(values).any() or np.isnan(labels.values).any():
        return False
    if labels.names:
        return any(_is_copy(values, column, Labels(one, ("0", "1"))) for one in labels.values.T)
    if not labels.classes:
        wide, target = values.astype(np.float64), labels.values.astype(np.float64)
        if column.kind == "categorical" or not np.ptp(wide) or not np.ptp(target):
            return False
        return bool(abs(np.corrcoef(wide, target)[0, 1]) > 1 - 1e-9)
    num_classes = len(labels.classes)
    if len(np.unique(values[:_FEW])) > num_classes:
        return False
    found, codes = np.unique(values, return_inverse=True)
    if len(found) != num_classes or (labels.values < 0).any():
        return False
    pairs = np.bincount(codes * num_classes + labels.values, minlength=num_classes**2)
    return bool(np.count_nonzero(pairs) == num_classes)


def check_shared_rows(train: Split, test: Split, problems: Problems) -> dict[str, Any]:
    """How many test rows have a training row with the same label and features, as the model sees them.

    Equal rows may be different people, so this is recorded, not refused; a high share flatters every result.
    """
    hashes = _hashes(train), _hashes(test)
    known = np.unique(hashes[0])
    at = np.searchsorted(known, hashes[1]).clip(max=len(known) - 1)
    candidates = np.flatnonzero(known[at] == hashes[1])  # few: only these are compared cell by cell
    suspects = np.flatnonzero(np.isin(hashes[0], hashes[1][candidates]))
    told = {bytes(row) for row in np.unique(_bytes(train, suspects), axis=0)}
    shared = np.array([bytes(row) in told for row in _bytes(test, candidates)], dtype=bool)
    if shared.any():
        found = candidates[shared]
        mask = np.zeros(int(test.rows.max()), dtype=bool)
        mask[test.rows[found] - 1] = True
        share = len(found) / len(test)
        problems.note(
            f"{share:.1%} of the test rows have the same features and label as a training row: {rows_text(mask)}"
        )
    return {"test_rows_also_in_train": int(shared.sum()), "test_rows": len(test)}


def _hashes(split: Split) -> Array:
    """One uint64 for each row; column by column, so that nothing as large as the table is made."""
    total = np.zeros(len(split), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for place, cells in enumerate((*split.inputs.T, *np.atleast_2d(split.labels.T))):
            bits = (cells.astype(np.float32) + np.float32(0)).view(np.uint32)  # -0 and 0 are one number
            total = keyed_hash(total ^ bits, place)
    return total


def _bytes(split: Split, rows: Array) -> Array:
    """`(n, 4 F + 4)`: the cells and the label of some rows."""
    cells = np.column_stack([split.inputs[rows], split.labels[rows].astype(np.float32)]) + np.float32(0)
    return np.ascontiguousarray(cells).view(np.uint8)
