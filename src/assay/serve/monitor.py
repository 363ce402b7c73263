"""What the service is asked and answers, in counts: whether the rows still look like those the evidence is about."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.data.quality.reference import Reference, described
from assay.serve.worker import LOG
from assay.values import Array, Column, modality

__all__ = ["LEAST_INDEX", "LEVEL", "WINDOW", "Monitor"]

WINDOW = 1000  # rows
AT_ONCE = 1000  # rows that wait to be counted, however long the window is
LEVEL = 0.001  # of a window's smallest p-value, corrected: one false alarm in a thousand windows, or fewer
LEAST_INDEX = 0.1  # of the stability index: less is no change that matters, however sure it is
RULE = (
    f"a column has drifted when its p-value times the number of columns is at most {LEVEL:g} and its stability index "
    f"at least {LEAST_INDEX:g}, in one window of rows. Rows are taken as independent: a caller who sends a sorted file "
    "makes it drift and back. Rows that were refused (422: a category that training never had) are not among them"
)


@dataclass(frozen=True)
class Window:
    """One full window of rows compared with the reference, column by column in its order."""

    until: str
    num_rows: int
    p_values: Array  # corrected
    indices: Array
    drifted: tuple[str, ...]


@dataclass(eq=False)
class Monitor:
    """Counts answered rows by cells, and compares each full window of them with the reference; nothing is stored.

    `columns` are those of the open part: whoever may ask would else find a single person's number, the end of a range,
    by asking about others until one is counted as outside. At most 1,000 rows and one request more wait in memory to be
    counted. Counts begin anew with the process. Without a reference (an older dossier, or under 100 test rows) only
    counts are kept.
    """

    columns: Sequence[Column]
    reference: Reference | None = None
    classes: Sequence[str] = ()
    window: int = WINDOW
    num_rows: int = field(default=0, init=False)
    num_windows: int = field(default=0, init=False)
    last: Window | None = field(default=None, init=False)
    alarms: Counter[str] = field(default_factory=Counter, init=False)
    outside: Counter[str] = field(default_factory=Counter, init=False)
    missing: Counter[str] = field(default_factory=Counter, init=False)
    answered: Counter[str] = field(default_factory=Counter, init=False)
    _waiting: list[tuple[Array, Array]] = field(default_factory=list, init=False, repr=False)
    _num_waiting: int = field(default=0, init=False)
    _counts: list[Array] = field(default_factory=list, init=False, repr=False)
    _in_window: int = field(default=0, init=False)

    def seen(self, inputs: Array, answers: Array, filled: Mapping[str, int] | None = None) -> None:
        """Rows `(M, ...)` that were answered, their answers `(M,)` or `(M, L)`, and by column how many were filled."""
        self.missing.update(filled or {})
        is_table = inputs.ndim == 2
        self._waiting.append((inputs if is_table else described(self.columns, inputs), answers))
        self._num_waiting += len(inputs)
        if self._num_waiting >= AT_ONCE or self._in_window + self._num_waiting >= self.window:
            self.count()

    def count(self) -> None:
        """Put what waits into the counts, and end the window when it is full."""
        if not self._waiting:
            return
        values = np.concatenate([one.astype(np.float64) for one, _ in self._waiting])
        answers = np.concatenate([one for _, one in self._waiting])
        self._waiting, self._num_waiting = [], 0
        self.num_rows += len(values)
        self._count_answers(answers)
        if modality(self.columns) == "table":
            self._count_odd(values)
        if self.reference is None:
            return
        cells = self.reference.columns
        by_column = [*values.T, answers.astype(np.float64)][: len(cells)] if answers.ndim == 1 else [*values.T]
        counts = [one.counts(column) for one, column in zip(cells, by_column, strict=True)]
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)] if self._counts else counts
        self._in_window += len(values)
        if self._in_window >= self.window:
            self._end(self.reference)

    def _count_answers(self, answers: Array) -> None:
        if not self.classes or answers.ndim != 1:
            return
        found = np.bincount(np.where(answers < 0, len(self.classes), answers), minlength=len(self.classes) + 1)
        for name, num in zip([*self.classes, ""], found.tolist(), strict=True):
            self.answered[name] += num

    def _count_odd(self, values: Array) -> None:
        for column, cells in zip(self.columns, values.T, strict=True):
            if column.kind == "categorical":
                self.missing[column.name] += int((cells < 0).sum())
            elif column.low is not None and column.high is not None:
                self.outside[column.name] += int(((cells < column.low) | (cells > column.high)).sum())

    def _end(self, reference: Reference) -> None:
        found = np.array(reference.compare(self._counts))
        p_values, indices = np.minimum(found[:, 0] * len(found), 1), found[:, 1]
        is_far = (p_values <= LEVEL) & (indices >= LEAST_INDEX)
        drifted = tuple(one.name for one, far in zip(reference.columns, is_far, strict=True) if far)
        until = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        before = self.last.drifted if self.last else ()
        self.last = Window(until, self._in_window, p_values, indices, drifted)
        self.num_windows += 1
        self.alarms.update(drifted)
        self._counts, self._in_window = [], 0
        if drifted and drifted != before:  # told when it changes: a line a window would bury it
            LOG.warning("drift: %s, in the %d rows until %s", ", ".join(drifted), self.last.num_rows, until)
        elif before and not drifted:
            LOG.warning("no drift any more, in the %d rows until %s", self.last.num_rows, until)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What every answer says while the last full window has drifted."""
        if self.last is None or not self.last.drifted:
            return ()
        named = ", ".join(self.last.drifted[:5]) + (" and more" if len(self.last.drifted) > 5 else "")
        what = f"the last {self.last.num_rows:,} rows asked differ from those that were measured: {named}"
        return (f"{what}. What was measured may not hold for them",)

    def to_json(self) -> dict[str, Any]:
        """Counts since the start, and the last full window column by column."""
        self.count()
        counted = {"rows": self.num_rows, "windows": self.num_windows, "rows_in_this_window": self._in_window}
        odd = {"outside_of_training_range": dict(self.outside), "missing_or_unknown": dict(self.missing)}
        told: dict[str, Any] = {**counted, "window": self.window, "alarms": dict(self.alarms), **odd}
        told |= {"answers": dict(self.answered), "reference": None, "last_window": None, "rule": RULE}
        if self.reference is not None:
            told["reference"] = {"split": "test", "rows": self.reference.num_rows}
        if self.reference is not None and self.last is not None:
            listed = zip(self.reference.columns, self.last.p_values, self.last.indices, strict=True)
            columns = [
                {"column": one.name, "p_value": float(p), "stability_index": float(index)} for one, p, index in listed
            ]
            window = {"until": self.last.until, "rows": self.last.num_rows, "drifted": list(self.last.drifted)}
            told["last_window"] = {**window, "columns": columns}
        return told

    def lines(self) -> Iterator[str]:
        """The same in the Prometheus text format."""
        self.count()
        yield f"assay_monitor_rows_total {self.num_rows}"
        yield f"assay_monitor_windows_total {self.num_windows}"
        for name, label, counter in (
            ("assay_inputs_outside_total", "column", self.outside),
            ("assay_inputs_missing_total", "column", self.missing),
            ("assay_answers_total", "answer", self.answered),
        ):
            yield from (f'{name}{{{label}="{_label(one)}"}} {num}' for one, num in counter.items())
        if self.reference is None:
            return
        names = [one.name for one in self.reference.columns]
        yield from (f'assay_drift_alarms_total{{column="{_label(one)}"}} {self.alarms[one]}' for one in names)
        if self.last is not None:
            found = zip(names, self.last.p_values, self.last.indices, strict=True)
            for one, p, index in found:
                yield f'assay_drift_p_value{{column="{_label(one)}"}} {p:.6g}'
                yield f'assay_drift_stability_index{{column="{_label(one)}"}} {index:.6g}'


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
