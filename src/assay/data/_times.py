"""A column of dates or numbers as numbers that grow with time."""

from __future__ import annotations

import numpy as np
import polars as pl

from assay.data._problems import Problems, names_text, rows_text
from assay.data.coding import numbers_of
from assay.values import Array

_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
)
_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y年%m月%d日")
_ALLOWED = "2024-01-31, 2024/1/31, 2024-01-31 10:20:30, or a number"
LOOKS_LIKE = r"^\d{1,4}[-/.年]\d{1,2}([-/.月]\d{1,4}日?)?([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?Z?)?$"


def times_of(series: pl.Series, problems: Problems) -> Array | None:
    """Seconds or numbers `(N,)` float64; None when a cell cannot be told, which is then among the problems.

    A date whose day comes first (31/1/2024) is not read: 1/2/2024 could be either, and the split would be wrong in
    silence; nor one whose year has two digits, which may be its first or its last. A time zone is not read either.

    >>> times_of(pl.Series(["1970-01-02", "1970/1/1"]), Problems()).tolist()
    [86400.0, 0.0]
    """
    if not (series.dtype.is_numeric() or series.dtype in (pl.String, pl.Boolean, pl.Date, pl.Datetime)):
        problems.error(f"column {series.name!r}, by which rows are split, is of type {series.dtype}", _ALLOWED)
        return None
    times = _read(series)
    wrong = np.isnan(times)
    if not wrong.any():
        return times
    found = names_text(sorted({str(value) for value in series.filter(pl.Series(wrong)).unique().to_list()}), 3)
    what = f"column {series.name!r}, by which rows are split, holds no time in {rows_text(wrong)}: {found}"
    problems.error(what, _ALLOWED, "Correct these cells")
    return None


def _read(series: pl.Series) -> Array:
    if series.dtype.is_temporal():
        return numbers_of(series.cast(pl.Datetime("us")).to_physical()) / 1e6
    if series.dtype != pl.String:
        return numbers_of(series)
    numbers = series.cast(pl.Float64, strict=False)
    if numbers.null_count() == series.null_count():
        return numbers_of(numbers)
    text = pl.col("time").str.strip_chars().str.strip_suffix("Z")
    text = pl.when(text.str.contains(r"^\d{4}\D")).then(text)  # else 05-03-24 would be a day of the year 5
    days = [text.str.to_date(one, strict=False).cast(pl.Datetime("us")) for one in _DAYS]
    clocks = [text.str.to_datetime(one, strict=False, time_unit="us") for one in _FORMATS]
    read = series.rename("time").to_frame().select(pl.coalesce([*days, *clocks])).to_series()
    return numbers_of(read.to_physical()) / 1e6
