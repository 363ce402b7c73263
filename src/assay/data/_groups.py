"""The group columns: values from all rows, because a group that only the test split has must not vanish."""

from __future__ import annotations

import numpy as np

from assay.data._features import Table
from assay.data._problems import Problems, names_text, rows_text
from assay.data.coding import codes_of, kind_of, text_of, values_in
from assay.data.declare import SPLIT_NAMES
from assay.values import Array, Column, Groups

MAX_GROUPS = 100  # values of one group column


def code_groups(table: Table, problems: Problems) -> Groups:
    """Codes `(N, G)` int16, -1 missing. Small groups are kept: a probe says itself when one is too small."""
    codes: list[Array] = []
    columns: list[Column] = []
    for name in table.declaration.groups:
        if name not in table.frame.columns:
            continue
        series = table.frame[name]
        if kind_of(series) is None:
            problems.error(f"group column {name!r} is of type {series.dtype}", "text, true/false or whole numbers")
            continue
        text = text_of(series)
        found = values_in(text)
        values = tuple(table.declaration.group_values.get(name, found))
        if not found or len(found) > MAX_GROUPS:
            problems.error(
                f"group column {name!r} has {len(found)} different values",
                f"1 to {MAX_GROUPS}",
                "Make bands of a number (18-25, 26-40, ...) in a new column",
            )
            continue
        code = codes_of(text, values)
        _check_values(name, (values, found), (code, text.is_null().to_numpy()), table, problems)
        codes.append(code.astype(np.int16))
        columns.append(Column(name, "categorical", values))
    stacked = np.stack(codes, axis=1) if codes else np.zeros((len(table.frame), 0), dtype=np.int16)
    return Groups(stacked, tuple(columns))


def _check_values(
    name: str,
    values: tuple[tuple[str, ...], tuple[str, ...]],
    cells: tuple[Array, Array],
    table: Table,
    problems: Problems,
) -> None:
    declared, found = values
    code, missing = cells
    unknown = (code < 0) & ~missing
    if unknown.any():
        others = names_text([value for value in found if value not in declared])
        problems.error(
            f"group column {name!r} has undeclared values in {rows_text(unknown)}: {others}", names_text(list(declared))
        )
    absent = [value for value in declared if value not in found]
    if absent:
        problems.error(
            f"group column {name!r} has no rows with the declared {names_text(absent)}",
            names_text(list(found)),
            "Check the spelling, or declare only what is there",
        )
    if missing.any():
        problems.note(f"group column {name!r} is missing in {rows_text(missing)}: these rows are in none of its groups")
    if len(found) == 1:
        problems.note(f"group column {name!r} is {found[0]!r} in every row: there is nothing to compare")
    for split, split_name in enumerate(SPLIT_NAMES):
        inside = table.assigned == split
        counts = np.bincount(code[inside & (code >= 0)], minlength=len(declared))
        empty = [value for value, count in zip(declared, counts, strict=True) if not count and value in found]
        if empty and inside.any():
            problems.note(f"group column {name!r}: no rows of {names_text(empty)} in the {split_name} split")
