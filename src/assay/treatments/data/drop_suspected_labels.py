"""Training rows whose label looks wrong are left out, but no group and class loses more than it can spare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.data.quality.confident import doubt, suspected
from assay.data.quality.simple_model import out_of_fold
from assay.registry import treatment
from assay.treatments import _common
from assay.treatments.data import _rows
from assay.values import Array, System

MIN_ROWS = 40


@treatment("data", moves=("higher:accuracy",))
def drop_suspected_labels(system: System, *, floor: float = 0.8, columns: Sequence[str] | None = None) -> System:
    r"""Leave out training rows that confident learning suspects, the most doubtful first; train again.

    Suspected: the row confidently looks like another class than its label, to a logistic regression that saw neither
    it nor a copy (four folds of the training split; no test row is read). Of every class within every crossed group of
    `columns` (None: all declared), at least the share `floor` of the rows stays. Limits: where classes overlap, rows
    that are right but unusual are dropped, and those are often of small groups: the outcome says how many of each
    group went. Labels of the test split stay as they are, wrong ones included, so an effect may not show.
    Raises TreatmentError without recipe or classes, for fewer than 40 training rows, or for a floor outside 0 to 1.

    Source: Northcutt, Jiang and Chuang 2021, Confident learning, JAIR 70, section 3 (prune off-diagonal counts).
    """
    declared = [column.name for column in system.data.group_columns]
    names, wrong = _common.chosen_columns(system, columns or declared) if columns or declared else ((), None)
    train = system.data.splits.get("train")
    is_enough = train is not None and len(train) >= MIN_ROWS
    problems = [
        *_rows.needs(system),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        _common.unless(is_enough, "it has too few training rows", f"{MIN_ROWS} or more"),
        _common.unless(0 <= floor <= 1, f"floor is {floor}", "a share from 0 to 1"),
        wrong,
    ]
    _common.refuse("drop_suspected_labels", system, problems)
    marked, doubts = _look(system)
    drop = keep_floor(marked, doubts, cells=_cells(system, names), floor=floor)
    _common.refuse("drop_suspected_labels", system, [_rows.empties_a_class(system, drop)])
    outcome = {
        "columns": list(names),
        "num_suspected": int(marked.sum()),
        "num_kept_by_floor": int((marked & ~drop).sum()),
    }
    parameters = {"floor": floor, "columns": None if columns is None else list(columns)}
    return _rows.without(system, drop, treatment="drop_suspected_labels", parameters=parameters, outcome=outcome)


def _look(system: System) -> tuple[Array, Array]:
    train, data = system.data.splits["train"], system.data
    extra = train.inputs[:0]
    found = out_of_fold(train.inputs, train.labels, data.columns, num_classes=len(data.classes), extra=extra)
    return suspected(train.labels, found), doubt(train.labels, found)


def _cells(system: System, names: Sequence[str]) -> Array:
    train = system.data.splits["train"]
    groups = _common.cells(train.groups, names)[0] if names else np.zeros(len(train), dtype=np.int64)
    cells: Array = groups * len(system.data.classes) + train.labels
    return cells


def keep_floor(marked: Array, doubts: Array, *, cells: Array, floor: float) -> Array:
    """Mask `(N,)` of marked rows to drop, most doubtful first, so that every cell keeps the share `floor` of its rows.

    >>> marked, cells = np.array([True, True, True, False]), np.zeros(4, dtype=int)
    >>> keep_floor(marked, np.array([0.1, 0.9, 0.5, 0.0]), cells=cells, floor=0.5).tolist()
    [False, True, True, False]
    """
    drop = np.zeros(len(marked), dtype=bool)
    for cell in np.unique(cells):
        inside = cells == cell
        rows = np.flatnonzero(inside & marked)
        spare = int(np.floor((1 - floor) * inside.sum() + 1e-9))
        drop[rows[np.argsort(-doubts[rows], kind="stable")][:spare]] = True
    return drop
