"""What a check of a data set found: plain rows, none of which holds a value of a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from assay.stats import exact_rate
from assay.values import Array

KINDS = (
    "missing values",
    "duplicate rows",
    "conflicting labels",
    "copies across splits",
    "near copies across splits",
    "constant column",
    "identifier-like column",
    "label leak",
    "suspected labels",
    "group share",
    "group and label",
    "personal data",
)
NUM_EXAMPLES = 10
ONLY_THESE_ROWS = "a count of these rows: the share grows with the number of rows, so it is of no population"


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One thing looked at: `count` rows (or cells) of `of`, their share with its interval, a few row numbers.

    `rows` are numbers in the source, counted from 1, never what stands in them. `advice` is empty where nothing needs
    to be done. Without `low` and `high` the `reason` says why.
    """

    kind: str
    where: str
    count: int
    of: int
    share: float | None
    low: float | None
    high: float | None
    rows: tuple[int, ...] = ()
    advice: str = ""
    reason: str = ""


@dataclass(frozen=True)
class QualityReport:
    """Everything one check found, in the order of `KINDS`. `skipped` names what was not looked for, and why."""

    name: str
    data_digest: str
    level: float
    rows: tuple[QualityRow, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def concerns(self) -> tuple[QualityRow, ...]:
        """The rows that ask for something to be done."""
        return tuple(row for row in self.rows if row.advice)

    def of(self, kind: str) -> tuple[QualityRow, ...]:
        """The rows of one kind."""
        return tuple(row for row in self.rows if row.kind == kind)

    def to_json(self) -> dict[str, Any]:
        """Plain data: names, numbers, lists."""
        rows = [asdict(row) | {"rows": list(row.rows)} for row in self.rows]
        about = {"name": self.name, "data_digest": self.data_digest, "level": self.level}
        return {**about, "rows": rows, "skipped": [{"kind": kind, "reason": why} for kind, why in self.skipped]}


def share_row(kind: str, where: str, marked: Array, *, numbers: Array, level: float, advice: str = "") -> QualityRow:
    """The row for a mask `(N,)` over rows with these `numbers (N,)`, with the Clopper-Pearson interval of its share.

    >>> row = share_row("missing values", "train", np.array([True, False]), numbers=np.array([7, 8]), level=0.95)
    >>> row.count, row.of, row.share, row.rows
    (1, 2, 0.5, (7,))
    """
    count, total = int(np.count_nonzero(marked)), len(marked)
    found = exact_rate(count, total, level=level)
    rows = examples(numbers[np.flatnonzero(marked)])
    advice = advice if count else ""
    return QualityRow(kind, where, count, total, found.value, found.low, found.high, rows, advice, found.reason)


def of_these_rows(row: QualityRow) -> QualityRow:
    """The same without an interval: what repeats among N rows is no rate of a population."""
    return replace(row, low=None, high=None, reason=row.reason or ONLY_THESE_ROWS)


def examples(numbers: Sequence[int] | Array) -> tuple[int, ...]:
    """The first few row numbers."""
    return tuple(int(number) for number in numbers[:NUM_EXAMPLES])
