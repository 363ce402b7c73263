"""How far the groups of the test rows are from those of a declared population."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from assay.access.handles import Query
from assay.data.quality.shares import declared_population
from assay.errors import DataError, Problem
from assay.estimation import intervals
from assay.estimation.estimate import Estimate, ratio, undefined
from assay.registry import EVERY_TASK, Sizes, probe
from assay.stats import Draws, measured
from assay.values import Array, Column, Measurement

METHOD = "simultaneous Clopper-Pearson"


def _no_rows(sizes: Sizes) -> dict[str, int]:
    """It counts groups and asks the model nothing."""
    return {}


@probe("data", tasks=EVERY_TASK, cost=_no_rows)
def representativeness(query: Query, draws: Draws) -> list[Measurement]:
    r"""Share of each group minus its share of the declared population, and the largest of these differences.

    Definition: representation_difference(g) = #g / N - $q_g$; representation_gap = $\max_g$ |#g / N - $q_g$|, over the
        groups of one column; N counts the rows whose group is known, and q is `Data.source["population"]`, such as
        {"sex": {"Female": 0.51, "Male": 0.49}}. Rows of unknown group count as errored.
    Shapes: codes (N, G) of the groups, through the query handle.
    Direction: of the gap lower is better, of a difference neither; unit share, -1 to 1.
    Limits: as right as the declared shares, which are taken as exact. One column at a time: the crossed groups may be
        off when each column is not. Undefined where no population is declared.
    Source: European Union AI Act, article 10(3); limits: Clopper and Pearson (1934), of the gap corrected for all
        groups below (Bonferroni), uncorrected above, as the truth is one of them.

    >>> round(difference(np.array([[60.0, 40.0]]), np.array([0.5, 0.5]), level=0.95)[0].value, 2)
    0.1
    """
    data = query.system.data
    population = declared_population(data)
    found: list[Measurement] = []
    for place, column in enumerate(data.group_columns):
        found += _of_column(query.groups.codes[:, place], column, population.get(column.name), draws)
    if not found:
        none = undefined(METHOD, "the data declares no group column", draws.level)
        found = [measured(none, "representation_gap", unit="share", better="lower")]
    return found


def _of_column(codes: Array, column: Column, declared: Any, draws: Draws) -> list[Measurement]:
    rows = len(codes)
    if declared is None:
        why = f'no population is declared for {column.name} (Data.source["population"])'
        none = undefined(METHOD, why, draws.level)
        return [measured(none, "representation_gap", unit="share", better="lower", slice=column.name, attempted=rows)]
    expected = shares_of(declared, column)
    num = len(column.categories)
    inside = (codes >= 0) & (codes < num)
    counts = draws.counts(np.where(inside, codes, num).astype(np.int64), num + 1)[:, :num]
    errored = int((~inside).sum())
    each = difference(counts, expected, level=draws.level)
    gap = largest(counts, expected, level=draws.level)
    found = [
        measured(
            gap, "representation_gap", unit="share", better="lower", slice=column.name, attempted=rows, errored=errored
        )
    ]
    for name, one in zip(column.categories, each, strict=True):
        where = f"{column.name}={name}"
        found.append(
            measured(
                one,
                "representation_difference",
                unit="share",
                better="neither",
                slice=where,
                attempted=rows,
                errored=errored,
            )
        )
    return found


def shares_of(declared: Mapping[str, float], column: Column) -> Array:
    """Declared shares in the order of the column's groups. Raises DataError unless they are shares that sum to 1."""
    unknown = [name for name in declared if name not in column.categories]
    absent = [name for name in column.categories if name not in declared]
    shares = np.array([float(declared.get(name, 0)) for name in column.categories])
    problems = []
    if unknown or absent:
        what = f"the declared population of {column.name} names {', '.join(declared)}"
        problems.append(Problem(what, ", ".join(column.categories)))
    if not (np.isfinite(shares).all() and (shares >= 0).all() and abs(shares.sum() - 1) < 1e-3):
        problems.append(
            Problem(f"the declared shares of {column.name} sum to {shares.sum():.4f}", "shares that sum to 1")
        )
    if problems:
        raise DataError(problems)
    return shares


def difference(counts: Array, expected: Array, *, level: float) -> list[Estimate]:
    """Observed minus expected share of each group, counts `(1 + B, G)`, each with its own Clopper-Pearson limits."""
    totals = counts.sum(axis=1, keepdims=True)
    if totals[0, 0] <= 0:
        return [undefined(METHOD, "no row has a known group", level)] * len(expected)
    shares = ratio(counts, np.broadcast_to(totals, counts.shape)) - expected
    low, high = intervals.clopper_pearson(counts[0], totals[0], level=level)
    return [
        Estimate(float(column[0]), float(below - q), float(above - q), "Clopper-Pearson", column[1:], "", level)
        for column, below, above, q in zip(shares.T, low, high, expected, strict=True)
    ]


def largest(counts: Array, expected: Array, *, level: float) -> Estimate:
    """The largest absolute difference over groups: each side errs at most (1 - level)/2, whatever the shares.

    Replicates follow the group that is observed to be furthest off.
    """
    total = float(counts[0].sum())
    if total <= 0:
        return undefined(METHOD, "no row has a known group", level)
    jointly = intervals.clopper_pearson(counts[0], total, level=1 - (1 - level) / len(expected))
    alone = intervals.clopper_pearson(counts[0], total, level=level)
    shares = ratio(counts, np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape)) - expected
    place = int(np.abs(shares[0]).argmax())
    low = np.maximum(jointly[0] - expected, expected - jointly[1]).max()
    high = np.maximum(alone[1] - expected, expected - alone[0]).max()
    gaps = np.abs(shares[:, place])
    return Estimate(float(gaps[0]), max(0.0, float(low)), min(1.0, float(high)), METHOD, gaps[1:], "", level)
