"""Accuracy on corrupted copies of test rows: shared by the probe on a sample and the one on all rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.errors import BudgetError
from assay.stats import Draws, Estimate
from assay.units import corrupted_pixels, corrupted_rows, corrupted_texts
from assay.units.corrupted_pixels import SEVERITIES
from assay.values import Array, Column, Groups, Measurement, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

NUM_KINDS = {
    "table": len(corrupted_rows.CORRUPTIONS),
    "image": len(corrupted_pixels.CORRUPTIONS),
    "text": len(corrupted_texts.CORRUPTIONS),
}


@dataclass(frozen=True)
class Answered:
    """Of each row and copy, C kinds at S severities: was the answer right (how much of it), and did it err."""

    names: tuple[str, ...]
    right: Array  # (N, C, S), 0 to 1
    errored: Array  # (N, C, S) bool
    reason: str = ""


def num_copies(kind: str) -> int:
    """Copies of each row that are run."""
    return NUM_KINDS[kind] * len(SEVERITIES)


def copies(query: Query, inputs: Array) -> Iterator[tuple[str, int, Array]]:
    """Each corruption of the rows at each severity; keyed by the rows, so that two systems meet the same ones."""
    columns, kind = query.columns, modality(query.columns)
    first = columns[0]
    known = (0.0 if first.low is None else first.low, 255.0 if first.high is None else first.high)
    names = {
        "table": lambda: corrupted_rows.kinds(columns),
        "image": lambda: tuple(corrupted_pixels.CORRUPTIONS),
        "text": lambda: corrupted_texts.kinds(first.language),
    }[kind]()
    for name in names:
        for severity in SEVERITIES:
            rng = query.rng(f"corruption {name} {severity}")
            if kind == "table":
                found = corrupted_rows.corrupted(name, inputs, severity, columns, rng)
                yield name, severity, as_declared(found, columns, query.system.data.medians)
            elif kind == "image":
                yield name, severity, corrupted_pixels.corrupted(name, inputs, severity, known, rng)
            else:
                yield name, severity, corrupted_texts.corrupted(name, inputs, severity, first.language, rng)


def as_declared(inputs: Array, columns: Sequence[Column], medians: Mapping[str, float]) -> Array:
    """Rows `(N, F)` as the system is given them: where the data declare so, a missing number is the training median.

    >>> told = (Column("age", "numeric"), Column("hours", "numeric"))
    >>> as_declared(np.full((1, 2), np.nan), told, {"age": 30.0}).tolist()
    [[30.0, nan]]
    """
    fills = np.array([medians.get(column.name, np.nan) for column in columns], dtype=inputs.dtype)
    return np.where(np.isnan(inputs), fills, inputs)


def answered(query: Query, rows: Array, labels: Array) -> Answered:
    """Run every corrupted copy of `rows (N,)`. A copy that the model refuses as a whole counts as errored rows."""
    groups, inputs = query.groups.take(rows), query.inputs[rows]
    right: dict[str, list[Array]] = {}
    errored: dict[str, list[Array]] = {}
    reason = ""
    for name, _, copy in copies(query, inputs):
        answers, why = _answers(query, copy, groups, labels)
        reason = reason or (f"{name}: {why}" if why else "")
        right.setdefault(name, []).append(rightness(answers, labels))
        errored.setdefault(name, []).append(np.asarray(np.atleast_2d((answers < 0).T).any(axis=0)))
    right_of, errored_of = (np.stack([np.stack(one, axis=1) for one in each.values()], axis=1) for each in
                            (right, errored))  # fmt: skip
    return Answered(tuple(right), right_of, errored_of, reason)


def rightness(answers: Array, labels: Array) -> Array:
    """Whether each answer `(N,)` is right; of several labels a row `(N, L)` the share that is."""
    right: Array = (answers == labels) & (answers >= 0)
    return right if right.ndim == 1 else right.mean(axis=1)


def _answers(query: Query, copy: Array, groups: Groups, labels: Array) -> tuple[Array, str]:
    try:
        return query.predictions(copy, groups), ""
    except BudgetError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:  # such as a model that takes no empty cell
        told = str(error).splitlines()
        return np.full(labels.shape, -1), f"refused by the model, {type(error).__name__}: {told[0] if told else ''}"


def accuracies(found: Answered, clean: Array, draws: Draws) -> list[Measurement]:
    """Means over kinds and severities, relative to the clean rows `clean (N,)`, and the worst kind."""
    num, num_kinds, num_severities = found.right.shape
    flat = np.concatenate([found.right.reshape(num, -1), clean[:, None]], axis=1)
    sums = draws.sums(flat.astype(np.float64))
    hits, hits_clean = sums[:, :-1].reshape(-1, num_kinds, num_severities), sums[:, -1]
    totals = np.full(len(sums), float(num))
    about: dict[str, Any] = {"unit": "fraction", "better": "higher", "attempted": num}

    def accuracy(part: Array, errored: Any, where: str) -> Measurement:
        estimate = stats.mean(part, totals, level=draws.level, bounds=(0.0, 1.0))
        if found.reason and errored.any():
            estimate = replace(estimate, reason=estimate.reason or found.reason)
        return stats.measured(
            estimate, "corruption_accuracy", slice=where, errored=int(errored.sum()), headline=not where, **about
        )

    by_kind, by_severity = np.any(found.errored, axis=2), np.any(found.errored, axis=1)  # (N, C), (N, S)
    every = np.any(by_kind, axis=1)
    overall = hits.mean(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = stats.statistic(overall / hits_clean, level=draws.level, bounds=(0.0, None), num=num)
    return [
        accuracy(overall, every, ""),
        stats.measured(relative, "relative_corruption_accuracy", errored=int(every.sum()), **about),
        stats.measured(
            lowest(found.names, hits.mean(axis=2), totals, level=draws.level),
            "worst_corruption_accuracy",
            errored=int(every.sum()),
            **about,
        ),
        *(
            accuracy(hits[:, place].mean(axis=1), by_kind[:, place], f"corruption={name}")
            for place, name in enumerate(found.names)
        ),
        *(
            accuracy(hits[:, :, place].mean(axis=1), by_severity[:, place], f"severity={severity}")
            for place, severity in enumerate(SEVERITIES)
        ),
    ]


def lowest(names: Sequence[str], hits: Array, totals: Array, *, level: float) -> Estimate:
    """The lowest of C means of the same rows, hits `(1 + B, C)`: each side errs at most (1 - level)/2.

    Above, any kind could fake a lower worst, so the limit is corrected for all; below, only the truly worst can err.
    Replicates follow the kind that is observed to be worst.
    """
    alone, jointly = (
        [stats.mean(column, totals, level=one, bounds=(0.0, 1.0)) for column in hits.T]
        for one in (level, 1 - (1 - level) / len(names))
    )
    place = int(hits[0].argmin())
    worst = alone[place]
    bounds = [min([limit for limit in each if limit is not None], default=None) for each in
              ([one.low for one in alone], [one.high for one in jointly])]  # fmt: skip
    reason = "; ".join(part for part in (f"lowest for {names[place]}", worst.reason) if part)
    return replace(worst, low=bounds[0], high=bounds[1], method=f"simultaneous {worst.method}", reason=reason)


def rows_of(kind: str, sizes: Mapping[str, int], num_test: int) -> int:
    """Rows of the sample."""
    return min(sizes[kind], num_test)
