"""Training rows lose what tells them from k - 1 others, on the columns that others know too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from assay.data.quality.lookalikes import classes, known_outside, num_alike, quasi_identifiers
from assay.errors import Problem
from assay.registry import treatment
from assay.treatments import _common
from assay.treatments.data import _rows
from assay.treatments.data._cells import cells_of_both, loss, middle, middles_of_others
from assay.values import NON_MEMBERS, Array, Data, Split, System


@treatment("data", moves=("higher:smallest_group_of_lookalikes", "lower:unique_row_share", "lower:lookalike_risk"))
def generalise_to_k(system: System, *, k: int = 10, columns: Sequence[str] | None = None) -> System:
    r"""Make every training row equal to k - 1 others or more on the quasi-identifiers, and train again.

    Rows are cut into cells of k or more by Mondrian (see `_cells.mondrian`); within a cell numbers become the median
    and categories the most frequent one, in the features and in the group columns alike. `columns`: the
    quasi-identifiers; None is what `assay.data.quality.lookalikes.quasi_identifiers` finds (declared ones, else groups
    and columns named for age, place, origin, marital status). Validation and test rows stay, and the model is asked
    about rows as they are. The outcome tells the k reached, classes, discernibility $\sum |E|^2$, the share of
    information lost (NCP) and how diverse labels are within a class. Limits: hides which row is whose, not what is true
    of all rows of a class: where a class has one label, it is disclosed (see `labels_least`); only what is listed is
    generalised; whoever knows more columns, or a second release, can undo it; small groups are drawn to their
    neighbours, group codes of training rows included. Not a bound on what the model remembers: that is `dp_sgd`.
    Membership inference asks about generalised rows on both sides (the test rows put through the same cells, as the
    split "non-members"), so that members are told by memory and not by form.
    Raises TreatmentError without recipe, for pictures or texts, unknown columns, or k not from 2 to the number of rows.

    Source: LeFevre, DeWitt and Ramakrishnan 2006, Mondrian, section 4 (strict, greedy); Xu et al. 2006, section 2.2
    (NCP); Machanavajjhala et al. 2007, l-diversity, section 4.
    """
    data = system.data
    names = tuple(quasi_identifiers(data) if columns is None else columns)
    num, kind = len(data.splits["train"]) if "train" in data.splits else 0, data.modality
    problems = [
        *_rows.needs(system),
        _common.unless(kind == "table", f"its inputs are {kind}s", "tables"),
        _common.unless(2 <= k <= max(num, 2), f"k is {k}", f"2 to {num:,}, the number of training rows"),
        _unknown(data, names) if kind == "table" else None,
    ]
    _common.refuse("generalise_to_k", system, problems)
    train = data.splits["train"]
    outside = data.splits[data.non_members]
    rows, is_number = _looked_at(data, train, names)
    cells, theirs = cells_of_both(rows, _looked_at(data, outside, names)[0], is_number, k)
    changed = _generalised(data, train, names, cells)
    outcome = {
        "columns": list(names),
        "before": _sizes(known_outside(data, train, names)),
        "after": _sizes(known_outside(data, changed, names)),
        "information_lost": round(loss(rows, cells, is_number), 6),
        **_diversity(known_outside(data, changed, names), train.labels),
    }
    parameters = {"k": int(k), "columns": None if columns is None else list(columns)}
    likewise = _as_in_cells(data, outside, names, (changed, cells, theirs))
    splits = {**data.splits, "train": changed, NON_MEMBERS: likewise}
    return _rows.again(system, splits, treatment="generalise_to_k", parameters=parameters, outcome=outcome)


def _unknown(data: Data, names: Sequence[str]) -> Problem | None:
    known = list(dict.fromkeys(column.name for column in (*data.columns, *data.group_columns)))
    wrong = [name for name in names if name not in known]
    if wrong or not names or len(set(names)) < len(names):
        what = f"quasi-identifiers {list(names)}" if names else "no column is a quasi-identifier"
        return Problem(what, "each once, of " + ", ".join(known), "Name them with columns")
    return None


def _looked_at(data: Data, train: Split, names: Sequence[str]) -> tuple[Array, list[bool]]:
    """Each quasi-identifier once `(n, Q)`, the feature where there is one, and whether it is a number."""
    features = {column.name: place for place, column in enumerate(data.columns)}
    groups = {column.name: place for place, column in enumerate(data.group_columns)}
    parts, is_number = [], []
    for name in names:
        place = features.get(name)
        parts.append(train.groups.codes[:, groups[name]] if place is None else train.inputs[:, place])
        is_number.append(place is not None and data.columns[place].kind == "numeric")
    return np.stack(parts, axis=1).astype(np.float64), is_number


def _generalised(data: Data, train: Split, names: Sequence[str], cells: Array) -> Split:
    inputs, codes = train.inputs.copy(), np.array(train.groups.codes)
    for place, column in enumerate(data.columns):
        if column.name in names:
            inputs[:, place] = middle(inputs[:, place].astype(np.float64), cells, is_number=column.kind == "numeric")
    for place, column in enumerate(data.group_columns):
        if column.name in names:
            codes[:, place] = middle(codes[:, place].astype(np.float64), cells, is_number=False)
    return replace(train, inputs=inputs, groups=replace(train.groups, codes=codes))


def _as_in_cells(data: Data, outside: Split, names: Sequence[str], found: tuple[Split, Array, Array]) -> Split:
    """Rows that were not generalised `(m, ...)`, with what the cells that they fall into have."""
    changed, cells, theirs = found
    inputs, codes = outside.inputs.copy(), np.array(outside.groups.codes)
    for columns, mine, values in (
        (data.columns, inputs, changed.inputs),
        (data.group_columns, codes, changed.groups.codes),
    ):
        for place, column in enumerate(columns):
            if column.name in names:
                mine[:, place] = middles_of_others(values[:, place], cells, theirs)
    return replace(outside, inputs=inputs, groups=replace(outside.groups, codes=codes))


def _sizes(rows: Array) -> dict[str, Any]:
    """Of the classes of equal rows: how many, the smallest, the average, and discernibility."""
    alike = num_alike(rows)
    num_classes = round(float((1 / alike).sum()))
    return {
        "smallest_class": int(alike.min()),
        "unique_rows": int((alike == 1).sum()),
        "num_classes": num_classes,
        "average_class": round(len(rows) / num_classes, 6),
        "discernibility": int(alike.sum()),
    }


def _diversity(rows: Array, labels: Array) -> dict[str, Any]:
    """Different labels in the class that has the fewest (l), and the share of rows whose class has only one."""
    member = classes(rows)
    pairs = np.unique(np.stack([member, np.unique(labels, return_inverse=True)[1]], axis=1), axis=0)
    different = np.bincount(pairs[:, 0])[member]
    return {"labels_least": int(different.min()), "share_of_one_label": round(float((different == 1).mean()), 6)}
