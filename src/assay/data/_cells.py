"""The cells of one named column of new rows, read without judging them: from Python values, or from a series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl

from assay.data.coding import codes_of, kind_of, numbers_of, text_of
from assay.values import Array, Column

_NUMBER = (int, float, np.integer, np.floating)
_NAME = (str, *_NUMBER)


@dataclass(frozen=True)
class Cells:
    """`values (M,)`: float64 numbers, or int64 codes (-1 not known). `missing`, `wrong (M,)`: null, or another type."""

    values: Array
    missing: Array
    wrong: Array
    kinds: str  # names of the wrong types
    raw: list[Any] | pl.Series


def from_list(column: Column, values: list[Any]) -> Cells:
    """Python values, as decoded JSON gives them; true and false are not numbers.

    >>> from_list(Column("age", "numeric"), [30, None, "x"]).wrong
    array([False, False,  True])
    """
    types = _NUMBER if column.kind == "numeric" else _NAME
    missing = np.array([value is None for value in values], dtype=bool)
    if column.kind == "numeric":
        wrong = np.array([isinstance(v, bool) or not isinstance(v, types) for v in values], dtype=bool) & ~missing
    else:
        wrong = np.array([not isinstance(v, types) for v in values], dtype=bool) & ~missing
    kinds = ", ".join(sorted({type(values[row]).__name__ for row in np.flatnonzero(wrong)}))
    usable = ~(missing | wrong)
    if column.kind == "numeric":
        read = [_float(v) if use else 0.0 for v, use in zip(values, usable, strict=True)]
        return Cells(np.array(read, dtype=np.float64), missing, wrong, kinds, values)
    lookup = _lookup(column.categories)
    codes = [lookup.get(_text(v), -1) if use else -1 for v, use in zip(values, usable, strict=True)]
    return Cells(np.array(codes, dtype=np.int64), missing, wrong, kinds, values)


def from_series(column: Column, series: pl.Series) -> Cells:
    """A whole column at once. A number column must have a number type; NaN is a number that is not finite.

    >>> from_series(Column("sex", "categorical", ("f", "m")), pl.Series(["m", None, "x"])).values
    array([ 1, -1, -1])
    """
    kind = kind_of(series)
    is_wrong = kind is None or (column.kind == "numeric" and kind != "numeric")
    missing = series.is_null().to_numpy()
    wrong = np.full(len(series), is_wrong) & ~missing
    if is_wrong:
        values: Array = np.full(len(series), -1, dtype=np.int64)
    else:
        values = numbers_of(series) if column.kind == "numeric" else codes_of(text_of(series), column.categories)
    return Cells(values, missing, wrong, str(series.dtype), series)


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return float("inf")


def _text(value: Any) -> str:
    """As `coding.text_of`: whole numbers without a point, true and false in lower case."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < 2**53:
        return str(int(value))
    return str(value)


@lru_cache(maxsize=256)
def _lookup(categories: tuple[str, ...]) -> dict[str, int]:
    return {name: code for code, name in enumerate(categories)}
