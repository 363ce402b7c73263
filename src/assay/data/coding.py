"""From one column of a table to numbers: text, codes, ranges. Vectorised; no loop over rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl

from assay.values import Array, Column

FLOAT32_MAX = float(np.finfo(np.float32).max)
EXACT_MAX = 2.0**24  # float32 holds every whole number up to here


def kind_of(series: pl.Series) -> Literal["numeric", "categorical"] | None:
    """How a column of this type is read by default; None for a type that is neither (dates, lists, bytes)."""
    dtype = series.dtype
    if dtype.is_numeric():
        return "numeric"
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
        return "categorical"
    return "numeric" if dtype == pl.Null else None


def text_of(series: pl.Series) -> pl.Series:
    """The column as text: whole numbers without a point, true/false in lower case, NaN as missing.

    >>> text_of(pl.Series([1.0, 2.5, None])).to_list()
    ['1', '2.5', None]
    """
    if not series.dtype.is_float():
        return series.cast(pl.String)
    number = pl.col("number")
    is_whole = (number == number.floor()) & (number.abs() < 2**53)
    text = pl.when(is_whole).then(number.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(number.cast(pl.String))
    frame = series.cast(pl.Float64).fill_nan(None).to_frame("number")
    return frame.select(text.alias("text"))["text"].rename(series.name)


def codes_of(text: pl.Series, categories: Sequence[str]) -> Array:
    """Index into `categories` of each cell, int64 `(N,)`; -1 for a missing or unknown one.

    >>> codes_of(pl.Series(["b", None, "c"]), ("a", "b"))
    array([ 1, -1, -1])
    """
    if not categories:
        return np.full(len(text), -1, dtype=np.int64)
    coded = text.cast(pl.Enum(list(categories)), strict=False).to_physical()
    return coded.cast(pl.Int64).fill_null(-1).to_numpy().astype(np.int64)


def numbers_of(series: pl.Series) -> Array:
    """The column as float64 `(N,)`, NaN where missing."""
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


def values_in(text: pl.Series) -> tuple[str, ...]:
    """Distinct values of a text column, missing left out; by size where all are finite numbers, else by code point.

    >>> values_in(pl.Series(["10", "9", None, "10"]))
    ('9', '10')
    """
    distinct = text.drop_nulls().unique()
    values: list[str] = distinct.to_list()
    numbers = distinct.cast(pl.Float64, strict=False).fill_null(float("nan"))
    return tuple(sorted(values, key=lambda v: (float(v), v)) if bool(numbers.is_finite().all()) else sorted(values))


def numeric_column(name: str, train: Array) -> Column:
    """A column whose range is that of the finite training values `(N,)`, as float32 holds them."""
    finite = train[np.isfinite(train)].astype(np.float32)
    return Column(name, "numeric", low=float(finite.min()), high=float(finite.max()))
