"""Training rows are repeated or left out until group and label are independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.registry import treatment
from assay.treatments import _common, _counts
from assay.treatments.data import _rows
from assay.values import Array, System


@treatment("data", moves=("lower:demographic_parity_difference",))
def resample_groups(system: System, *, columns: Sequence[str] | None = None) -> System:
    r"""Give each cell of group g and label y $n_g n_y / n$ training rows, by whole rows, and train again.

    A cell of m rows that is to have t has each of them $\lfloor t/m \rfloor$ times, and $t \bmod m$ of them, drawn by
    the system's seed, once more: on average a row counts as often as `reweigh_groups` weighs it. Cells are rounded by
    largest remainders, each less than one row off, so that n stays; empty cells stay empty. `columns` are crossed;
    None is the first declared one; a missing group is a group of its own. For learners that take no weights.
    Limits: those of `reweigh_groups`, and the draw adds noise that weights do not have; rows left out teach nothing,
    copies are learnt sooner (reference models have all copies of a row or none, so that no member is hidden).
    Raises TreatmentError without recipe, classes or groups, for rows with weights, or when a class would lose its last
    row.

    Source: Kamiran and Calders 2012, section 4.4 (uniform sampling).
    """
    names, wrong = _common.chosen_columns(system, columns)
    train = system.data.splits.get("train")
    weighted = train is not None and train.weights is not None
    problems = [
        *_rows.needs(system),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        _common.unless(not weighted, "its training rows have weights", "rows that count alike", "Use reweigh_groups"),
        wrong,
    ]
    _common.refuse("resample_groups", system, problems)
    train = _common.known(train)
    codes, found = _common.cells(train.groups, names)
    counts = copies(codes, train.labels, np.random.default_rng([2012, system.seed]))
    _common.refuse("resample_groups", system, [_rows.empties_a_class(system, counts == 0)])
    outcome = {
        "columns": list(names),
        "num_train": len(train),
        "num_left_out": int((counts == 0).sum()),
        "num_copies": int(np.maximum(counts - 1, 0).sum()),
        "most_copies": int(counts.max()),
        "cells": _cells(system, (names, found, codes), counts),
    }
    parameters = {"columns": None if columns is None else list(columns)}
    splits = {**system.data.splits, "train": train.take(np.repeat(np.arange(len(train)), counts))}
    return _rows.again(system, splits, treatment="resample_groups", parameters=parameters, outcome=outcome)


def copies(groups: Array, labels: Array, rng: np.random.Generator) -> Array:
    r"""How often each row `(N,)` is taken, so that its cell has $n_g n_y / n$ rows, to less than one.

    >>> group, label = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([1, 1, 1, 0, 1, 0, 0, 0])
    >>> np.bincount(group * 2 + label, weights=copies(group, label, np.random.default_rng(0))).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    _, group = np.unique(groups, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    num_labels = int(label.max()) + 1
    cell = group * num_labels + label
    table = np.bincount(cell, minlength=(int(group.max()) + 1) * num_labels).reshape(-1, num_labels)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(cell)
    wanted = rounded(np.where(table > 0, expected, 0.0))
    taken = np.zeros(len(cell), dtype=np.int64)
    for place, (num, target) in enumerate(zip(table.ravel(), wanted.ravel(), strict=True)):
        if num:
            rows = np.flatnonzero(cell == place)
            taken[rows] = target // num
            taken[rng.permutation(rows)[: target % num]] += 1
    return taken


def rounded(expected: Array) -> Array:
    """Whole numbers of the same (rounded) total, each less than one from what is expected: largest remainders first.

    >>> rounded(np.array([1.5, 1.5, 0.5, 0.5])).tolist()
    [2, 2, 0, 0]
    """
    whole = np.floor(expected + 1e-9).astype(np.int64)
    short = round(float(expected.sum())) - int(whole.sum())
    order = np.argsort(-(expected - whole).ravel(), kind="stable")[: max(short, 0)]
    whole.ravel()[order] += 1
    return whole


def _cells(
    system: System, about: tuple[Sequence[str], list[tuple[str, ...]], Array], counts: Array
) -> dict[str, dict[str, int | str]]:
    """About how many rows there were and are, by group and class; few rows are not told."""
    names, found, codes = about
    labels, before, after = system.data.splits["train"].labels, {}, {}
    for code, values in enumerate(found):
        group = " & ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        for label, word in enumerate(system.data.classes):
            inside = (codes == code) & (labels == label)
            before[f"{group} & {word}"], after[f"{group} & {word}"] = int(inside.sum()), int(counts[inside].sum())
    told = [_counts.told(one) for one in (before, after)]
    return {name: {"before": told[0][name], "after": told[1][name]} for name in before}
