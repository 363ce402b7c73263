"""Leaving out training rows and training again: what the treatments that do so share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from assay.errors import Problem
from assay.treatments import _common, _counts
from assay.values import Array, Data, Split, System


def needs(system: System) -> list[Problem | None]:
    """What training again on other rows of the same data needs."""
    return [
        _common.needs_recipe(system),
        _common.needs_no_later_stage(system),
        _common.needs_split(system, "train"),
    ]


def empties_a_class(system: System, drop: Array) -> Problem | None:
    """A problem when no row, or no row of some class, would be left."""
    train = system.data.splits["train"]
    kept = train.labels[~drop]
    if not len(kept):
        return Problem("no training row would be left", "at least one", "Ask for less to be dropped")
    if not system.data.classes:
        return None
    before, after = (np.bincount(labels, minlength=len(system.data.classes)) for labels in (train.labels, kept))
    lost = [system.data.classes[code] for code in np.flatnonzero((before > 0) & (after == 0))]
    return _common.unless(not lost, f"no training row of {', '.join(lost)} would be left", "one or more of each class")


def without(
    system: System, drop: Array, *, treatment: str, parameters: Mapping[str, Any], outcome: Mapping[str, Any]
) -> System:
    """The system trained again without the training rows in `drop (N,)`; about how many of each group is recorded."""
    train = system.data.splits["train"]
    splits = {**system.data.splits, "train": train.take(np.flatnonzero(~drop))}
    facts = {"num_train_before": len(train), "num_dropped": int(drop.sum()), **outcome}
    facts["dropped_by_group"] = dropped_by_group(train, drop)
    return again(system, splits, treatment=treatment, parameters=parameters, outcome=facts)


def again(
    system: System,
    splits: Mapping[str, Split],
    *,
    treatment: str,
    parameters: Mapping[str, Any],
    outcome: Mapping[str, Any],
) -> System:
    """The system trained by its own recipe and seed on changed splits, with one more step of lineage."""
    data: Data = replace(system.data, splits=dict(splits))
    fitted = _common.known(system.recipe).fit(data.splits["train"], data, system.seed)
    named = _common.grown(system, treatment=treatment, stage="data", parameters=parameters, outcome=outcome)
    return replace(named, model=fitted.model, facts=_common.told_of_rows(fitted.facts, named.lineage), data=data)


def dropped_by_group(train: Split, drop: Array) -> dict[str, dict[str, int | str]]:
    """About how many rows were dropped and there were, of every group; few rows are not told.

    `{"sex=Female": {"dropped": "fewer than 10", "of": 210}}`
    """
    found: dict[str, dict[str, int | str]] = {}
    for place, column in enumerate(train.groups.columns):
        codes = train.groups.codes[:, place]
        names = [f"{column.name}={category}" for category in column.categories]
        dropped, of = (
            _counts.told({name: int((kept & (codes == code)).sum()) for code, name in enumerate(names)})
            for kept in (drop, np.ones_like(drop))
        )
        found |= {name: {"dropped": dropped[name], "of": of[name]} for name in names}
    return found
