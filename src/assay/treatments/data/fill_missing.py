"""Missing cells of a table get the most frequent category or the median of the training rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from assay.data.quality.missing import missing
from assay.registry import EVERY_TASK, treatment
from assay.treatments import _common, _counts
from assay.treatments.data import _rows
from assay.values import Column, Split, System


@treatment("data", moves=("higher:accuracy",), tasks=EVERY_TASK)
def fill_missing(system: System) -> System:
    """Fill missing cells of every split by a rule fitted on train alone, and train again.

    A missing number becomes the median, a missing (or never seen) category the most frequent one, of the training rows
    that have it. Sensitive columns and labels are not touched: an unknown group stays unknown. The outcome, which
    anybody may read, tells about how many cells were filled, and no median. Limits: that a cell was missing may itself
    tell something, and is lost; the filled system was measured on filled test rows, so where test has missing cells it
    cannot be compared row by row with the one before; inputs that the system is asked about later are not filled.
    Raises TreatmentError without recipe, for images or texts, or where a column with missing cells has no value in
    train.

    Source: Little and Rubin 2019, Statistical analysis with missing data, 3rd edition, section 4.2 (unconditional
    means), with the median, which one far value does not move.
    """
    kind = system.data.modality
    problems = [*_rows.needs(system), _common.unless(kind == "table", f"its inputs are {kind}s", "tables")]
    _common.refuse("fill_missing", system, problems)
    train, columns = system.data.splits["train"], system.data.columns
    values = {column.name: _value(train, column, place) for place, column in enumerate(columns)}
    counts: dict[str, dict[str, int]] = {}
    splits = {
        name: _filled(split, columns, values, counts.setdefault(name, {})) for name, split in system.data.splits.items()
    }
    empty = sorted({name for found in counts.values() for name in found if values[name] is None})
    _common.refuse(
        "fill_missing",
        system,
        [_common.unless(not empty, f"no training row has a value of {', '.join(empty)}", following="Leave it out")],
    )
    filled = {
        name: {column: _counts.about(num, of=len(system.data.splits[name])) for column, num in found.items()}
        for name, found in counts.items()
    }
    outcome = {"filled": filled, "values": {name: _shown(columns, name, values[name]) for name in _touched(counts)}}
    return _rows.again(system, splits, treatment="fill_missing", parameters={}, outcome=outcome)


def _value(train: Split, column: Column, place: int) -> float | None:
    cells = train.inputs[:, place]
    seen = cells[~missing(train.inputs, column, place)]
    if not len(seen):
        return None
    if column.kind == "numeric":
        return float(np.float32(np.median(seen)))
    return float(np.bincount(seen.astype(np.int64)).argmax())


def _filled(
    split: Split, columns: tuple[Column, ...], values: dict[str, float | None], counts: dict[str, int]
) -> Split:
    inputs = split.inputs
    for place, column in enumerate(columns):
        mask = missing(split.inputs, column, place)
        value = values[column.name]
        if mask.any():
            counts[column.name] = int(mask.sum())
            if value is not None:
                inputs = inputs.copy() if inputs is split.inputs else inputs
                inputs[mask, place] = value
    return split if inputs is split.inputs else replace(split, inputs=inputs)


def _touched(counts: dict[str, dict[str, int]]) -> list[str]:
    return sorted({name for found in counts.values() for name in found})


def _shown(columns: tuple[Column, ...], name: str, value: float | None) -> Any:
    column = next(one for one in columns if one.name == name)
    return column.categories[int(value)] if column.kind == "categorical" and value is not None else _counts.MEDIAN
