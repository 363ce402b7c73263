"""Who is in each split, and with which label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from assay.data.quality.report import QualityRow
from assay.stats import rate
from assay.values import Data, Split

FEW = 30  # rows below which nothing about a group can be told apart from chance


def declared_population(data: Data) -> Mapping[str, Mapping[str, float]]:
    """`Data.source["population"]`: for a group column the share of each group among the people the system is for."""
    declared: Any = data.source.get("population", {})
    return declared if isinstance(declared, Mapping) else {}


def check_shares(data: Data, *, level: float) -> Iterator[QualityRow]:
    """Share of every group, and of every group with every label, in every split; adjusted Wilson intervals.

    Advice where a split has fewer than 30 rows of a group or of a group and label, and where a declared population
    share (`Data.source["population"][column][group]`) lies outside the interval.
    """
    population = declared_population(data)
    for name, split in data.splits.items():
        for place, column in enumerate(data.group_columns):
            codes = split.groups.codes[:, place]
            for code, group in enumerate(column.categories):
                where, inside = f"{name}: {column.name}={group}", codes == code
                row = _row("group share", where, int(inside.sum()), len(split), level=level)
                yield _advised(row, population.get(column.name, {}).get(group))
                if data.classes:
                    yield from _by_label(data, split, where, inside, level=level)


def _by_label(data: Data, split: Split, where: str, inside: Any, *, level: float) -> Iterator[QualityRow]:
    counts = np.bincount(split.labels[inside], minlength=len(data.classes))
    for label, count in zip(data.classes, counts.tolist(), strict=True):
        row = _row("group and label", f"{where}, {data.label}={label}", count, len(split), level=level)
        yield _advised(row, None)


def _row(kind: str, where: str, count: int, total: int, *, level: float) -> QualityRow:
    found = rate(np.array([float(count)]), np.array([float(total)]), level=level)
    return QualityRow(kind, where, count, total, found.value, found.low, found.high, reason=found.reason)


def _advised(row: QualityRow, declared: float | None) -> QualityRow:
    advice = []
    if row.count < FEW:
        advice.append(f"Fewer than {FEW} rows: collect more before anything is said about them")
    if declared is not None and row.low is not None and row.high is not None and not row.low <= declared <= row.high:
        advice.append(f"The declared population has {declared:.1%}: collect or weigh rows accordingly")
    return QualityRow(
        row.kind, row.where, row.count, row.of, row.share, row.low, row.high, (), "; ".join(advice), row.reason
    )
