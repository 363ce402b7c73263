"""Columns of a table that say nothing, or that name the row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from assay.data.quality.report import QualityRow
from assay.values import Array, Column, Data

MIN_ROWS = 50  # below, all values differ by chance
UNIQUE = 0.9
NO_RATE = "a count of columns, which are not drawn from anywhere"
ADVICE = {
    "constant column": "It carries nothing: leave it out",
    "identifier-like column": "It names rows rather than describing them: leave it out",
}


def check_columns(data: Data) -> Iterator[QualityRow]:
    """A row for each constant and each identifier-like column of the training rows; a row that says none was found."""
    train, num = data.splits["train"], len(data.columns)
    found: dict[str, list[str]] = {kind: [] for kind in ADVICE}
    for place, column in enumerate(data.columns):
        values = train.inputs[:, place]
        if len(values) and len(np.unique(values)) == 1:
            found["constant column"].append(column.name)
        elif is_identifier(values, column):
            found["identifier-like column"].append(column.name)
    for kind, names in found.items():
        for name in names:
            yield QualityRow(kind, f"column {name}", 1, num, None, None, None, (), ADVICE[kind], NO_RATE)
        if not names:
            yield QualityRow(kind, "train", 0, num, None, None, None, (), "", NO_RATE)


def is_identifier(values: Array, column: Column) -> bool:
    """Whether at least 90 % of the rows `(N,)` have a value of their own: codes, or whole numbers that fill a range.

    Limits: a measured whole number that is rarely the same twice (an income in cents) leaves gaps and is not called
    one; an account number that leaves gaps is missed.

    >>> is_identifier(np.arange(100.0) + 7, Column("case", "numeric"))
    True
    """
    seen = values[~np.isnan(values)] if column.kind == "numeric" else values[values >= 0]
    distinct = len(np.unique(seen))
    if len(values) < MIN_ROWS or distinct < UNIQUE * len(values):
        return False
    if column.kind == "categorical":
        return True
    whole = bool((seen == np.floor(seen)).all())
    # The numbers in between may be in another split: up to three times as many places as values.
    return whole and bool(np.ptp(seen.astype(np.float64)) < 3 * distinct)
