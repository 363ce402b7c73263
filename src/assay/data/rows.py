"""Named raw rows to the float32 coding of a data set, and back: what serving and counterfactuals need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import polars as pl

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
    fills: Mapping[str, Any] = {}
    if isinstance(data, Data):
        allowed |= {column.name for column in data.group_columns}
        fills = data.source.get("imputed", {})
    problems = Problems()
    cells = _cells(rows, columns, allowed, problems)
    num_rows = len(rows)
    inputs = np.empty((num_rows, len(columns)), dtype=np.float32)
    for i, column in enumerate(columns):
        values, present = cells[column.name]
        if column.kind == "numeric":
            inputs[:, i] = _numbers(column.name, values, present, fills.get(column.name), problems)
        else:
            inputs[:, i] = _codes(column, values, present, unknown, problems)
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
    cells = _cells(rows, columns, None, problems)
    codes = np.full((len(rows), len(columns)), -1, dtype=np.int64)
    for i, column in enumerate(columns):
        codes[:, i] = _codes(column, *cells[column.name], unknown, problems)
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


Cells = dict[str, tuple[list[Any], Array]]  # values and which rows have the column at all `(M,)`


def _cells(rows: Rows, columns: Sequence[Column], allowed: set[str] | None, problems: Problems) -> Cells:
    """Values by column; unknown and missing columns are problems. `allowed=None` lets every other column pass."""
    if isinstance(rows, pl.DataFrame):
        found = set(rows.columns)
        everywhere, nowhere = np.ones(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
        cells = {
            c.name: (rows[c.name].to_list(), everywhere) if c.name in found else ([None] * len(rows), nowhere)
            for c in columns
        }
    else:
        wrong = np.array([not isinstance(row, Mapping) for row in rows], dtype=bool)
        if wrong.any():
            problems.error(f"{rows_text(wrong)} have no column names", "one object of column: value for each row")
            problems.stop_if_any()
        found = set().union(*rows)
        cells = {
            c.name: ([row.get(c.name) for row in rows], np.array([c.name in row for row in rows], dtype=bool))
            for c in columns
        }
    expected = names_text([column.name for column in columns], 50)
    if allowed is not None and not found <= allowed:
        unknown = sorted(str(name) for name in found - allowed)
        problems.error(f"unknown columns: {names_text(unknown)}", expected, "Leave them out, or check the spelling")
    for name, (_, present) in cells.items():
        if not present.all():
            where = f"in {rows_text(~present)}" if present.any() else "in every row"
            problems.error(f"column {name!r} is not given {where}", expected)
    return cells


def _mask(values: list[Any], present: Array, is_wrong: Callable[[Any], bool]) -> Array:
    return np.fromiter((is_wrong(value) for value in values), dtype=bool, count=len(values)) & present


def _numbers(name: str, values: list[Any], present: Array, fill: Any, problems: Problems) -> Array:
    wrong = _mask(values, present, lambda v: v is not None and (isinstance(v, bool) or not isinstance(v, _NUMBER)))
    if wrong.any():
        kinds = sorted({type(value).__name__ for value, bad in zip(values, wrong, strict=True) if bad})
        problems.error(f"column {name!r} is not a number but {', '.join(kinds)} in {rows_text(wrong)}", "a number")
    missing = _mask(values, present, lambda v: v is None)
    if missing.any() and fill is None:
        problems.error(f"column {name!r} is null in {rows_text(missing)}", "a number")
    default = float(fill["median"]) if fill is not None else 0.0
    usable = present & ~wrong & ~missing
    numbers = np.array([_float(v) if use else default for v, use in zip(values, usable, strict=True)], dtype=np.float64)
    outside = np.logical_not(np.abs(numbers) <= FLOAT32_MAX)  # true for NaN
    if outside.any():
        problems.error(f"column {name!r} is not a finite 32-bit number in {rows_text(outside)}", "±3.4e38")
    return np.where(outside, 0.0, numbers)


_NUMBER = (int, float, np.integer, np.floating)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return float("inf")


def _codes(column: Column, values: list[Any], present: Array, unknown: UnknownName, problems: Problems) -> Array:
    wrong = _mask(values, present, lambda v: v is not None and not isinstance(v, (str, int, np.integer)))
    if wrong.any():
        kinds = sorted({type(value).__name__ for value, bad in zip(values, wrong, strict=True) if bad})
        problems.error(f"column {column.name!r} is not text but {', '.join(kinds)} in {rows_text(wrong)}", "text")
    lookup = _lookup(column.categories)
    usable = present & ~wrong
    codes = np.array([lookup.get(_text(v), -1) if use else -1 for v, use in zip(values, usable, strict=True)], np.int64)
    if unknown == "error":
        unseen = (codes < 0) & usable & _mask(values, present, lambda v: v is not None)
        if unseen.any():
            found = names_text(sorted({repr(v) for v, bad in zip(values, unseen, strict=True) if bad}), 5)
            allowed = names_text(list(column.categories), 50)
            problems.error(f"column {column.name!r} has unknown values in {rows_text(unseen)}: {found}", allowed)
    return codes


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


@lru_cache(maxsize=256)
def _lookup(categories: tuple[str, ...]) -> dict[str | None, int]:
    return {name: code for code, name in enumerate(categories)}
