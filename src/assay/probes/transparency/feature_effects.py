"""How far the mean answer moves over the range of each column."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from assay import stats
from assay.access.handles import Query
from assay.probes.transparency import _effects, _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate, measured
from assay.units.told import is_told
from assay.values import Array, Measurement, Task

NUM_ROWS = 500
NUM_SET = 100  # rows in which a column is set to each value
NUM_SHOWN = 4  # columns whose curve is told


def _cost(sizes: Sizes) -> dict[str, int]:
    num_rows, num_set = min(NUM_ROWS, sizes.num_test), min(NUM_SET, sizes.num_test)
    columns = _masked.num_looked_at(sizes) * (2 * num_rows + num_set * _effects.NUM_BINS)
    return {"effects of columns": num_rows + columns, **_masked.screening(sizes)}


@probe("transparency", tasks=("classification", "regression"), cost=_cost, modalities=("table",))
def feature_effects(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """How far the mean output moves over the range of each column: accumulated local effects and partial dependence.

    Definition: ALE(v) = sum over steps up to v of the mean, over rows in the step, of f(x at its high end) - f(x at its
    low end), centred; accumulated_effect_range = how far the curve of one half of the rows goes between the points
    where the other half's is highest and lowest, averaged over both; accumulated_effect = the curve of all rows (the 4
    columns with the largest range; points of a number that ten training rows lie at or beyond);
    partial_dependence_range the same of the mean output with the column set in all rows. Steps: between 11 training
    quantiles; of categories, between neighbours when ordered by the mean output of their rows (not by likeness, as in
    the source).
    Shapes: at most 500 test rows (100 for partial dependence); slices `feature=<name>`, of curves ` & value=<value>`.
    Direction: neither, in probability (or the target's unit), of the positive class (of more than two: of each row's
    most probable one).
    Limits: means over rows: opposite effects cancel. Ranges leave out what lies outside the quantiles. Partial
    dependence sets values that never occur together; a large gap between the two says so. Noise alone gives 0 on
    average, and may give less.
    Source: Apley and Zhu 2020, sections 2 and 3; Friedman 2001, section 8.2.

    >>> from assay.registry import PROBES
    >>> PROBES["feature_effects"].modalities
    ('table',)
    """
    rows = query.rows(NUM_ROWS)
    about = _asked(query, task, query.inputs[rows], draws=draws.of(rows))
    few = about.some(np.searchsorted(rows, query.rows(NUM_SET)), draws.of(query.rows(NUM_SET)))
    found: list[Measurement] = []
    curves = []
    for place in _masked.looked_at(query).tolist():
        column = query.columns[place]
        steps = _effects.steps_of(query, column, place, about.inputs, about.outputs)
        ends = about.answers(_effects.moved(steps, about.inputs, place)).reshape(2, -1)
        changes = _effects.differences(steps, ends, about.outputs)
        kept = np.asarray(np.isfinite(changes).all(axis=0) & np.isfinite(about.outputs))
        whole, *halves = _effects.accumulated(
            about.draws, steps, np.nan_to_num(changes), kept=kept, is_even=about.is_even
        )
        effect = about.measured(_effects.crossed_range((halves[0], halves[1])), "accumulated_effect_range",
                                f"feature={column.name}", kept)  # fmt: skip
        found.append(effect)
        curves.append((-(effect.value or 0.0), place, steps.points, whole, kept))
        found.append(_dependence(query, few, place))
    for _, place, points, whole, kept in sorted(curves, key=lambda one: one[:2])[:NUM_SHOWN]:
        column = query.columns[place]
        told = is_told(query.known[:, place], points) | (column.kind != "numeric")  # no cell of one training row
        for point, values in zip(points[told].tolist(), whole.T[told], strict=True):
            name = column.categories[int(point)] if column.kind == "categorical" else f"{point:.6g}"
            slice_ = f"feature={column.name} & value={name}"
            point_of_curve = about.measured(values, "accumulated_effect", slice_, kept)
            found.append(replace(point_of_curve, replicates=None))  # a curve is looked at, not compared point by point
    return _masked.noted(query, found, others=False)


@dataclass(frozen=True)
class _Asked:
    """The rows asked about, what they answer as they are, and which half each is in."""

    query: Query
    task: Task
    inputs: Array  # (R, F)
    target: Array  # (R,)
    outputs: Array  # (R,)
    draws: Draws
    is_even: Array  # (R,)

    def some(self, places: Array, draws: Draws) -> _Asked:
        """Some of the rows, with draws of them."""
        arrays = self.inputs[places], self.target[places], self.outputs[places]
        return _Asked(self.query, self.task, *arrays, draws, self.is_even[places])

    def answers(self, inputs: Array) -> Array:
        """The explained output `(M,)` of inputs that are the rows `(R, F)` over and over."""
        found = self.query.probabilities(inputs)
        target = np.tile(self.target, len(inputs) // max(len(self.target), 1))
        return np.asarray(found[np.arange(len(found)), target], dtype=np.float64)

    def measured(self, values: Array, metric: str, slice_: str, kept: Array) -> Measurement:
        """A function of the draws `(1 + B,)` that rests on the kept rows."""
        if not kept.any():
            estimate = Estimate(None, None, None, "recentred bootstrap", None, _masked.ALL_ERRORED)
        else:
            estimate = stats.statistic(values, level=self.draws.level, num=int(kept.sum()))
        return measured(
            estimate, metric, unit=_masked.unit(self.task), better="neither", slice=slice_, attempted=len(kept),
            errored=int((~kept).sum()),
        )  # fmt: skip


def _asked(query: Query, task: Task, inputs: Array, *, draws: Draws) -> _Asked:
    found = query.probabilities(inputs)
    is_free = bool(task.classes) and task.positive_index is None
    target = np.nan_to_num(found).argmax(axis=1) if is_free else np.full(len(inputs), task.positive_index or 0)
    outputs = found[np.arange(len(inputs)), target].astype(np.float64)
    is_even = query.rng("halves of effects").permutation(len(inputs)) % 2 == 0
    return _Asked(query, task, inputs, target, outputs, draws, is_even)


def _dependence(query: Query, about: _Asked, place: int) -> Measurement:
    """The range of the mean output while a column is set to each of 10 values in all rows."""
    column, rows = query.columns[place], about.inputs
    known = query.known[:, place]
    known = known[np.isfinite(known)]
    if column.kind == "categorical":
        codes, times = np.unique(known, return_counts=True)
        grid = np.resize(codes[np.argsort(-times, kind="stable")], _effects.NUM_BINS)
    else:
        grid = np.quantile(known, np.linspace(0, 1, _effects.NUM_BINS)) if len(known) else np.zeros(_effects.NUM_BINS)
    inputs = np.tile(rows, (len(grid), 1)).astype(np.float32)
    inputs[:, place] = np.repeat(grid, len(rows))
    found = about.answers(inputs).reshape(len(grid), len(rows)).T
    kept = np.asarray(np.isfinite(found).all(axis=1))
    halves = []
    for half in (about.is_even, ~about.is_even):
        member = (kept & half)[:, None].astype(np.float64)
        sums = about.draws.sums(np.concatenate([np.nan_to_num(found) * member, member], axis=1))
        halves.append(np.divide(sums[:, :-1], sums[:, -1:], out=np.zeros_like(sums[:, :-1]), where=sums[:, -1:] > 0))
    values = _effects.crossed_range((halves[0], halves[1]))
    return about.measured(values, "partial_dependence_range", f"feature={column.name}", kept)
