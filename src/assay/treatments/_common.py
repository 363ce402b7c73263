"""What every treatment does alike: refuse before any work, and add one link to the lineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from assay import registry
from assay.errors import Problem, TreatmentError
from assay.models import Architecture, tensors
from assay.models.adapters.module import ModuleModel, evaluation
from assay.models.own import architecture_of, chain_of, missing_in
from assay.train import TrainRecipe
from assay.values import Array, Groups, Model, Split, Step, System

T = TypeVar("T")
Problems = Iterable[Problem | None]


def refuse(treatment: str, system: System, problems: Problems) -> None:
    """Raise TreatmentError with all problems that are not None, and for a task that it is not for; else say nothing."""
    entry = registry.TREATMENTS.get(treatment)
    tasks = registry.ONE_LABEL if entry is None else entry.tasks
    misfit = unless(system.task.name in tasks, f"its task is {system.task.name}", " or ".join(tasks))
    found = [problem for problem in (misfit, *problems) if problem is not None]
    if found:
        head = f"{treatment} does not fit {system.name}: "
        raise TreatmentError([Problem(head + problem.what, problem.allowed, problem.next) for problem in found])


def known(value: T | None) -> T:
    """A value that `refuse` has made sure of; TreatmentError if that was forgotten."""
    if value is None:
        raise TreatmentError(Problem("a treatment went on without something it needs"))
    return value


def unless(fine: bool, what: str, allowed: str = "", following: str = "") -> Problem | None:
    """A problem, unless all is fine."""
    return None if fine else Problem(what, allowed, following)


def needs_recipe(system: System) -> Problem | None:
    """Retraining treatments need the way the system was trained."""
    following = "Train it with assay.train.train_system, or use a model-stage treatment"
    if isinstance(system.model, ModuleModel):
        following = f"Register how its module is built and trained, by this line: {registering(system)}"
    return unless(system.recipe is not None, "it has no recipe, so it cannot be trained again", following=following)


def needs_train_recipe(system: System) -> Problem | None:
    """Treatments with their own loop need to build the module themselves."""
    if system.recipe is None or isinstance(system.recipe, TrainRecipe):
        return None
    return Problem(
        f"its recipe is a {type(system.recipe).__name__}",
        "TrainRecipe, which says how to build the module",
        "Apply this treatment before the other one that changes how training is done",
    )


def needs_no_later_stage(system: System) -> Problem | None:
    """Training again would silently undo what model- and serve-stage treatments did to the weights or answers."""
    later = [step.treatment for step in system.lineage if step.stage in ("model", "serve")]
    following = "Apply the treatments of the data and train stage first"
    return unless(not later, f"training again would undo {', '.join(later)}", following=following)


def trains_again(system: System) -> list[Problem | None]:
    """What every treatment needs that trains by another loss or another recipe around the plain one."""
    return [
        needs_recipe(system),
        needs_train_recipe(system),
        needs_no_later_stage(system),
        needs_split(system, "train"),
    ]


def calibrates(system: System, calibration_num: int) -> list[Problem | None]:
    """What every treatment needs that changes weights by what validation rows do in the model."""
    return [
        needs_module(system),
        needs_split(system, "validation"),
        unless(calibration_num >= 1, f"calibration_num is {calibration_num}", "1 or more"),
    ]


def needs_classes(system: System) -> Problem | None:
    """One of several classes is the answer."""
    return unless(bool(system.task.classes), f"its task is {system.task.name}", "classification")


def needs_module(system: System) -> Problem | None:
    """Treatments that change weights, or wrap a module, need one."""
    model = system.model
    if not isinstance(model, ModuleModel):
        return Problem(
            f"its model is a {type(model).__name__}, whose weights cannot be reached",
            "a torch module (ModuleModel)",
            "Treat the model where it was made, and audit the result",
        )
    return None


def needs_split(system: System, name: str) -> Problem | None:
    """A split with at least one row."""
    split = system.data.splits.get(name)
    return unless(
        split is not None and len(split) > 0, f"its data has no {name} split", following="Split off some rows"
    )


def chosen_columns(system: System, columns: Sequence[str] | None) -> tuple[tuple[str, ...], Problem | None]:
    """The group columns asked for, by default the first one declared; and what is wrong with them."""
    declared = [column.name for column in system.data.group_columns]
    names = tuple(declared[:1] if columns is None else columns)
    if not declared:
        return (), Problem("its data declares no group columns", next="Declare them when loading the data")
    unknown = [name for name in names if name not in declared]
    if unknown or not names or len(set(names)) < len(names):
        return names, Problem(f"group columns {list(names)}", "each once, of " + ", ".join(declared))
    return names, None


def cells(groups: Groups, names: Sequence[str]) -> tuple[Array, list[tuple[str, ...]]]:
    """Every row's cell of the crossed columns: codes `(N,)` into the list of category names ("" = missing)."""
    at = [[column.name for column in groups.columns].index(name) for name in names]
    present, codes = np.unique(np.asarray(groups.codes)[:, at], axis=0, return_inverse=True)
    categories = [(*groups.columns[column].categories, "") for column in at]
    found = [tuple(categories[j][int(code)] for j, code in enumerate(row)) for row in present]
    return codes.reshape(-1), found


def grown(
    system: System, *, treatment: str, stage: str, parameters: Mapping[str, Any], outcome: Mapping[str, Any]
) -> System:
    """The system with one more step of lineage and a longer name; the caller replaces what the treatment changed.

    The outcome is part of the digest, so it holds only what the same seed gives again: no clock, no path.
    """
    step = Step(treatment, stage, dict(parameters), system.digest, dict(outcome))
    return replace(system, name=f"{system.name}+{treatment}", lineage=(*system.lineage, step))


def told_of_rows(facts: Mapping[str, Any], lineage: Iterable[Step]) -> dict[str, Any]:
    """Facts of private training that also say what earlier changes of rows do to its epsilon; others as they are."""
    names = ", ".join(dict.fromkeys(step.treatment for step in lineage if step.stage == "data"))
    if "not_covered" not in facts or not names:
        return dict(facts)
    what = f"what {names} copied, or took from other rows, before the training: one row, or client, is in several"
    return {**facts, "not_covered": [*facts["not_covered"], what]}


def needs_architecture(system: System) -> Problem | None:
    """A module of a registered architecture, for treatments that change nothing but how it is stored."""
    model = system.model
    missing = missing_in(architecture_of(model)) if isinstance(model, ModuleModel) else None
    if missing is None:
        return None
    what = f"{missing} has no registered architecture, so it cannot be stored, and this changes only how it is"
    return Problem(what, "a registered one", f"Register how its module is built, by this line: {registering(system)}")


def registering(system: System) -> str:
    """The line of code that registers the architecture of a system's module, and says how it is trained."""
    own = chain_of(architecture_within(system))[-1]
    name = str(own.params.get("class", own.name)).rpartition(".")[2]
    return f"from assay.train import with_recipe; system = with_recipe(system, {name!r})"


def architecture_within(system: System) -> Architecture:
    """What an architecture around the system's module names as the one within; its class where none is registered."""
    return architecture_of(module_model(system))


def module_model(system: System) -> ModuleModel:
    """The model as what `needs_module` has made sure of."""
    return known(system.model if isinstance(system.model, ModuleModel) else None)


def spread_rows(split: Split, num: int) -> Array:
    """Inputs of up to `num` rows at even distances: the same for every system on the same data."""
    rows: Array = split.inputs[spread_places(len(split), num)]
    return rows


def spread_places(num_rows: int, num: int) -> Array:
    """Positions of up to `num` of `num_rows` rows at even distances."""
    return np.linspace(0, num_rows - 1, min(num, num_rows)).round().astype(np.int64)


def pass_over(module: nn.Module, rows: Array, handles: Iterable[RemovableHandle], *, batch_size: int) -> None:
    """Show `module` every row, in evaluation and without gradients, for hooks that watch it; then take them off."""
    try:
        with evaluation(module), torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                module(tensors(module, rows[start : start + batch_size]))
    finally:
        for handle in handles:
            handle.remove()


def module_of(model: Model) -> nn.Module | None:
    """The torch module inside a model, if there is one."""
    return model.module if isinstance(model, ModuleModel) else None


def train_recipe(system: System) -> TrainRecipe:
    """The recipe as what `needs_train_recipe` has made sure of."""
    return known(system.recipe if isinstance(system.recipe, TrainRecipe) else None)
