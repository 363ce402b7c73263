"""The label column: which task, which classes, which numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from assay.data._columns import Columns
from assay.data._problems import Problems, names_text, rows_text
from assay.data.coding import FLOAT32_MAX, codes_of, kind_of, numbers_of, text_of, values_in
from assay.data.declare import SPLIT_NAMES, Declaration
from assay.data.splits import TEST, TRAIN
from assay.values import Array

MAX_AMBIGUOUS = 20  # whole numbers with 3 to this many different values may be classes or amounts


@dataclass(frozen=True)
class Labels:
    """`values (N,)`: int64 class index (-1 unreadable) or float32 target; `classes` is () for a target."""

    values: Array
    classes: tuple[str, ...] = ()
    positive: str | None = None


def code_labels(frame: Columns, declaration: Declaration, problems: Problems) -> Labels | None:
    """Read the label; None when it cannot be read at all (the reason is then among the problems)."""
    name = declaration.label
    if name not in frame.columns:
        return None
    series = frame[name]
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
        f"label {declaration.label!r} has {num_values} different whole numbers: classes or amounts",
        "task='classification' or task='regression'",
        "Say which",
    )
    return None


def _targets(series: pl.Series, declaration: Declaration, problems: Problems) -> Labels | None:
    name = declaration.label
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
    name, found = declaration.label, values_in(text)
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
    if not labels.classes and len(train) and bool((train == train[0]).all()):
        problems.error("the label is the same in every training row", "at least two different values")
