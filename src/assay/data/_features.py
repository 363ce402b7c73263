"""The feature columns: kinds, missing values, category lists and ranges from the training rows only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from assay.data._columns import Columns, parts
from assay.data._labels import Labels
from assay.data._leaks import cannot_copy, check_leak
from assay.data._problems import Problems, names_text, rows_text
from assay.data.coding import (
    EXACT_MAX,
    FLOAT32_MAX,
    codes_of,
    kind_of,
    numbers_of,
    numeric_column,
    text_of,
    values_in,
)
from assay.data.declare import SPLIT_NAMES, Declaration
from assay.data.splits import TRAIN
from assay.values import Array, Column

MIN_IDENTIFIER = 100  # a text column with more different values than this, and than half of the rows


@dataclass(frozen=True)
class Table:
    """The columns, the features that exist among them, what was declared, and the split of each row `(N,)`."""

    frame: Columns
    features: list[str]
    declaration: Declaration
    assigned: Array
    labels: Labels | None = None

    @cached_property
    def train(self) -> Array:
        """Mask `(N,)` of the training rows."""
        mask: Array = self.assigned == TRAIN
        return mask

    @cached_property
    def rows(self) -> tuple[Array, ...]:
        """Positions of the rows of each split, in order."""
        return tuple(np.flatnonzero(self.assigned == code) for code in range(len(SPLIT_NAMES)))


def code_features(table: Table, problems: Problems) -> tuple[list[Array], tuple[Column, ...], dict[str, Any]]:
    """`inputs (N, F)` float32 of each split, the fitted columns, and facts: missing cells, medians put in, by column.

    A few columns at a time, straight into the splits: the table is never in memory twice.
    """
    inputs = [np.empty((len(rows), len(table.features)), dtype=np.float32) for rows in table.rows]
    columns: list[Column] = []
    facts: dict[str, Any] = {"missing": {}, "imputed": {}}
    categorical = {*table.declaration.groups, *table.declaration.categorical}
    done = 0
    for some in parts(table.frame, table.features):
        numbers = [one.name for one in some.get_columns() if kind_of(one) == "numeric" and one.name not in categorical]
        plain = _plain(some[numbers], table) if numbers else {}  # most columns of most tables
        narrow = np.zeros((len(some), some.width), dtype=np.float32, order="F")
        for place, series in enumerate(some.get_columns()):
            name, kind = series.name, kind_of(series)
            if kind is None:
                what = f"feature {name!r} is of type {series.dtype}"
                what_next = "Turn it into a number (days, hours) or leave it out"
                problems.error(what, "numbers, text or true/false", what_next)
                continue
            if kind == "categorical" or name in categorical:
                values, column = _categorical(name, text_of(series), table, problems, facts)
            elif name in plain:
                values, column = plain[name].values, plain[name].column
                _note_plain(plain[name], problems, facts)
            else:
                values, column = _numeric(name, numbers_of(series), table, problems, facts)
            if column is not None:
                narrow[:, place] = values
                columns.append(column)
                if name not in plain or not plain[name].cannot_copy:
                    check_leak(narrow[:, place], column, table.labels, problems)
        for rows, part in zip(table.rows, inputs, strict=True):
            part[:, done : done + some.width] = narrow.take(rows, axis=0)
        done += some.width
    return inputs, tuple(columns), facts


@dataclass(frozen=True)
class _Plain:
    """A column of numbers without a gap, none of them too large for 32 bits to hold whole."""

    column: Column
    values: Array  # (N,)
    median: float | None  # of the training rows, where it is put into gaps of later rows
    cannot_copy: bool  # the label


def _plain(frame: pl.DataFrame, table: Table) -> dict[str, _Plain]:
    """Those columns of a frame of numbers that ask for no second look, all of them at once: as `_numeric` has them."""
    if not len(table.rows[TRAIN]):
        return {}
    numbers = frame.select(pl.all().cast(pl.Float64).fill_null(float("nan"))).to_numpy()
    with np.errstate(invalid="ignore"):
        fits = (numbers.min(axis=0) >= -EXACT_MAX) & (numbers.max(axis=0) <= EXACT_MAX)  # neither where one is NaN
        narrow = np.where(fits, numbers, 0.0).astype(np.float32)
    train = narrow.take(table.rows[TRAIN], axis=0)
    low, high = train.min(axis=0).tolist(), train.max(axis=0).tolist()
    medians: list[float | None] = [None] * frame.width
    if table.declaration.missing == "median":
        whole = np.where(fits, numbers, 0.0).take(table.rows[TRAIN], axis=0)
        medians = np.median(whole, axis=0).astype(np.float32).tolist()
    settled = cannot_copy(narrow, table.labels).tolist()
    return {
        name: _Plain(Column(name, "numeric", low=low[i], high=high[i]), narrow[:, i], medians[i], settled[i])
        for i, name in enumerate(frame.columns)
        if fits[i]
    }


def _note_plain(known: _Plain, problems: Problems, facts: dict[str, Any]) -> None:
    name, low = known.column.name, known.column.low
    if known.median is not None:
        facts["imputed"][name] = {"median": known.median, "rows": 0}
    if low == known.column.high:
        problems.note(f"feature {name!r} is {low:g} in every training row")


def _numeric(
    name: str, numbers: Array, table: Table, problems: Problems, facts: dict[str, Any]
) -> tuple[Array, Column | None]:
    missing = np.isnan(numbers)
    largest = max(np.fmax.reduce(numbers, initial=0.0), -np.fmin.reduce(numbers, initial=0.0))
    if largest > FLOAT32_MAX:
        infinite = np.abs(numbers) > FLOAT32_MAX
        what = f"feature {name!r} is infinite or above 3.4e38 in {rows_text(infinite)}"
        problems.error(what, "finite numbers", "Correct these cells")
        numbers, largest = np.where(infinite, np.nan, numbers), 0.0
    train = numbers[table.rows[TRAIN]]
    train = train[~np.isnan(train)] if missing.any() or not largest else train
    if not len(train):
        problems.error(f"feature {name!r} has no number in the training split", "numbers", "Leave it out")
        return numbers, None
    median = float(np.float32(np.median(train)))
    if table.declaration.missing == "median":  # of rows that come later too, whatever these have
        facts["imputed"][name] = {"median": median, "rows": int(missing.sum())}
    if missing.any():
        facts["missing"][name] = int(missing.sum())
        if table.declaration.missing == "median":
            numbers = np.where(missing, median, numbers)
            problems.note(f"feature {name!r}: {rows_text(missing)} without a number got the training median {median:g}")
        else:
            what = f"feature {name!r} has no number in {rows_text(missing)}"
            problems.error(what, "a number in each row", "Fill these cells, or declare missing='median'")
    column = numeric_column(name, train)
    if column.low == column.high:
        problems.note(f"feature {name!r} is {column.low:g} in every training row")
    if largest > EXACT_MAX:
        whole = (np.abs(numbers) > EXACT_MAX) & (numbers.astype(np.float32) != numbers)
        if whole.any():
            problems.note(f"feature {name!r}: {rows_text(whole)} are rounded, as 32 bits hold 7 digits")
    return numbers, column


def _categorical(
    name: str, text: pl.Series, table: Table, problems: Problems, facts: dict[str, Any]
) -> tuple[Array, Column | None]:
    train = text.filter(pl.Series(table.train))
    categories = values_in(train)
    if not categories:
        problems.error(f"feature {name!r} has no value in the training split", "text", "Leave it out")
        return np.zeros(len(text)), None
    missing = text.is_null().to_numpy()
    codes = codes_of(text, categories)
    if missing.any():
        facts["missing"][name] = int(missing.sum())
        problems.note(f"feature {name!r} is missing in {rows_text(missing)}: coded -1")
    elif len(categories) == 1:
        problems.note(f"feature {name!r} is {categories[0]!r} in every training row")
    unseen = (codes < 0) & ~missing
    if unseen.any():
        found = names_text(list(values_in(text.filter(pl.Series(unseen)))), 5)
        problems.note(
            f"feature {name!r} has values that no training row has, in {rows_text(unseen)}: {found}; coded -1"
        )
    if len(categories) > max(MIN_IDENTIFIER, len(train) / 2):
        what = f"feature {name!r} has {len(categories)} different values in {len(train)} training rows"
        problems.note(what, "It looks like an identifier, which no dossier may hold: leave it out")
    return codes, Column(name, "categorical", categories)
