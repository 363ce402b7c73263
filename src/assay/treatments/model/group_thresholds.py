"""Thresholds per group, chosen for the least cost at nearly equal error rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from assay.errors import Problem
from assay.registry import treatment
from assay.tasks.group_thresholds import GroupThresholds, Mixture
from assay.treatments import _common
from assay.treatments.model._relaxed_odds import least_cost_rates, mixture_at, roc_hull
from assay.values import Array, Groups, System, digest_of


@dataclass(frozen=True)
class Fit:
    """Thresholds found on one set of rows."""

    mixtures: tuple[Mixture, ...]
    fallback: Mixture
    rates: dict[str, tuple[float, float]]  # group -> false and true positive rate, as planned
    pooled: tuple[str, ...]  # groups too small for thresholds of their own


@treatment("model", moves=("lower:equalized_odds_difference",))
def group_thresholds(
    system: System,
    *,
    columns: Sequence[str] | None = None,
    tolerance: float = 0.02,
    costs: Sequence[float] = (1.0, 1.0),
    min_num: int = 30,
    splits: Sequence[str] = ("validation",),
) -> System:
    r"""Replace the decision rule by a mixture of thresholds per group, at least cost under relaxed equalized odds.

    Minimises $c_{FP} \#FP + c_{FN} \#FN$ on the rows of `splits` over all randomised group thresholds, subject to
    $\max_g - \min_g \le r$ (`tolerance`, 0 to 1) for true and false positive rates: a linear programme on the
    groups' ROC hulls, solved exactly. `columns` are crossed; None is the first declared one. Groups with fewer than
    `min_num` rows of either label there, and people without a group, get one mixture that reaches the mean rates of
    the others on all rows together; nothing equalises their rates. Limits: equality holds on the rows fitted on;
    elsewhere up to sampling error. Adding the training split makes that smaller for a model that answers training
    rows as it answers others, and misleads for one that memorised them. The rule reads the sensitive columns when
    it is used, which a law may forbid; some answers are a lottery; probabilities stay as they are and no longer fit
    the answers. Raises TreatmentError unless the task is binary with two usable groups.

    Source: Cruz and Hardt 2024, "Unprocessing seven years of algorithmic fairness", section 3; Hardt et al. 2016.
    """
    names, wrong = _common.chosen_columns(system, columns)
    problems = [wrong, *_wrong_options(system, tolerance, costs, min_num), *_wrong_splits(system, splits)]
    _common.refuse("group_thresholds", system, problems)
    positive = _common.known(system.task.positive_index)
    parts = [system.data.splits[name] for name in splits]
    groups = Groups(np.concatenate([part.groups.codes for part in parts]), parts[0].groups.columns)
    known = np.concatenate([part.labels for part in parts])
    codes, found = _common.cells(groups, names)
    labels = (known == positive).astype(np.int64)
    _common.refuse("group_thresholds", system, [_too_small(codes, labels, found, names, min_num)])
    outputs = np.concatenate([system.model.outputs(part.inputs) for part in parts])
    probabilities = system.task.probabilities(system.task.logits(outputs, system.model.outputs_are))
    scored = np.isfinite(probabilities[:, positive]) & (known >= 0)
    rows = (probabilities[scored, positive], labels[scored], (codes[scored], found))
    fit = fit_thresholds(*rows, tolerance=tolerance, costs=costs, min_num=min_num)
    key = digest_of(["group_thresholds", system.digest, system.seed])  # two systems share no lottery
    rule = GroupThresholds(names, positive, fit.mixtures, fit.fallback, key)
    parameters = {
        "columns": None if columns is None else list(columns),
        "tolerance": float(tolerance),
        "costs": [float(cost) for cost in costs],
        "min_num": int(min_num),
        "splits": list(splits),
    }
    outcome = _outcome(fit, rule.chances(probabilities, groups), scored)
    named = _common.grown(system, treatment="group_thresholds", stage="model", parameters=parameters, outcome=outcome)
    return replace(named, decision=rule)


def fit_thresholds(
    probabilities: Array,
    labels: Array,
    cells: tuple[Array, Sequence[tuple[str, ...]]],
    *,
    tolerance: float,
    costs: Sequence[float],
    min_num: int,
) -> Fit:
    """Mixtures of least cost for probabilities `(N,)`, labels `(N,)` in {0, 1} and cells (codes `(N,)`, names)."""
    codes, found = cells
    members = [np.flatnonzero(codes == code) for code in range(len(found))]
    own = [code for code in range(len(found)) if _large_enough(labels[members[code]], found[code], min_num)]
    hulls = [roc_hull(probabilities[members[code]], labels[members[code]]) for code in own]
    sizes = np.array([[hull.num_negative, hull.num_positive] for hull in hulls], dtype=np.float64)
    rates = least_cost_rates(hulls, costs=sizes * np.asarray(costs) / len(labels), tolerance=tolerance)
    everyone = roc_hull(probabilities, labels)
    mean = (rates * sizes).sum(axis=0) / sizes.sum(axis=0)
    mean[1] = min(mean[1], np.interp(mean[0], everyone.false_positive_rates, everyone.true_positive_rates))
    mixtures = tuple(
        Mixture(found[code], *mixture_at(hull, point)) for code, hull, point in zip(own, hulls, rates, strict=True)
    )
    fallback = Mixture((), *mixture_at(everyone, mean))
    planned = {
        " & ".join(found[code]): (float(point[0]), float(point[1])) for code, point in zip(own, rates, strict=True)
    }
    small = tuple(" & ".join(found[code]) for code in range(len(found)) if code not in own)
    return Fit(mixtures, fallback, planned, small)


def _large_enough(labels: Array, cell: tuple[str, ...], min_num: int) -> bool:
    return "" not in cell and bool((np.bincount(labels, minlength=2) >= min_num).all())


def _too_small(
    codes: Array, labels: Array, found: Sequence[tuple[str, ...]], names: Sequence[str], min_num: int
) -> Problem | None:
    sizes = {found[code]: labels[codes == code] for code in range(len(found))}
    usable = [cell for cell, rows in sizes.items() if _large_enough(rows, cell, min_num)]
    counts = ", ".join(
        f"{' & '.join(cell) or 'missing'}: {len(rows) - int(rows.sum())} and {int(rows.sum())}"
        for cell, rows in list(sizes.items())[:12]
    )
    return _common.unless(
        len(usable) >= 2,
        f"only {len(usable)} group(s) of {', '.join(names)} have enough rows of both labels ({counts})",
        f"two groups with at least {min_num} rows of each label",
        "Choose other columns, cross fewer of them, or fit on more rows",
    )


def _wrong_options(system: System, tolerance: float, costs: Sequence[float], min_num: int) -> list[Problem | None]:
    positive = len(costs) == 2 and all(np.isfinite(cost) and cost > 0 for cost in costs)
    return [
        _common.unless(
            system.task.positive_index is not None,
            f"its task is {system.task.name} with {len(system.task.classes)} classes",
            "classification with two classes",
        ),
        _common.unless(0 <= tolerance <= 1, f"tolerance is {tolerance}", "0 to 1"),
        _common.unless(
            positive, f"costs are {list(costs)}", "two positive numbers: of a false positive, of a false negative"
        ),
        _common.unless(min_num >= 1, f"min_num is {min_num}", "1 or more"),
    ]


def _wrong_splits(system: System, splits: Sequence[str]) -> list[Problem | None]:
    known = ("validation", "train")
    fine = 0 < len(splits) == len(set(splits)) and all(name in known for name in splits)
    following = "Thresholds fitted on test rows could not be judged by them"
    found = [_common.unless(fine, f"splits are {list(splits)}", "validation, train, or both", following)]
    return found + [_common.needs_split(system, name) for name in splits if name in known]


def _outcome(fit: Fit, chances: Array, scored: Array) -> dict[str, Any]:
    lottery = (chances[scored] > 0) & (chances[scored] < 1)
    planned = np.array(list(fit.rates.values()))
    return {
        "planned_rates": {
            name: {"false_positive_rate": round(f, 9), "true_positive_rate": round(t, 9)}
            for name, (f, t) in fit.rates.items()
        },
        "planned_equalized_odds_difference": round(float((planned.max(axis=0) - planned.min(axis=0)).max()), 9),
        "lottery_share": float(lottery.mean()),  # of the rows fitted on
        "pooled_groups": list(fit.pooled),
        "num_fitted": int(scored.sum()),
        "num_errored": int((~scored).sum()),
    }
