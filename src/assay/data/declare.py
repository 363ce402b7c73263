"""What a table's owner declares: the label, the features, the groups, and how rows are split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from assay.errors import DataError, Problem

TaskName = Literal["auto", "classification", "regression"]
MissingName = Literal["error", "median"]
SPLIT_NAMES = ("train", "validation", "test")
MISSING_TEXT = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL")


@dataclass(frozen=True)
class Splits:
    r"""How rows are told apart into train, validation and test.

    By seed: `test` is a share of all rows, `validation` a share of the rest; both are stratified by class, so that a
    rare class stays in train. The order is a keyed hash of the row number, the same on every machine and release.
    By `column`: its values are train, validation, test (or train and test; validation is then carved from train).
    By `time`: a column of dates or numbers. The newest rows are the test rows, those before them the validation rows,
    as a system is asked about days after those it was trained on. Rows of one time stay together, so that the shares
    are at least those named.
    Limits: rows are taken as independent. Rows of one person must be kept together by `column`.
    Raises DataError.

    >>> Splits(test=0.3, seed=1).validation
    0.1
    """

    test: float = 0.2
    validation: float = 0.1
    seed: int = 0
    column: str | None = None
    time: str | None = None

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.test < 1:
            problems.append(Problem(f"test is {self.test}", "a share above 0 and below 1"))
        if not 0 <= self.validation < 1:
            problems.append(Problem(f"validation is {self.validation}", "a share from 0 to below 1"))
        if not 0 <= self.seed < 2**63:
            problems.append(Problem(f"seed is {self.seed}", "0 to 2^63 - 1"))
        if self.column is not None and self.time is not None:
            problems.append(Problem(f"rows are split by {self.column!r} and by the time {self.time!r}", "one of them"))
        if problems:
            raise DataError(problems)


@dataclass(frozen=True)
class Declaration:
    """Everything a reader must be told about a table; names only, never found out from the test rows.

    `features=None` is every column but the label, the split or time column and those of `leave_out`, groups included:
    leaving a sensitive column out does not hide it. A group column is categorical wherever it is used, and stays a
    group when it is left out of the features. A list of label columns, each of 0 and 1 (or true and false), declares
    that several labels may apply to a row.

    `classes`: allowed labels in this order; () = all labels found, sorted. `positive`: the selected class of two;
    None = the last. `categorical`: columns of numbers that are codes. `group_values`: all values of a group column.
    `missing`: what a missing number in a feature is, now and in rows that the system is asked about later: an error,
    or the median of the training rows (recorded in `source["imputed"]`). `missing_text`: cells of a CSV file
    that mean missing. `sha256`: refuse any other file.
    """

    label: str | Sequence[str]
    groups: Sequence[str] = ()
    features: Sequence[str] | None = None
    task: TaskName = "auto"
    splits: Splits = Splits()
    classes: Sequence[str] = ()
    positive: str | None = None
    categorical: Sequence[str] = ()
    group_values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    missing: MissingName = "error"
    missing_text: Sequence[str] = MISSING_TEXT
    name: str = ""
    sha256: str = ""
    leave_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.task not in get_args(TaskName):
            problems.append(Problem(f"task is {self.task!r}", ", ".join(get_args(TaskName))))
        if self.missing not in get_args(MissingName):
            problems.append(Problem(f"missing is {self.missing!r}", ", ".join(get_args(MissingName))))
        lists: dict[str, object] = {"groups": self.groups, "features": self.features, "leave_out": self.leave_out}
        lists |= {"categorical": self.categorical, "classes": self.classes}
        lists |= {} if isinstance(self.label, str) else {"label": self.label}
        for what, value in lists.items():
            if isinstance(value, str):  # a text is also a sequence of texts, so types do not catch this
                problems.append(Problem(f"{what} is the text {value!r}", f"a list of names, such as [{value!r}]"))
            elif isinstance(value, Sequence) and len(set(value)) < len(value):
                twice = sorted({name for name in value if list(value).count(name) > 1})
                problems.append(Problem(f"{what} names {', '.join(twice)} more than once", "each name once"))
        if self.features is not None and self.leave_out:
            problems.append(
                Problem("features and leave_out are both declared", "one of them: what is in, or what is out")
            )
        problems += self._positive_problems()
        if problems:
            raise DataError(problems)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that hold the label: one, or several of which each is a label of its own."""
        return (self.label,) if isinstance(self.label, str) else tuple(self.label)

    @property
    def kept_back(self) -> set[str]:
        """Columns that are no features unless they are named: what is left out, and what rows are split by."""
        return {name for name in (*self.leave_out, self.splits.column, self.splits.time) if name is not None}

    def _positive_problems(self) -> list[Problem]:
        if not isinstance(self.label, str):
            if len(self.label) < 2:
                return [Problem(f"label is a list of {len(self.label)}", "two or more columns, or the name of one")]
            if self.task != "auto" or self.classes or self.positive is not None:
                return [Problem("a task, classes or a positive class are declared for several labels", "none of them")]
        if self.task == "regression" and (self.positive is not None or self.classes):
            return [Problem("classes or a positive class are declared for a regression", "neither")]
        if self.classes and len(self.classes) < 2:
            return [Problem(f"only one class is declared: {self.classes[0]}", "two or more")]
        if self.positive is not None and self.classes and self.positive not in self.classes:
            return [Problem(f"the positive class {self.positive!r} is not a class", ", ".join(self.classes))]
        return []
