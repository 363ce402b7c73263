"""Columns that say the label almost alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from assay.data.quality.report import QualityRow, examples
from assay.stats import exact_rate
from assay.values import Array, Column, Data

LEAK = 0.95  # share of the error of the best constant answer that one column removes
NUM_BINS = 256  # of equally many rows: a rare class still has bins of its own


def check_leaks(data: Data, *, level: float) -> Iterator[QualityRow]:
    """How well each column alone says the label: the rule is learnt on train and tried on all other rows.

    Classification: the most frequent label of each category, or of 256 bins of a number; a leak removes 95 % of the
    errors of always saying the most frequent label, and the row counts the rows said rightly. Regression: the mean of
    each bin; a leak leaves at most 5 % of the variance. The strongest column is always named. Limits: one column at a
    time, so two that leak together are missed; what the label is made from may be known when the system is asked. Of
    several labels a row, each is looked at by itself.
    """
    for name, one in _one_by_one(data):
        yield from (replace(row, where=f"{row.where}, label {name}") for row in check_leaks(one, level=level))
    if data.label_names:
        return
    train = data.splits["train"]
    others = [split for name, split in data.splits.items() if name != "train" and len(split)]
    if not others or not len(train):
        return
    inputs = np.concatenate([split.inputs for split in others])
    labels = np.concatenate([split.labels for split in others])
    numbers = np.concatenate([split.rows for split in others])
    found = []
    for place, column in enumerate(data.columns):
        codes = binned(train.inputs[:, place], column, inputs[:, place])
        said = answers(codes, train.labels, num_classes=len(data.classes))
        found.append((removed(said, labels, classes=bool(data.classes), constant=_constant(data)), column.name, said))
    found.sort(key=lambda one: (-one[0], one[1]))
    for rank, (share, name, said) in enumerate(found):
        if rank and share < LEAK:
            break
        advice = "It says the label almost alone: leave it out, unless it is known when the system is asked"
        right = said == labels if data.classes else np.zeros(len(labels), dtype=bool)
        row = _row(f"column {name}", right, share, numbers=numbers, level=level, advice=advice if share >= LEAK else "")
        yield row if data.classes else _of_variance(row, share)


def _one_by_one(data: Data) -> Iterator[tuple[str, Data]]:
    """Data of one label out of several, for each."""
    for place, name in enumerate(data.label_names):
        splits = {key: replace(split, labels=split.labels[:, place]) for key, split in data.splits.items()}
        yield name, replace(data, label=name, label_names=(), classes=("0", "1"), splits=splits)


def binned(train: Array, column: Column, other: Array, *, num_bins: int = NUM_BINS) -> tuple[Array, Array]:
    """Codes of a column's values from 0 on, of training and other rows: categories, or bins with equally many rows."""
    if column.kind == "categorical":
        return train.astype(np.int64) + 1, other.astype(np.int64) + 1
    seen = train[~np.isnan(train)]
    if not len(seen):
        return np.zeros(len(train), dtype=np.int64), np.zeros(len(other), dtype=np.int64)
    distinct = np.unique(seen)
    shares = np.arange(1, num_bins) / num_bins
    edges = distinct[1:] if len(distinct) <= num_bins else np.unique(np.quantile(seen, shares))
    return np.searchsorted(edges, train, "right"), np.searchsorted(edges, other, "right")  # NaN is beyond the last


def answers(codes: tuple[Array, Array], labels: Array, *, num_classes: int) -> Array:
    """What the training rows of the same code say: their most frequent label, or mean; of an unseen code, of all."""
    num = int(max(codes[0].max(initial=0), codes[1].max(initial=0))) + 1
    sizes = np.bincount(codes[0], minlength=num)
    if not num_classes:
        sums = np.bincount(codes[0], weights=labels, minlength=num)
        means = np.where(sizes > 0, sums / np.maximum(sizes, 1), labels.mean())
        found: Array = means[codes[1]]
        return found
    table = np.bincount(codes[0] * num_classes + labels, minlength=num * num_classes).reshape(num, num_classes)
    table[sizes == 0] = table.sum(axis=0)
    chosen: Array = table.argmax(axis=1)[codes[1]]
    return chosen


def removed(said: Array, labels: Array, *, classes: bool, constant: float) -> float:
    """Share of the errors (or of the variance) of one constant answer that is gone; 0 where there is none to remove."""
    if not classes:
        before = float(np.square(labels - constant).mean())
        return 1 - float(np.square(labels - said).mean()) / before if before > 0 else 0.0
    before = float((labels != constant).mean())
    return 1 - float((labels != said).mean()) / before if before > 0 else 0.0


def _constant(data: Data) -> float:
    labels = data.splits["train"].labels
    return float(np.bincount(labels).argmax()) if data.classes else float(labels.mean())


def _row(where: str, right: Array, share: float, *, numbers: Array, level: float, advice: str) -> QualityRow:
    count, total = int(right.sum()), len(right)
    found = exact_rate(count, total, level=level)
    rows = examples(numbers[right]) if advice else ()
    return QualityRow("label leak", where, count, total, found.value, found.low, found.high, rows, advice)


def _of_variance(row: QualityRow, share: float) -> QualityRow:
    why = "the share of the variance that the column alone explains; no interval is computed"
    return QualityRow(row.kind, row.where, 0, row.of, max(0.0, share), None, None, (), row.advice, why)
