"""From a polars frame and a declaration to `Data`, or to every problem there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from assay.data import splits as split_rows
from assay.data._columns import Columns
from assay.data._features import Table, code_features
from assay.data._groups import code_groups
from assay.data._labels import Labels, check_label_coverage, code_labels
from assay.data._leaks import check_shared_rows
from assay.data._problems import Problems, names_text, rows_text
from assay.data._times import times_of
from assay.data.coding import text_of
from assay.data.declare import SPLIT_NAMES, Declaration, Splits, TaskName
from assay.errors import DataError, Problem
from assay.storage.heap import give_back
from assay.values import Array, Column, Data, Split


def from_frame(frame: pl.DataFrame, declaration: Declaration) -> Data:
    """A polars frame as `Data`: columns coded, category lists and ranges fitted on the training rows only.

    `inputs (N, F)` float32: numbers as they are, categories as codes into the sorted training values, -1 unseen or
    missing. Group lists come from all rows: a group that is only in test must not vanish. Rows count from 1.

    Errors, all at once: missing columns or cells, infinite numbers, labels that cannot be learned, a label used as a
    feature, splits without rows, unknown split, class or group values. Recorded in `source["problems"]` instead:
    constant or identifier-like features, values never seen in training, missing categories, rows shared by train and
    test, groups without rows in a split. Raises DataError.

    >>> ages, sexes, paid = [20, 30, 40, 50] * 5, ["f", "m"] * 10, ["no", "yes", "yes", "no"] * 5
    >>> frame = pl.DataFrame({"age": ages, "sex": sexes, "paid": paid})
    >>> data = from_frame(frame, Declaration("paid", groups=["sex"]))
    >>> [len(split) for split in data.splits.values()], data.classes, data.positive
    ([14, 2, 4], ('no', 'yes'), 'yes')
    """
    return build(frame, declaration, Problems(), {"kind": "frame"})


def from_arrays(
    inputs: Array | Mapping[str, Sequence[Any] | Array],
    labels: Sequence[Any] | Array,
    *,
    groups: Mapping[str, Sequence[Any] | Array] | None = None,
    names: Sequence[str] | None = None,
    task: TaskName = "auto",
    splits: Splits | None = None,
) -> Data:
    """Arrays as `Data`: `inputs (N, F)` or named columns `(N,)`, `labels (N,)`, named group columns `(N,)`.

    `labels (N, L)` of 0 and 1: several may apply to a row; they are called label_1 and so on.

    `names` are those of the columns of a matrix (default: feature_1, ...). Group columns become features only if they
    are also in `inputs`. Otherwise as `from_frame`. Raises DataError.

    >>> data = from_arrays(np.arange(40.0).reshape(20, 2), ["a", "b"] * 10, groups={"sex": ["f", "f", "m", "m"] * 5})
    >>> [column.name for column in data.columns], [column.name for column in data.group_columns]
    (['feature_1', 'feature_2'], ['sex'])
    """
    problems = Problems()
    columns = _named(inputs, names)
    features = list(columns)
    for name, values in (groups or {}).items():
        if name in columns and not np.array_equal(np.asarray(columns[name]), np.asarray(values)):
            problems.error(f"the group column {name!r} differs from the feature of that name", "the same values")
        columns[name] = values
    label: str | list[str] = "label" if "label" not in columns else "label (target)"
    if np.ndim(labels) == 2:
        several = {f"label_{place}": values for place, values in enumerate(np.asarray(labels).T, start=1)}
        columns, label = {**columns, **several}, list(several)
    else:
        columns[str(label)] = labels
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) != 1:
        problems.error(f"the columns differ in length: {sizes}", "one value per row in each")
    problems.stop_if_any()
    try:
        frame = pl.DataFrame({name: pl.Series(name, values) for name, values in columns.items()})
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(
            Problem(f"an array cannot be read as a column: {error}", "numbers or text, not both")
        ) from error
    declaration = Declaration(label, list(groups or {}), features, task, splits or Splits())
    return build(frame, declaration, problems, {"kind": "arrays"})


def _named(inputs: Array | Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    """The columns of a matrix `(N, F)` or of a mapping, by name."""
    if isinstance(inputs, Mapping):
        if names is not None:
            raise DataError(Problem("names are given for columns that have names", "names=None"))
        return dict(inputs)
    matrix = np.asarray(inputs)
    if matrix.ndim != 2:
        raise DataError(Problem(f"inputs have shape {matrix.shape}", "(N, F)"))
    names = [f"feature_{i + 1}" for i in range(matrix.shape[1])] if names is None else names
    if len(names) != matrix.shape[1] or len(set(names)) != len(names):
        raise DataError(Problem(f"{len(names)} names for {matrix.shape[1]} columns", "one different name each"))
    # A matrix of objects is read as lists, so that the type of each column is found.
    cells = matrix.T.tolist() if matrix.dtype == object else matrix.T
    return dict(zip(names, cells, strict=True))


def build(frame: Columns, declaration: Declaration, problems: Problems, source: Mapping[str, Any]) -> Data:
    """`from_frame` with problems found earlier (by a file reader) and facts of the source."""
    features = _resolve(frame, declaration, problems)
    if not len(frame):
        problems.error("the table has no rows", "at least one row in train and one in test")
        problems.stop_if_any()
    labels = code_labels(frame, declaration, problems)
    assigned = _assign(frame, declaration, labels, problems)
    table = Table(frame, features, declaration, assigned, labels)
    inputs, columns, facts = code_features(table, problems)
    groups = code_groups(table, problems)
    if labels is not None:
        check_label_coverage(labels, assigned, problems)
    problems.stop_if_any()
    if labels is None:
        raise DataError("the label cannot be read")
    parts = {
        name: Split(inputs[code], labels.values[rows], groups.take(rows), rows + 1)
        for code, (name, rows) in enumerate(zip(SPLIT_NAMES, table.rows, strict=True))
    }
    shared = check_shared_rows(parts["train"], parts["test"], problems)
    give_back()
    splits = declaration.splits
    facts = {
        **source,
        "num_rows": len(frame),
        "num_train": len(parts["train"]),
        "splits": {
            "by": splits.column or splits.time or "seed",
            **({"newest": True} if splits.time else {}),
            "test": None if splits.column else splits.test,
            "validation": splits.validation,
            "seed": splits.seed,
        },
        "duplicates": shared,
        **facts,
        "problems": [str(note) for note in problems.notes],
    }
    name = declaration.name or str(source.get("name", "")) or "table"
    return declared(name, columns, groups.columns, parts, labels, facts)


def declared(
    name: str,
    columns: tuple[Column, ...],
    group_columns: tuple[Column, ...],
    splits: Mapping[str, Split],
    labels: Labels,
    source: Mapping[str, Any],
) -> Data:
    """The data with what its label is called and may be."""
    of_label = (labels.name, group_columns, splits, labels.classes, labels.positive, source)
    return Data(name, columns, *of_label, label_names=labels.names)


def _resolve(frame: Columns, declaration: Declaration, problems: Problems) -> list[str]:
    """The feature names that exist; everything that is declared and does not is a problem."""
    known, split_column = set(frame.columns), declaration.splits.column
    time = declaration.splits.time
    named = {"label": declaration.label_columns, "group": declaration.groups, "feature": declaration.features or ()}
    named["split"] = [split_column] if split_column else []
    named |= {"time": [time] if time else [], "left-out": declaration.leave_out}
    for role, names in named.items():
        for name in names:
            if name not in known:
                problems.error(f"there is no {role} column {name!r}", names_text(frame.columns), "Check the spelling")
    told = {name for names in named.values() for name in names}
    for name in sorted({*declaration.categorical, *declaration.group_values} - known - told):
        problems.error(f"there is no column {name!r}, which is declared categorical or with values")
    for name in sorted(set(declaration.group_values) - set(declaration.groups)):
        problems.error(
            f"group_values names {name!r}, which is not a group column", names_text(list(declaration.groups))
        )
    reserved = {**dict.fromkeys(declaration.label_columns, "the label"), split_column or "": "the split column"}
    for name, role in reserved.items():
        if name and name in (declaration.features or ()):
            problems.error(f"{role} {name!r} is declared a feature", next="Leave it out of the features")
        if name and name in declaration.groups:
            problems.error(f"{role} {name!r} is declared a group", next="Leave it out of the groups")
    divided = {one for one in (split_column, time) if one}
    for one in sorted(divided & {*declaration.label_columns}):
        problems.error(f"{one!r} is declared both label and split column", "two columns")
    for one in sorted({*declaration.leave_out} & {*declaration.label_columns, *divided}):
        problems.error(f"{one!r} is left out and also the label or what rows are split by", "columns that are neither")
    every = [name for name in frame.columns if name not in declaration.kept_back]
    chosen = every if declaration.features is None else declaration.features
    features = [name for name in chosen if name in known and name not in reserved]
    if not features and not declaration.features:  # declared ones that are none were told above
        problems.error("there is no feature column", "at least one", "Declare features")
    return features


def _assign(frame: Columns, declaration: Declaration, labels: Labels | None, problems: Problems) -> Array:
    """Split of each row `(N,)`, stratified by class; every row in train when it cannot be told."""
    splits, everything = declaration.splits, np.zeros(len(frame), dtype=np.int8)
    assigned: Array
    strata = labels.strata() if labels is not None else everything
    if splits.time is not None:
        if splits.time not in frame.columns:
            return everything
        times = times_of(frame[splits.time], problems)
        if times is None:
            return everything
        assigned = split_rows.assign_newest(times, test=splits.test, validation=splits.validation)
    elif splits.column is None:
        assigned = split_rows.assign(strata, test=splits.test, validation=splits.validation, seed=splits.seed)
    elif splits.column not in frame.columns:
        return everything
    else:
        text = text_of(frame[splits.column])
        codes = text.replace_strict(list(SPLIT_NAMES), [0, 1, 2], default=-1, return_dtype=pl.Int64)
        assigned = codes.fill_null(-1).to_numpy().astype(np.int8)
        if (assigned < 0).any():
            found = names_text(sorted({str(value) for value in text.to_numpy()[assigned < 0]}))
            what = f"split column {splits.column!r}: {rows_text(assigned < 0)} hold {found}"
            problems.error(what, ", ".join(SPLIT_NAMES))
            return np.where(assigned < 0, 0, assigned)
        if not (assigned == split_rows.VALIDATION).any():
            assigned = split_rows.add_validation(assigned, strata, validation=splits.validation, seed=splits.seed)
    sizes = np.bincount(assigned, minlength=3)
    for code, least in ((split_rows.TRAIN, 2), (split_rows.TEST, 1)):
        if sizes[code] < least:
            what = f"the {SPLIT_NAMES[code]} split has {sizes[code]} of {len(frame)} rows"
            problems.error(what, f"at least {least}", "Give more rows, or other shares")
    if splits.validation and not sizes[split_rows.VALIDATION]:
        problems.note("the validation split has no rows")
    return assigned
