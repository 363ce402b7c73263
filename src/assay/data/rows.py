"""Named raw rows to the float32 coding of a data set, and back: what serving and counterfactuals need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from assay.data._cells import Cells, from_list, from_series
from assay.data._problems import Problems, names_text, rows_text
from assay.data.coding import FLOAT32_MAX
from assay.values import Array, Column, Data, Groups

Rows = Sequence[Mapping[str, Any]] | pl.DataFrame
UnknownName = Literal["error", "code"]


def encode_rows(data: Data | Sequence[Column], rows: Rows, *, unknown: UnknownName = "error") -> Array:
    """Rows given by column name as `inputs (M, F)` float32, in the order of the columns, as the model was trained.

    Numeric: an int or float that float32 can hold; None is the training median where the data set was read with
    missing="median", else an error. Categorical: a text, true/false or whole number that training had; None is
    missing, coded -1; another value is an error, or -1 with `unknown="code"`. Group columns of `data` that are not
    features may be present. Everything wrong is listed at once, with rows from 1. Raises DataError.

    >>> columns = (Column("age", "numeric", low=0, high=99), Column("sex", "categorical", ("f", "m")))
    >>> encode_rows(columns, [{"age": 30, "sex": "m"}, {"age": 0.5, "sex": None}])
    array([[30. ,  1. ],
           [ 0.5, -1. ]], dtype=float32)
    """
    columns = data.columns if isinstance(data, Data) else tuple(data)
    allowed = {column.name for column in columns}
    fills: dict[str, float] = {}
    if isinstance(data, Data):
        allowed |= {column.name for column in data.group_columns}
        fills = data.medians
    problems = Problems()
    inputs = np.empty((len(rows), len(columns)), dtype=np.float32)
    for i, (column, cells) in enumerate(_read(rows, columns, allowed, problems)):
        if column.kind == "numeric":
            inputs[:, i] = _numbers(column.name, cells, fills.get(column.name), problems)
        else:
            inputs[:, i] = _codes(column, cells, unknown, problems)
    problems.stop_if_any()
    return inputs


def encode_groups(data: Data | Sequence[Column], rows: Rows, *, unknown: UnknownName = "error") -> Groups:
    """The group columns of rows given by name, codes `(M, G)`; other columns are ignored. Raises DataError.

    >>> encode_groups((Column("sex", "categorical", ("f", "m")),), [{"sex": "m"}, {"sex": None}]).codes
    array([[ 1],
           [-1]])
    """
    columns = data.group_columns if isinstance(data, Data) else tuple(data)
    problems = Problems()
    codes = np.full((len(rows), len(columns)), -1, dtype=np.int64)
    for i, (column, cells) in enumerate(_read(rows, columns, None, problems)):
        codes[:, i] = _codes(column, cells, unknown, problems)
    problems.stop_if_any()
    return Groups(codes, columns)


def decode_rows(data: Data | Sequence[Column], inputs: Array) -> list[dict[str, float | str | None]]:
    """`inputs (M, F)` as rows by name: numbers, category names, None where a code is -1.

    The inverse of `encode_rows`: encoding the result gives the same bits. Raises DataError for a shape or a code that
    is not of these columns, and for a number that is not finite.

    >>> decode_rows((Column("sex", "categorical", ("f", "m")),), np.array([[1.0], [-1.0]]))
    [{'sex': 'm'}, {'sex': None}]
    """
    columns = data.columns if isinstance(data, Data) else tuple(data)
    problems = Problems()
    inputs = np.asarray(inputs, dtype=np.float32)
    if inputs.ndim != 2 or inputs.shape[1] != len(columns):
        problems.error(f"inputs have shape {inputs.shape}", f"(M, {len(columns)})")
        problems.stop_if_any()
    decoded: list[list[Any]] = []
    for values, column in zip(inputs.T, columns, strict=True):
        if column.kind == "numeric":
            wrong = ~np.isfinite(values)
            decoded.append(values.tolist())
        else:
            size = len(column.categories)
            wrong = ~((values >= -1) & (values < size) & (values == np.floor(values)))
            names = np.array([*column.categories, None], dtype=object)  # code -1 is the last: None
            decoded.append(names[np.where(wrong, -1, values).astype(np.int64)].tolist())
        if wrong.any():
            allowed = "finite numbers" if column.kind == "numeric" else f"whole codes from -1 to {size - 1}"
            problems.error(f"column {column.name!r} has other values in {rows_text(wrong)}", allowed)
    problems.stop_if_any()
    names_of = [column.name for column in columns]
    return [dict(zip(names_of, row, strict=True)) for row in zip(*decoded, strict=True)]


def _read(
    rows: Rows, columns: Sequence[Column], allowed: set[str] | None, problems: Problems
) -> Iterator[tuple[Column, Cells]]:
    """The cells of each column; unknown and missing columns are problems. `allowed=None` lets every other one pass."""
    if isinstance(rows, pl.DataFrame):
        found = set(rows.columns)
    elif not rows:
        return
    else:
        nameless = np.array([not isinstance(row, Mapping) for row in rows], dtype=bool)
        if nameless.any():
            problems.error(f"{rows_text(nameless)} have no column names", "one object of column: value for each row")
            problems.stop_if_any()
        found = set().union(*rows)
    expected = names_text([column.name for column in columns], 50)
    if allowed is not None and not found <= allowed:
        unknown = sorted(str(name) for name in found - allowed)
        problems.error(f"unknown columns: {names_text(unknown)}", expected, "Leave them out, or check the spelling")
    for column in columns:
        if column.name not in found:
            problems.error(f"column {column.name!r} is not given", "a value, or null, in each row")
        elif isinstance(rows, pl.DataFrame):
            yield column, from_series(column, rows[column.name])
        else:
            absent = np.array([column.name not in row for row in rows], dtype=bool)
            if absent.any():
                problems.error(
                    f"column {column.name!r} is not given in {rows_text(absent)}", "a value, or null, in each row"
                )
            else:
                yield column, from_list(column, [row[column.name] for row in rows])


def _numbers(name: str, cells: Cells, fill: float | None, problems: Problems) -> Array:
    if cells.wrong.any():
        problems.error(f"column {name!r} is not a number but {cells.kinds} in {rows_text(cells.wrong)}", "a number")
    if cells.missing.any() and fill is None:
        problems.error(f"column {name!r} is null in {rows_text(cells.missing)}", "a number")
    outside = ~(np.abs(cells.values) <= FLOAT32_MAX) & ~cells.missing & ~cells.wrong  # ~(<=) is true for NaN
    if outside.any():
        problems.error(f"column {name!r} is not finite, or too large, in {rows_text(outside)}", "within ±3.4e38")
    fine = ~(outside | cells.missing | cells.wrong)
    return np.where(fine, cells.values, 0.0 if fill is None else fill)


def _codes(column: Column, cells: Cells, unknown: UnknownName, problems: Problems) -> Array:
    if cells.wrong.any():
        problems.error(f"column {column.name!r} is not text but {cells.kinds} in {rows_text(cells.wrong)}", "text")
    unseen = (cells.values < 0) & ~cells.missing & ~cells.wrong
    if unseen.any() and unknown == "error":
        values = names_text(sorted({repr(cells.raw[row]) for row in np.flatnonzero(unseen).tolist()}), 5)
        problems.error(
            f"column {column.name!r} has unknown values in {rows_text(unseen)}: {values}",
            names_text(list(column.categories), 50),
        )
    return cells.values
