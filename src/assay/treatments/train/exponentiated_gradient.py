"""Retraining on changed costs until groups are selected alike, and answering by one of the results, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch

from assay.errors import Problem
from assay.models.adapters.module import ModuleModel
from assay.models.votes import Votes, votes_architecture
from assay.registry import treatment
from assay.tasks import Argmax
from assay.tasks.lottery import Drawn
from assay.train import TrainRecipe
from assay.treatments import _common
from assay.treatments.train import _around
from assay.treatments.train._reductions import Constraints, Solution, constraints_of, solve
from assay.values import Array, Data, Fitted, Model, Split, System, digest_of

Constraint = Literal["equalized_odds", "demographic_parity"]


@dataclass(frozen=True)
class ReductionSettings:
    """What shall be alike, between which groups, how nearly, and how many trainings that may cost."""

    columns: tuple[str, ...]
    constraint: Constraint = "equalized_odds"
    tolerance: float = 0.02
    num_refits: int = 16
    min_num: int = 30


@dataclass(frozen=True)
class ReductionRecipe:
    """The base recipe, trained again and again on the costs that its mixture has least of."""

    base: TrainRecipe
    settings: ReductionSettings

    @cached_property
    def digest(self) -> str:
        """Over the base recipe and every setting."""
        return digest_of(["ReductionRecipe", self.base.digest, self.settings])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        return _around.to_json("exponentiated_gradient", self.base, self.settings)

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """From scratch on `split`: the base recipe's own model is the first answer."""
        return self.fit_from(self.base.fit(split, data, seed), split, data, seed)

    def fit_from(self, first: Fitted, split: Split, data: Data, seed: int) -> Fitted:
        """The mixture, with a first model that is already trained as `fit` would."""
        positive = _common.known(self.base.task.positive_index)
        models, labels = [first.model], (split.labels == positive).astype(np.int64)

        def respond(wanted: Array, costs: Array) -> Array:
            changed = np.where(wanted == 1, positive, 1 - positive)
            again = replace(split, labels=changed, weights=costs.astype(np.float32))
            models.append(self.base.fit(again, data, seed).model)
            return _selects(models[-1], split, self.base, positive)

        importance = np.ones(len(split)) if split.weights is None else split.weights.astype(np.float64)
        found = solve(
            labels,
            importance / importance.mean(),
            constraints_for(split, self.settings, labels),
            respond=respond,
            first=_selects(first.model, split, self.base, positive),
            num=self.settings.num_refits,
        )
        return Fitted(mixed(models, found), {**first.facts, "reduction": _told(found)})


_around.register("exponentiated_gradient", ReductionRecipe, ReductionSettings)


def constraints_for(split: Split, settings: ReductionSettings, labels: Array) -> Constraints:
    """What the settings ask of a split with labels `(N,)` 0 or 1; people without a group are in none."""
    codes, found = _common.cells(split.groups, settings.columns)
    unknown = [code for code, cell in enumerate(found) if "" in cell]
    events = labels if settings.constraint == "equalized_odds" else np.zeros(len(split), dtype=np.int64)
    known = np.where(np.isin(codes, unknown), -1, codes)
    return constraints_of(events, known, tolerance=settings.tolerance, min_num=settings.min_num)


def _selects(model: Model, split: Split, base: TrainRecipe, positive: int) -> Array:
    logits = base.task.logits(model.outputs(split.inputs), model.outputs_are)
    return np.asarray(Argmax().decide(base.task.probabilities(logits), split.inputs, split.groups) == positive)


def mixed(models: Sequence[Model], found: Solution) -> ModuleModel:
    """The models that the solution draws from, as one that tells the share of votes; it offers no gradient."""
    drawn = [(model, weight) for model, weight in zip(models, found.weights, strict=True) if weight > 0]
    parts = [model for model, _ in drawn if isinstance(model, ModuleModel)]
    architecture = votes_architecture(_common.known(parts[0].architecture), len(parts))
    module = Votes([part.module for part in parts], torch.tensor([weight for _, weight in drawn])).eval()
    return ModuleModel(module.requires_grad_(False), architecture=architecture, differentiable=False)


def _told(found: Solution) -> dict[str, Any]:
    return {
        "num_refits": len(found.weights) - 1,
        "num_drawn": int((found.weights > 0).sum()),
        "weights": [round(float(weight), 6) for weight in found.weights if weight > 0],
        "training_error": round(found.error, 9),
        "training_excess": round(found.excess, 9),
        "gap": round(found.gap, 9),
        "is_solved": found.is_solved,
    }


@treatment("train", moves=("lower:equalized_odds_difference",), trainings=10)
def exponentiated_gradient(
    system: System,
    *,
    columns: Sequence[str] | None = None,
    constraint: Constraint = "equalized_odds",
    tolerance: float = 0.02,
    num_refits: int = 16,
    min_num: int = 30,
) -> System:
    r"""Retrain on changed costs, and answer each row by one of the results, so that groups are selected alike.

    $\min_Q \mathrm{err}(Q)$ over mixtures Q of models so that $|\mathrm E_Q[h\mid g,e] - \mathrm E_Q[h\mid e]| \le r/2$
    (r = `tolerance`) for each group g of `columns` (crossed; None is the first declared one) and event e: each label
    ("equalized_odds") or everybody ("demographic_parity"). It is a game: multipliers make a cost for each row, and the
    system's recipe, trained on relabelled and weighted rows, answers them. The game, and when it is over, are those of
    exponentiated gradient; the multipliers are those of the linear programme over the answers so far, drawn back to the
    best, which takes fewer trainings (Adult, logistic regression: 12 and 5, fairlearn 20 and 23). At most `num_refits`;
    groups with fewer than `min_num` rows of an event are left out of it. Groups are not read when it answers. Limits:
    the promise is for training rows, of answers drawn: each row's draw is fixed, so that asking again is idle. The
    most probable answer of the mixture would keep no promise (Adult, parity: 0.12 where draws give 0.01), so the model
    tells shares of votes: its probabilities are coarse, hardly calibrated, and offer no gradient. A network that learns
    its training rows by heart is fair only there. It costs as many trainings, for each reference model too.
    Raises TreatmentError unless the task is binary with two groups, without a plain recipe or an argmax, and after
    model-stage treatments.

    Source: Agarwal et al. 2018, "A Reductions Approach to Fair Classification", algorithm 1, sections 2 and 3;
    Ben-Ameur and Neto 2007 (multipliers drawn back).
    """
    names, wrong = _common.chosen_columns(system, columns)
    settings = ReductionSettings(tuple(names), constraint, float(tolerance), int(num_refits), int(min_num))
    problems = [
        *_common.trains_again(system),
        wrong,
        *_wrong_settings(system, settings),
    ]
    _common.refuse("exponentiated_gradient", system, problems)
    recipe, train = ReductionRecipe(_common.train_recipe(system), settings), system.data.splits["train"]
    _common.refuse("exponentiated_gradient", system, [_too_few_groups(recipe.base, train, settings)])
    fitted = recipe.fit(train, system.data, system.seed)
    parameters = {**asdict(settings), "columns": None if columns is None else list(columns)}
    outcome = {"columns": list(names), **fitted.facts["reduction"]}
    key = digest_of(["exponentiated_gradient", system.digest, system.seed])  # two systems share no lottery
    rule = Drawn(_common.known(system.task.positive_index), key)
    named = _common.grown(
        system, treatment="exponentiated_gradient", stage="train", parameters=parameters, outcome=outcome
    )
    return replace(named, model=fitted.model, recipe=recipe, facts=fitted.facts, decision=rule)


def _wrong_settings(system: System, settings: ReductionSettings) -> list[Problem | None]:
    is_binary = system.task.positive_index is not None
    what = f"its task is {system.task.name} with {len(system.task.classes)} classes"
    kinds = get_args(Constraint)
    return [
        _common.unless(is_binary, what, "classification with two classes, one of them positive"),
        _common.unless(isinstance(system.decision, Argmax), "its answers depend on thresholds", "argmax"),
        _common.unless(settings.constraint in kinds, f"constraint is {settings.constraint!r}", ", ".join(kinds)),
        _common.unless(0 <= settings.tolerance <= 1, f"tolerance is {settings.tolerance}", "0 to 1"),
        _common.unless(settings.num_refits >= 1, f"num_refits is {settings.num_refits}", "1 or more"),
        _common.unless(settings.min_num >= 1, f"min_num is {settings.min_num}", "1 or more"),
    ]


def _too_few_groups(base: TrainRecipe, train: Split, settings: ReductionSettings) -> Problem | None:
    labels = (train.labels == _common.known(base.task.positive_index)).astype(np.int64)
    needed = f"two groups with at least {settings.min_num} rows of a label"
    what = f"{', '.join(settings.columns)} make no two groups that are large enough"
    return _common.unless(
        len(constraints_for(train, settings, labels).matrix) > 0, what, needed, "Choose other columns"
    )
