"""A network of one's own with a way to train it again, so that treatments of every stage and reference models apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from assay.errors import ModelError, Problem
from assay.models import BUILDERS, Architecture, architecture, build
from assay.models.adapters.module import ModuleModel
from assay.models.own import like
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.train.system import default_recipe
from assay.values import System

NUM_ROWS = 64  # of training, on which the module that is built must answer as the one that is there
CLOSE = 1e-4  # of the largest answer: another layout in memory may move the last digits


def with_recipe(
    system: System, name: str, *, params: Mapping[str, Any] | None = None, settings: TrainSettings | None = None
) -> System:
    """The same module, of the architecture `name`, and a recipe that trains such modules anew by `settings`.

    What `@assay.models.architecture(name)` was put on builds it, with `params`, and must come to this module's tensors
    and, with its weights, its answers. Where nothing has that name yet, it is registered for copies of the module whose
    layers draw their weights anew (`assay.models.own.like`). Settings are `default_recipe(data)`'s unless given.
    Limits: reference models and whatever is trained again are trained by these settings, not as the module was: give
    its own. A module that is fitted in other ways than by `assay.train.fit` needs a recipe of its own.
    Raises ModelError for a model that is no module or was treated, answers that are no logits (or values), and an
    architecture that builds another network.

    >>> from assay.data import load_adult
    >>> from assay.models import RESOLVERS
    >>> from assay.story import system_of
    >>> net = nn.Sequential(nn.BatchNorm1d(13), nn.Linear(13, 2))
    >>> with_recipe(system_of(ModuleModel(net), load_adult()), "scaled and linear").recipe.architecture.name
    'scaled and linear'
    >>> del BUILDERS["scaled and linear"], RESOLVERS["scaled and linear"]  # for this example only
    """
    model = system.model
    wrong = _wrong(system)
    if wrong or not isinstance(model, ModuleModel):
        raise ModelError(wrong)
    if name not in BUILDERS:
        architecture(name)(like(model.module))
    if params is None and model.architecture is not None and model.architecture.name == name:
        params = model.architecture.params
    settings = settings or default_recipe(system.data).settings
    recipe = TrainRecipe(Architecture(name, dict(params or {})), system.task, settings).resolved(system.data.columns)
    known = build(
        name, columns=system.data.columns, num_outputs=system.task.num_outputs, params=recipe.architecture.params
    )
    _require_same(system, model, known, name)
    named = ModuleModel(
        model.module,
        outputs_are=model.outputs_are,
        architecture=recipe.architecture,
        differentiable="gradient" in model.offers,
        batch_size=model.batch_size,
    )
    return replace(system, model=named, recipe=recipe)


def _wrong(system: System) -> list[Problem]:
    model, head = system.model, f"{system.name} cannot be given a recipe: "
    if not isinstance(model, ModuleModel):
        return [Problem(f"{head}its model is a {type(model).__name__}", "a torch module (ModuleModel)")]
    found, expected = [], "values" if system.task.name == "regression" else "logits"
    if system.recipe is not None:
        found.append(Problem(f"{head}it has one", "a system without a recipe"))
    if system.lineage:
        steps = ", ".join(step.treatment for step in system.lineage)
        found.append(Problem(f"{head}it was treated ({steps})", "a system as it was made", "Give it before treating"))
    if model.outputs_are != expected:
        what = f"{head}its module answers with {model.outputs_are}"
        found.append(Problem(what, expected, "Training takes what comes before a last softmax"))
    return found


def _require_same(system: System, model: ModuleModel, known: nn.Module, name: str) -> None:
    """Raise ModelError when the architecture builds another network than the one that is there."""
    advice = "Register a function that builds this network, or give its parameters: with_recipe(..., params=...)"
    what = f"architecture {name!r} builds another network than {type(model.module).__name__} of {system.name}: "
    try:
        known.load_state_dict(model.module.state_dict())
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(Problem(what + text, "the same names and shapes of weights", advice)) from error
    rows = system.data.splits["train"].inputs[:NUM_ROWS]
    ours, theirs = (one.outputs(rows) for one in (model, ModuleModel(known.eval(), outputs_are=model.outputs_are)))
    close = CLOSE * max(1.0, float(np.abs(np.nan_to_num(ours)).max(initial=0.0)))
    if not np.allclose(ours, theirs, rtol=0, atol=close, equal_nan=True):
        raise ModelError(Problem(what + "with the same weights it answers differently", "the same answers", advice))
