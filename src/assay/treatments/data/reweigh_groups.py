"""Training weights that make group and label independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from assay.registry import treatment
from assay.treatments import _common, _counts
from assay.units.told import FEWEST_ROWS
from assay.values import Array, System


@treatment(
    "data",
    moves=("lower:demographic_parity_difference",),
)
def reweigh_groups(system: System, *, columns: Sequence[str] | None = None) -> System:
    r"""Weight each training row by $w_{gy} = W_g W_y / (W W_{gy})$ and train again with the system's recipe.

    $W$ sums the weights rows already have (1 without any) over all rows, over group g, label y, and both.
    Afterwards every group has the same weighted share of every label, and the weights' total is unchanged.
    `columns` are crossed; None is the first declared one. A missing group is a group of its own. Limits: equal base
    rates in training promise neither equal selection rates nor equal error rates of the trained model; where the
    labels themselves differ between groups, error rates often move apart (on Adult they do). A group that has only
    one label keeps it. Raises TreatmentError without recipe, classes or groups.

    Source: Kamiran and Calders 2012, section 4.3 (Reweighing).
    """
    names, wrong = _common.chosen_columns(system, columns)
    problems = [
        _common.needs_recipe(system),
        _common.needs_no_later_stage(system),
        _common.needs_split(system, "train"),
        _common.needs_classes(system),
        wrong,
    ]
    _common.refuse("reweigh_groups", system, problems)
    train = system.data.splits["train"]
    codes, _ = _common.cells(train.groups, names)
    factors = balancing_factors(codes, train.labels, train.weights)
    before = np.ones(len(train)) if train.weights is None else train.weights.astype(np.float64)
    weights = (before * factors).astype(np.float32)
    data = replace(system.data, splits={**system.data.splits, "train": replace(train, weights=weights)})
    fitted = _common.known(system.recipe).fit(data.splits["train"], data, system.seed)
    named = _common.grown(
        system,
        treatment="reweigh_groups",
        stage="data",
        parameters={"columns": None if columns is None else list(columns)},
        outcome={
            "columns": list(names),
            **_told(codes, train.labels, weights),
        },
    )
    return replace(named, model=fitted.model, facts=fitted.facts, data=data)


def _told(groups: Array, labels: Array, weights: Array) -> dict[str, float | str]:
    """The smallest and largest weight; not where a group has few rows of a label, for a weight tells how many.

    So does, beside the totals, Kish's number: how many rows of equal weight would give a mean as certain as these do.
    """
    sizes = np.unique(np.stack([groups, labels], axis=1), axis=0, return_counts=True)[1]
    if sizes.min() < FEWEST_ROWS:
        return {"weights_left_out": f"{_counts.FEW} rows of a group and label"}
    effective = float(weights.sum(dtype=np.float64) ** 2 / np.square(weights, dtype=float).sum())
    smallest, largest = float(weights.min()), float(weights.max())
    return {"smallest_weight": smallest, "largest_weight": largest, "effective_num_train": effective}


def balancing_factors(groups: Array, labels: Array, weights: Array | None = None) -> Array:
    r"""Factor of each row `(N,)` float64: $W_g W_y / (W W_{gy})$ for its group code and label.

    >>> balancing_factors(np.array([0, 0, 0, 1]), np.array([1, 1, 0, 0])).round(3).tolist()
    [0.75, 0.75, 1.5, 0.5]
    """
    _, group = np.unique(groups, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    shape = (int(group.max()) + 1, int(label.max()) + 1)
    table = np.bincount(group * shape[1] + label, weights=weights, minlength=shape[0] * shape[1]).reshape(shape)
    table = table.astype(np.float64)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    factors = np.divide(expected, table, out=np.zeros(shape), where=table > 0)
    result: Array = factors[group, label]
    return result
