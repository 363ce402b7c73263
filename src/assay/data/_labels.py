"""The label column: which task, which classes, which numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from assay.data._columns import Columns
from assay.data._problems import Problems, names_text, rows_text
from assay.data.coding import FLOAT32_MAX, codes_of, kind_of, numbers_of, text_of, values_in
from assay.data.declare import SPLIT_NAMES, Declaration
from assay.data.splits import TEST, TRAIN
from assay.values import Array

_YES_NO = {"0": 0, "1": 1, "false": 0, "true": 1}
MAX_AMBIGUOUS = 20  # whole numbers with 3 to this many different values may be classes or amounts


@dataclass(frozen=True)
class Labels:
    """`values (N,)`: int64 class index (-1 unreadable) or float32 target; `classes` is () for a target.

    Where several labels may apply: `values (N, L)` of 0 and 1, and their `names`.
    """

    values: Array
    classes: tuple[str, ...] = ()
    positive: str | None = None
    name: str = ""
    names: tuple[str, ...] = ()

    def strata(self) -> Array:
        """What splits keep in proportion `(N,)`: the class; of several labels the rarest that a row has, L = none."""
        if self.names:
            rarest_first = np.argsort(self.values.sum(axis=0), kind="stable")
            ordered = self.values[:, rarest_first] == 1
            return np.where(ordered.any(axis=1), ordered.argmax(axis=1), len(self.names))
        return self.values if self.classes else np.zeros(len(self.values), dtype=np.int8)


def code_labels(frame: Columns, declaration: Declaration, problems: Problems) -> Labels | None:
    """Read the label; None when it cannot be read at all (the reason is then among the problems)."""
    if not isinstance(declaration.label, str):
        return _several(frame, declaration, problems)
    name = declaration.label
    if name not in frame.columns:
        return None
    found = _one(frame[name], declaration, problems)
    return None if found is None else replace(found, name=name)


def _several(frame: Columns, declaration: Declaration, problems: Problems) -> Labels | None:
    """Columns of 0 and 1, or true and false: each says whether its label applies."""
    names = declaration.label_columns
    if not set(names) <= set(frame.columns):
        return None
    columns = []
    for name in names:
        text = text_of(frame[name]).str.to_lowercase()
        codes = text.replace_strict(list(_YES_NO), list(_YES_NO.values()), default=-1, return_dtype=pl.Int64)
        values = codes.fill_null(-1).to_numpy()
        if (values < 0).any():
            found = names_text([repr(value) for value in values_in(text.filter(pl.Series(values < 0)))], 5)
            what = f"label {name!r} is neither 0 nor 1 in {rows_text(values < 0)}: {found or 'missing'}"
            problems.error(what, "0 or 1, or true or false, in each row", "One column a label says whether it applies")
        columns.append(values)
    return Labels(np.stack(columns, axis=1).astype(np.int64), name=", ".join(names), names=names)


def _one(series: pl.Series, declaration: Declaration, problems: Problems) -> Labels | None:
    """The one label column."""
    name = series.name
    kind = kind_of(series)
    if kind is None:
        problems.error(f"label {name!r} is of type {series.dtype}", "text, true/false or numbers")
        return None
    text = text_of(series)
    if text.null_count() == len(text):
        problems.error(f"label {name!r} is missing in every row", "a label in each row")
        return None
    if text.null_count():
        what = f"label {name!r} is missing in {rows_text(text.is_null().to_numpy())}"
        problems.error(what, "a label in each row", "Remove these rows, or fill the label")
    task = _task(series, text, declaration, problems)
    if task == "regression":
        return _targets(series, declaration, problems)
    return _classes(text, declaration, problems) if task else None


def _task(series: pl.Series, text: pl.Series, declaration: Declaration, problems: Problems) -> str | None:
    """The declared task; by `auto`, text, true/false and two values are classes, fractions and many values a target."""
    if declaration.task != "auto":
        return declaration.task
    num_values = text.drop_nulls().n_unique()
    if kind_of(series) == "categorical" or declaration.classes or num_values <= 2:
        return "classification"
    numbers = numbers_of(series)
    whole = bool(np.all(np.isnan(numbers) | (np.floor(numbers) == numbers)))
    if not whole or num_values > MAX_AMBIGUOUS:
        return "regression"
    problems.error(
        f"label {series.name!r} has {num_values} different whole numbers: classes or amounts",
        "task='classification' or task='regression'",
        "Say which",
    )
    return None


def _targets(series: pl.Series, declaration: Declaration, problems: Problems) -> Labels | None:
    name = series.name
    if kind_of(series) != "numeric":
        problems.error(
            f"label {name!r} is text, so it is not a number to predict", "numbers", "Say task='classification'"
        )
        return None
    numbers = numbers_of(series)
    wrong = np.abs(numbers) > FLOAT32_MAX  # infinite ones too; missing ones are reported by the caller
    if wrong.any():
        problems.error(f"label {name!r} is infinite or above 3.4e38 in {rows_text(wrong)}", "finite numbers")
    return Labels(np.where(wrong, np.nan, numbers).astype(np.float32))


def _classes(text: pl.Series, declaration: Declaration, problems: Problems) -> Labels:
    name, found = text.name, values_in(text)
    classes = tuple(declaration.classes) or found
    codes = codes_of(text, classes)
    unknown = (codes < 0) & ~text.is_null().to_numpy()
    if unknown.any():
        values = names_text([value for value in found if value not in classes])
        problems.error(
            f"label {name!r} has values that are not declared classes in {rows_text(unknown)}: {values}",
            names_text(list(classes)),
        )
    for value in classes:
        if value not in found:
            problems.error(f"label {name!r}: the declared class {value!r} has no rows", names_text(list(found)))
    if len(found) < 2:
        problems.error(f"label {name!r} is {found[0]!r} in every row", "at least two classes")
    if len(found) > max(2, len(text) / 2):
        problems.error(
            f"label {name!r} has {len(found)} classes in {len(text)} rows",
            "at least two rows per class",
            "Declare another label, or task='regression'",
        )
    return Labels(codes, classes, _positive(classes, declaration, problems))


def _positive(classes: tuple[str, ...], declaration: Declaration, problems: Problems) -> str | None:
    positive = declaration.positive
    if positive is None:
        return classes[-1] if len(classes) == 2 else None
    if positive not in classes:
        problems.error(f"the positive class {positive!r} is not among the labels", names_text(list(classes)))
    elif len(classes) > 2:
        problems.error(
            f"a positive class is declared for {len(classes)} classes", "two classes", "Leave out the positive class"
        )
    return positive


def check_label_coverage(labels: Labels, assigned: Array, problems: Problems) -> None:
    """A class that only validation or test has can never be learned; one that test lacks cannot be measured there."""
    for code, value in enumerate(labels.classes):
        of_class = labels.values == code
        in_train = bool((of_class & (assigned == TRAIN)).any())
        if of_class.any() and not in_train:
            elsewhere = rows_text(of_class)
            problems.error(
                f"class {value!r} is never in the training split, but in {elsewhere}",
                "every class in train",
                "Remove these rows, join it with another class, or use other splits",
            )
        elif in_train and not (of_class & (assigned == TEST)).any():
            problems.note(f"class {value!r} has no rows in the {SPLIT_NAMES[TEST]} split")
    train = labels.values[assigned == TRAIN]
    for place, name in enumerate(labels.names):
        of_label = labels.values[:, place]
        if len(train) and bool((train[:, place] == train[0, place]).all()):
            what = f"label {name!r} is {train[0, place]} in every training row"
            problems.error(what, "both 0 and 1 in train", "Leave the label out, or use other splits")
        elif not (of_label[assigned == TEST] == 1).any():
            problems.note(f"label {name!r} applies to no row of the {SPLIT_NAMES[TEST]} split")
    if not labels.names and not labels.classes and len(train) and bool((train == train[0]).all()):
        problems.error("the label is the same in every training row", "at least two different values")
