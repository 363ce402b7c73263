"""What a swap of a sensitive attribute did to answers and outputs: one set of measurements for every modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from assay.estimation.estimate import ratio
from assay.stats import Draws, Estimate, exact_rate, mean, measured
from assay.tasks.decisions import REFUSED
from assay.values import Array, Measurement, Task


@dataclass(frozen=True)
class Answers:
    """Answers `(M,)` and outputs `(M, K)` of one version of M examples."""

    predictions: Array
    outputs: Array

    def take(self, rows: Array) -> Answers:
        """Some of the examples only."""
        return Answers(self.predictions[rows], self.outputs[rows])


@dataclass(frozen=True)
class Swap:
    """Answers before and after, the slice of both, and by slice the rows `(M,)` bool whose shift is told."""

    before: Answers
    after: Answers
    where: str
    shifts: Mapping[str, Array] = field(default_factory=dict)

    def take(self, rows: Array) -> Swap:
        """Some of the examples only."""
        shifts = {where: own[rows] for where, own in self.shifts.items()}
        return Swap(self.before.take(rows), self.after.take(rows), self.where, shifts)


def swap_measurements(swap: Swap, task: Task, draws: Draws, *, headline: bool = False) -> list[Measurement]:
    """Flips, mean absolute change and shifts over the examples `draws` are of; an errored answer counts as flipped."""
    failed = _failed(swap.before, task) | _failed(swap.after, task)
    column, flips = 0 if not task.classes else task.positive_index, flipped(swap.before, swap.after, task)
    before, after = (one.outputs.astype(np.float64) for one in (swap.before, swap.after))
    apart = np.abs(after - before).sum(axis=1) / (2 if task.classes else 1)  # of probabilities: total variation
    signed = np.zeros(len(failed)) if column is None else after[:, column] - before[:, column]
    shifts = {} if column is None else swap.shifts
    rows = [own & ~failed for own in shifts.values()]
    columns = [np.where(failed, 0.0, apart), ~failed, flips, np.ones(len(failed))]
    told = draws.sums(np.stack([*columns, *rows, *(np.where(own, signed, 0.0) for own in rows)], axis=1))
    found, level = [], draws.level
    if task.classes:
        rate = exact_rate(int(told[0, 2]), len(failed), level=level)
        rate = rate if rate.value is None else replace(rate, replicates=ratio(told[1:, 2], told[1:, 3]))
        found.append(_measured(rate, "swap_flip_rate", swap.where, failed, headline=headline))
    unit, bounds = ("share", (0.0, 1.0)) if task.classes else ("target", (None, None))
    change = mean(told[:, 0], told[:, 1], level=level, bounds=bounds)
    note = f"{int(failed.sum())} rows without an answer have no change that could be averaged" if failed.any() else ""
    change, first = replace(change, reason=change.reason or note), headline and not task.classes
    found.append(_measured(change, "swap_mean_change", swap.where, failed, unit=unit, headline=first))
    bounds = (-1.0, 1.0) if task.classes else bounds
    for place, (where, own) in enumerate(shifts.items(), start=4):
        shift = mean(told[:, place + len(rows)], told[:, place], level=level, bounds=bounds)
        found.append(replace(_measured(shift, "swap_shift", where, failed[own], unit=unit), better="neither"))
    return found


def flipped(before: Answers, after: Answers, task: Task) -> Array:
    """Whether the answer differs or errored `(M,)`. Refused before and after is no flip: the answer is the same."""
    lost = [_failed(one, task) & ~(bool(task.classes) & (one.predictions == REFUSED)) for one in (before, after)]
    changed: Array = (before.predictions != after.predictions) | lost[0] | lost[1]
    return changed


def nothing(where: str, reason: str, level: float, *, is_classes: bool) -> list[Measurement]:
    """What is said where nothing could be swapped."""
    metric, unit = ("swap_flip_rate", "share") if is_classes else ("swap_mean_change", "target")
    blank = Estimate(None, None, None, "Clopper-Pearson", reason=reason, level=level)
    return [measured(blank, metric, unit=unit, better="lower", slice=where)]


def _failed(answers: Answers, task: Task) -> Array:
    failed: Array = answers.predictions < 0 if task.classes else ~np.isfinite(answers.predictions)
    return failed | ~np.isfinite(answers.outputs).all(axis=1)


def _measured(
    estimate: Estimate, metric: str, where: str, failed: Array, *, unit: str = "share", headline: bool = False
) -> Measurement:
    num, errored = len(failed), int(failed.sum())
    one = measured(estimate, metric, unit=unit, better="lower", slice=where, headline=headline)
    return replace(one, attempted=num, errored=errored, scored=num - errored)
