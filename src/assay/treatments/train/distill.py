"""A smaller student trained on a teacher's softened answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.models import Architecture, describe, resolve
from assay.models.store import recipe_from_json, register_recipe
from assay.registry import treatment
from assay.train import Hooks, Loss, TrainRecipe, fit
from assay.treatments import _common
from assay.values import Array, Data, Fitted, Modality, Model, Recipe, Split, System, digest_of, plain

READING = (
    "kind",
    "vocab_size",
    "max_length",
    "lowercase",
    "num_grams",
    "longest",
    "body_length",
)  # what of a text is read


@dataclass(frozen=True)
class DistillRecipe:
    """Train the teacher, then the student on the teacher's answers to the same rows."""

    teacher: TrainRecipe
    student: Architecture
    temperature: float
    hard_share: float

    @cached_property
    def digest(self) -> str:
        """Over both architectures, the settings and the temperature."""
        return digest_of(["DistillRecipe", self.teacher.digest, self.student, self.temperature, self.hard_share])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        return {
            "name": "distill",
            "teacher": self.teacher.to_json(),
            "student": {"name": self.student.name, "params": plain(self.student.params)},
            "temperature": self.temperature,
            "hard_share": self.hard_share,
        }

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Both from scratch on `split`, so that a reference student has a reference teacher."""
        return self.fit_student(self.teacher.fit(split, data, seed).model, split, data=data, seed=seed)

    def fit_student(self, teacher: Model, split: Split, *, data: Data, seed: int) -> Fitted:
        """The student alone, on the answers of a teacher that exists."""
        recipe = replace(self.teacher, architecture=self.student)
        module = recipe.make_module(split, data, seed)
        logits = recipe.task.logits(teacher.outputs(split.inputs), teacher.outputs_are)
        loss = soft_loss(logits, split.labels, temperature=self.temperature, hard_share=self.hard_share)
        hooks = Hooks(
            progress=recipe.progress,
            validation=data.splits.get("validation") if recipe.settings.patience else None,
            loss=loss,
        )
        facts = fit(module, split, task=recipe.task, settings=recipe.settings, seed=seed, hooks=hooks)
        return Fitted(recipe.wrap(module, data.columns), facts)


def _from_json(about: Mapping[str, Any], data: Data) -> Recipe:
    teacher = recipe_from_json(about["teacher"], data)
    if not isinstance(teacher, TrainRecipe):
        raise ModelError(Problem(f"the teacher's recipe is a {type(teacher).__name__}", "TrainRecipe"))
    student = Architecture(about["student"]["name"], dict(about["student"]["params"]))
    return DistillRecipe(teacher, student, float(about["temperature"]), float(about["hard_share"]))


register_recipe("distill", _from_json)


def soft_loss(teacher_logits: Array, labels: Array, *, temperature: float, hard_share: float) -> Loss:
    r"""$(1-h)\,T^2\,\mathrm{CE}(\sigma(z_{teacher}/T), \sigma(z/T)) + h\,\mathrm{CE}(y, \sigma(z))$ per row.

    The factor $T^2$ keeps the size of the gradient when T changes (Hinton et al. 2015, section 2).
    """
    # A row the teacher cannot answer teaches nothing but its label.
    answered = torch.from_numpy(np.isfinite(teacher_logits).all(axis=1))
    targets = torch.softmax(torch.from_numpy(np.nan_to_num(teacher_logits)) / temperature, dim=1)
    truth = torch.from_numpy(np.asarray(labels, dtype=np.int64))

    def loss(outputs: Tensor, rows: Tensor) -> Tensor:
        soft = functional.cross_entropy(outputs / temperature, targets[rows], reduction="none") * temperature**2
        hard = functional.cross_entropy(outputs, truth[rows], reduction="none")
        share = torch.where(answered[rows], hard_share, 1.0)
        return (1 - share) * soft + share * hard

    return loss


@treatment("train", moves=("lower:model_bytes",))
def distill(
    system: System, *, hidden: Sequence[int] = (16,), temperature: float = 2.0, hard_share: float = 0.1
) -> System:
    r"""Train a small student on the system's own softened probabilities, and put it in its place.

    Minimises $(1-h)\,T^2\,\mathrm{CE}(\sigma(z_{teacher}/T), \sigma(z/T)) + h\,\mathrm{CE}(y, \sigma(z))$, h =
    `hard_share`, T = `temperature`, with the recipe's own settings. The student of tables is an MLP with hidden layers
    `hidden`, of pictures a LeNet with linear layers `hidden`, of texts a GRU whose embedding and state have width
    `hidden[0]`; a student of its own kind reads its inputs as the teacher does. The existing model teaches; reference
    students get teachers trained on their own half of the data.
    Limits: which classes and groups lose is not controlled; the student has seen the training rows, and its
    teacher's memory of them; it is smaller only if the teacher is not smaller still. Raises TreatmentError without a
    plain training recipe (a private one would lose its epsilon), for regression, and after model-stage treatments.

    Source: Hinton, Vinyals and Dean 2015, section 2.
    """
    problems = [
        _common.needs_recipe(system),
        _common.needs_train_recipe(system),
        _common.needs_no_later_stage(system),
        _common.needs_split(system, "train"),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        _wrong_hidden(system, hidden),
        _common.unless(0 < temperature < np.inf, f"temperature is {temperature}", "a positive number"),
        _common.unless(0 <= hard_share <= 1, f"hard_share is {hard_share}", "0 to 1"),
    ]
    _common.refuse("distill", system, problems)
    teacher = _common.train_recipe(system)
    student = resolve(student_of(teacher.architecture, system.data.modality, hidden), system.data.columns)
    recipe = DistillRecipe(teacher, student, float(temperature), float(hard_share))
    fitted = recipe.fit_student(system.model, system.data.splits["train"], data=system.data, seed=system.seed)
    named = _common.grown(
        system,
        treatment="distill",
        stage="train",
        parameters={"hidden": list(hidden), "temperature": float(temperature), "hard_share": float(hard_share)},
        outcome={
            "bytes_before": system.model.num_bytes,
            "bytes_after": fitted.model.num_bytes,
            **_parameter_counts(system.model, fitted.model),
        },
    )
    return replace(named, model=fitted.model, recipe=recipe, facts=fitted.facts)


def student_of(teacher: Architecture, kind: Modality, hidden: Sequence[int]) -> Architecture:
    """The student's architecture: small, and reading its inputs as a teacher of the same kind does.

    >>> student_of(Architecture("lstm", {"vocab_size": 500, "num_hidden": 64}), "text", (8,)).params
    {'vocab_size': 500, 'dim': 8, 'num_hidden': 8}
    """
    if kind == "image":
        return Architecture("cnn_lenet", {"hidden": list(hidden)})
    if kind == "text":
        read = {name: teacher.params[name] for name in READING if name in teacher.params}
        return Architecture("gru", {**read, "dim": hidden[0], "num_hidden": hidden[0]})
    return Architecture("mlp", {**(teacher.params if teacher.name == "mlp" else {}), "hidden": list(hidden)})


def _wrong_hidden(system: System, hidden: Sequence[int]) -> Problem | None:
    if not all(width >= 1 for width in hidden):
        return Problem(f"hidden layers are {list(hidden)}", "widths from 1")
    if system.data.modality == "text" and len(hidden) != 1:
        return Problem(f"hidden is {list(hidden)}", "one width, for the student of texts is a GRU")
    return None


def _parameter_counts(before: Model, after: Model) -> dict[str, float]:
    modules = [_common.module_of(before), _common.module_of(after)]
    counts = [None if module is None else describe(module)["num_parameters"] for module in modules]
    if counts[0] is None or counts[1] is None:
        return {}
    return {
        "parameters_before": counts[0],
        "parameters_after": counts[1],
        "parameter_ratio": counts[1] / counts[0],
    }
