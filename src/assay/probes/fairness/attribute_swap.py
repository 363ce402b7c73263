"""Does the answer change when only the sensitive column is changed?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assay.probes.fairness._swaps import Answers, Swap, nothing, swap_measurements
from assay.registry import Sizes, probe
from assay.stats import Draws
from assay.units import group_features
from assay.values import Array, Column, Groups, Measurement, Task

if TYPE_CHECKING:
    from assay.access.handles import Query


def swapped_rows(sizes: Sizes) -> dict[str, int]:
    """Every test row once for each group column that is a feature too."""
    return {"attribute_swap": sizes.num_test * sizes.num_group_features}


@probe("fairness", tasks=("classification", "regression"), cost=swapped_rows, modalities=("table",))
def attribute_swap(
    query: Query, logits: Array, predictions: Array, groups: Groups, task: Task, draws: Draws
) -> list[Measurement]:
    """How often the answer flips, and how far the output moves, when a row's sensitive value is swapped for another.

    Definition: row i with value v of a group column becomes x'_i with another value v' of it, drawn evenly and keyed by
        the test rows, in the feature of that name and in what the decision rule is told. swap_flip_rate =
        mean[answer(x') != answer(x)]; swap_mean_change = mean of half the summed |p(x') - p(x)| (a number: of
        |answer(x') - answer(x)|); swap_shift (slice column=v') = mean[p(positive | x') - p(positive | x)] over rows
        swapped to v'. An errored answer counts as flipped and has no change; one refused twice (-2) has not flipped.
    Shapes: logits (N, K), predictions (N,), groups codes (N, G), one copy of each row for each group column that
        is a feature. Slice: the column.
    Direction: flips and change lower; a shift neither (nearest to 0); unit share, or that of the target.
    Limits: everything else stays as it was, so what stands in for the column (a first name, a job, a marital status)
        keeps its effect: no flip does not mean no discrimination, and such a person need not exist. A column that is no
        feature, and that the decision rule does not read, cannot flip anything and is not tried. Rows with a missing
        value are left out.
    Source: Kusner et al. (2017), section 3.1 (direct effects only: no causal model); Galhotra et al. (2017), causal
        discrimination; interval of flips: Clopper & Pearson (1934).

    >>> rows, told = np.array([[30.0, 0.0], [40.0, 1.0]]), Column("sex", "categorical", ("f", "m"))
    >>> swapped(rows, 1, np.array([1, -1]), told, told).tolist()
    [[30.0, 1.0], [40.0, 1.0]]
    """
    probabilities, features = task.probabilities(logits), group_features(query.columns, groups.columns)
    before, reads = Answers(predictions, probabilities), query.system.decision.needs_groups
    found: list[Measurement] = []
    for index, column in enumerate(groups.columns):
        place = features.get(index)
        if place is None and not (reads and len(column.categories) > 1):
            continue
        codes = groups.codes[:, index].astype(np.int64)
        known = (codes >= 0) & (codes < len(column.categories))
        jump = query.rng(f"swap {column.name}").integers(1, len(column.categories), len(codes))
        other = np.where(known, (codes + jump) % len(column.categories), -1)
        told = Groups(np.where(np.arange(len(groups.columns)) == index, other[:, None], groups.codes), groups.columns)
        outputs, inputs = probabilities, query.inputs
        if place is not None:
            inputs = swapped(inputs, place, other, column, query.columns[place])
            outputs = query.probabilities(inputs)
        after = Answers(query.system.decision.decide(outputs, inputs, told), outputs)
        reached = {f"{column.name}={name}": other == code for code, name in enumerate(column.categories)}
        swap = Swap(before, after, column.name, {where: rows for where, rows in reached.items() if rows.any()})
        if known.all():
            found += swap_measurements(swap, task, draws, headline=not found)
        else:
            rows = np.flatnonzero(known)
            found += swap_measurements(swap.take(rows), task, draws.of(rows), headline=not found)
    reason = "no group column is a feature, and the decision rule reads none"
    return found or nothing("", reason, draws.level, is_classes=bool(task.classes))


def swapped(inputs: Array, place: int, other: Array, column: Column, feature: Column) -> Array:
    """Rows `(N, F)` with the value `other (N,)` of a group column put into its feature; -1 stays as it is."""
    codes = np.array([feature.categories.index(name) for name in column.categories])
    result, moved = np.array(inputs, dtype=inputs.dtype), other >= 0
    result[moved, place] = codes[other[moved]]
    return result
