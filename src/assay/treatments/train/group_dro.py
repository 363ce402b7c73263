"""Training for the group that is worst off at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.models.store import base_from_json, register_recipe
from assay.registry import treatment
from assay.train import TrainRecipe, task_loss
from assay.treatments import _common
from assay.values import Array, Data, Fitted, Recipe, Split, System, digest_of


@dataclass(frozen=True)
class GroupDroRecipe:
    """The base recipe, its loss weighted towards the groups that lose most; `columns` are crossed with the label."""

    base: TrainRecipe
    columns: tuple[str, ...]
    step_size: float

    @cached_property
    def digest(self) -> str:
        """Over the base recipe, the columns and the step size."""
        return digest_of(["GroupDroRecipe", self.base.digest, self.columns, self.step_size])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        own = {"columns": list(self.columns), "step_size": self.step_size}
        return {"name": "group_dro", "base": self.base.to_json(), **own}

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split`."""
        loss = GroupLoss(split, self.base, codes=cells_of(split, self.columns), step_size=self.step_size)
        fitted = self.base.fit_by(loss, split, data, seed)
        return replace(fitted, facts={**fitted.facts, "final_group_weights": loss.weights.tolist()})


def _from_json(about: Mapping[str, Any], data: Data) -> Recipe:
    return GroupDroRecipe(base_from_json(about, data), tuple(about["columns"]), float(about["step_size"]))


register_recipe("group_dro", _from_json)


def cells_of(split: Split, columns: Sequence[str]) -> Array:
    """Cell of each row `(N,)`: its category in every column and its label; a missing category is one of its own."""
    codes, _ = _common.cells(split.groups, columns)
    _, cells = np.unique(np.stack([codes, split.labels]), axis=1, return_inverse=True)
    found: Array = cells.reshape(-1)
    return found


class GroupLoss:
    r"""$\sum_g q_g \bar\ell_g$ with $q_g \propto q_g e^{\eta \bar\ell_g}$ updated at every step that trains.

    Losses `(n,)` are scaled so that their mean is that sum; groups that a batch lacks keep their weight and add
    nothing to it.
    """

    def __init__(self, split: Split, recipe: TrainRecipe, *, codes: Array, step_size: float) -> None:
        self.plain = task_loss(split, recipe.task, label_smoothing=recipe.settings.label_smoothing)
        self.codes, self.step_size = torch.from_numpy(np.asarray(codes, dtype=np.int64)), step_size
        num = int(self.codes.max()) + 1
        self.weights = torch.full((num,), 1 / num)

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Weighted losses `(n,)`."""
        losses = self.plain(outputs, rows)
        codes = self.codes[rows]
        counts = torch.bincount(codes, minlength=len(self.weights))
        if torch.is_grad_enabled():
            with torch.no_grad():
                sums = torch.zeros_like(self.weights).index_add_(0, codes, losses.detach().float())
                means = sums / counts.clamp_min(1)
                moved = self.weights * torch.exp(self.step_size * means * (counts > 0))
                self.weights = moved / moved.sum()
        share = self.weights * len(rows) / counts.clamp_min(1)
        return losses * share[codes]


@treatment("train", moves=("higher:worst_cell_accuracy", "higher:balanced_accuracy"))
def group_dro(
    system: System,
    *,
    columns: Sequence[str] | None = None,
    step_size: float = 0.01,
    weight_decay: float = 0.1,
) -> System:
    r"""Train again on $\min_w \max_{q} \sum_g q_g \bar\ell_g(w)$: groups with a larger loss get a larger weight.

    Groups are the cells of `columns` (None is the first declared one) and the label. `step_size` is that of the
    exponentiated gradient on q; `weight_decay` replaces the recipe's, because without strong regularisation a large
    network fits every group of the training rows and q no longer matters. Limits: it is the training loss of the worst
    cell that falls; few rows of a cell are learnt by heart; accuracy of the others usually falls, and with it that of a
    whole group: on Adult worst_cell_accuracy of sex went from 0.605 to 0.798, and worst_group_accuracy, over all rows
    of a sex, from 0.838 to 0.807.
    Raises TreatmentError without a plain recipe, classes or groups, and after model-stage treatments.

    Source: Sagawa et al. 2020, "Distributionally Robust Neural Networks for Group Shifts", algorithm 1, section 3.
    """
    names, wrong = _common.chosen_columns(system, columns)
    problems = [
        *_common.trains_again(system),
        _common.needs_classes(system),
        wrong,
        _common.unless(0 < step_size < np.inf, f"step_size is {step_size}", "a positive number"),
        _common.unless(0 <= weight_decay < np.inf, f"weight_decay is {weight_decay}", "0 or more"),
    ]
    _common.refuse("group_dro", system, problems)
    base = _common.train_recipe(system)
    base = replace(base, settings=replace(base.settings, weight_decay=float(weight_decay)))
    recipe = GroupDroRecipe(base, tuple(names), float(step_size))
    fitted = recipe.fit(system.data.splits["train"], system.data, system.seed)
    asked = None if columns is None else list(columns)
    parameters = {"columns": asked, "step_size": float(step_size), "weight_decay": float(weight_decay)}
    outcome = {"columns": list(names), "final_group_weights": fitted.facts["final_group_weights"]}
    named = _common.grown(system, treatment="group_dro", stage="train", parameters=parameters, outcome=outcome)
    return replace(named, model=fitted.model, recipe=recipe, facts=fitted.facts)
