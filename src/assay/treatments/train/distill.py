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
from assay.models import Architecture, build, describe, resolve
from assay.models.grams import NUM_SPECIAL
from assay.models.store import recipe_from_json, register_recipe
from assay.registry import treatment
from assay.train import Loss, TrainRecipe, default_recipe
from assay.treatments import _common
from assay.treatments.train._shares import match_shares
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
RESIDUAL = ("cnn_residual", "cnn_mirrored")  # whose student is of their own kind
SHARE = 0.1  # of the teacher's parameters
BAG = ("kind", "vocab_size", "max_length", "lowercase")  # what of a text is read by a student that is a bag
MOST_RUNS, WIDEST_RUN = 65_536, 8  # runs of tokens that such a student knows, and numbers that stand for one
# Times the teacher's epochs: a patient student gains (Beyer et al. 2022), and a small one costs little. On tables a
# teacher gained nothing, on pictures and texts this number was chosen on validation rows.
PASSES = {"table": 1, "image": 4, "text": 8}
# Whose shares of classes are matched: of texts it took out most of how the worst class differs between seeds, not the
# mean over eight seeds; of tables and pictures it changed nothing that could be measured.
MATCHED = ("text",)
FACT = "shares"  # where the facts of a student say whether its classes are answered as often as its teacher's


@dataclass(frozen=True)
class DistillRecipe:
    """Train the teacher, then the student on the teacher's answers to the same rows."""

    teacher: TrainRecipe
    student: Architecture
    temperature: float
    hard_share: float
    columns: tuple[str, ...] = ()
    balance: float = 0.0
    passes: int = 1  # the student's epochs for one of the teacher's
    matched: bool = False  # then its bias is shifted until it says each class as often as the teacher, on other rows

    @cached_property
    def digest(self) -> str:
        """Over both architectures, the settings, the temperature, and what else there is, where it is on."""
        cells = [self.columns, self.balance] if self.balance else []
        own = [self.teacher.digest, self.student, self.temperature, self.hard_share]
        rest = [f"passes {self.passes}"] if self.passes != 1 else []
        return digest_of(["DistillRecipe", *own, *cells, *rest, *(["matched"] if self.matched else [])])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        return {
            "name": "distill",
            "teacher": self.teacher.to_json(),
            "student": {"name": self.student.name, "params": plain(self.student.params)},
            "temperature": self.temperature,
            "hard_share": self.hard_share,
            "columns": list(self.columns),
            "balance": self.balance,
            "passes": self.passes,
            **({"matched": True} if self.matched else {}),
        }

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Both from scratch on `split`, so that a reference student has a reference teacher."""
        return self.fit_student(self.teacher.fit(split, data, seed).model, split, data=data, seed=seed)

    def fit_student(self, teacher: Model, split: Split, *, data: Data, seed: int) -> Fitted:
        """The student alone, on the answers of a teacher that exists."""
        settings = replace(self.teacher.settings, epochs=self.passes * self.teacher.settings.epochs)
        recipe = replace(self.teacher, architecture=self.student, settings=settings)
        logits = recipe.task.logits(teacher.outputs(split.inputs), teacher.outputs_are)
        loss = soft_loss(logits, split.labels, temperature=self.temperature, hard_share=self.hard_share)
        if self.balance:
            split = replace(split, weights=cell_weights(split, self.columns, self.balance))
        fitted = recipe.fit_by(loss, split, data, seed)
        return self._match(fitted, recipe, teacher, data) if self.matched else fitted

    def _match(self, fitted: Fitted, recipe: TrainRecipe, teacher: Model, data: Data) -> Fitted:
        """The student with its bias shifted, and in its facts what came of it."""
        split, module = data.splits.get("validation"), _common.module_of(fitted.model)
        if split is None or not len(split):
            return replace(fitted, facts={**fitted.facts, FACT: {"matched": "no: there is no validation split"}})
        logits = recipe.task.logits(teacher.outputs(split.inputs), teacher.outputs_are)
        student = recipe.wrap(_common.known(module), data.columns)
        told = match_shares(student, logits, split.inputs)
        return Fitted(recipe.wrap(student.module, data.columns), {**fitted.facts, FACT: told})


def _from_json(about: Mapping[str, Any], data: Data) -> Recipe:
    teacher = recipe_from_json(about["teacher"], data)
    if not isinstance(teacher, TrainRecipe):
        raise ModelError(Problem(f"the teacher's recipe is a {type(teacher).__name__}", "TrainRecipe"))
    student = Architecture(about["student"]["name"], dict(about["student"]["params"]))
    # Older folders lack the last four.
    cells = (tuple(about.get("columns", ())), float(about.get("balance", 0.0)))
    rest = (*cells, int(about.get("passes", 1)), bool(about.get("matched", False)))
    return DistillRecipe(teacher, student, float(about["temperature"]), float(about["hard_share"]), *rest)


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


def cell_weights(split: Split, columns: Sequence[str], balance: float) -> Array:
    r"""The split's weights times $(N / n_c)^b$ for each row's cell c of the columns and label: `(N,)` float32."""
    codes, _ = _common.cells(split.groups, columns)
    _, cells = np.unique(np.stack([codes, split.labels]), axis=1, return_inverse=True)
    cells = cells.reshape(-1)
    before = np.ones(len(split)) if split.weights is None else split.weights
    weights: Array = before * (len(split) / np.bincount(cells)[cells]) ** balance
    return np.asarray(weights / weights.mean(), dtype=np.float32)


@treatment("train", moves=("lower:model_bytes",))
def distill(
    system: System,
    *,
    hidden: Sequence[int] | None = None,
    temperature: float = 1.0,
    hard_share: float = 0.1,
    columns: Sequence[str] | None = None,
    balance: float = 0.0,
) -> System:
    r"""Train a small student on the system's own softened probabilities, and put it in its place.

    Minimises $(1-h)\,T^2\,\mathrm{CE}(\sigma(z_{teacher}/T), \sigma(z/T)) + h\,\mathrm{CE}(y, \sigma(z))$, h =
    `hard_share`, T = `temperature`, with the recipe's own settings. The student of tables is an MLP with hidden layers
    `hidden`, of pictures a LeNet with linear layers `hidden`, of texts a GRU whose embedding and state have width
    `hidden[0]`; a student of its own kind reads its inputs as the teacher does. With `hidden` None it is one layer as
    wide as a tenth of the teacher's parameters allow (K - 1 units at least, for K classes: of a small LeNet on
    Fashion-MNIST even one unit has more than a tenth, and then 0.22 were right where nine had 0.74, the teacher 0.80),
    of a residual network a narrower one, of texts a bag of words. The student of texts passes eight times as often
    over the rows as its teacher, of pictures four times.
    `balance` b weighs a row by $(N/n_c)^b$, c its cell of `columns` (crossed; None is the first declared one) and
    label: 0 is plain, 1 gives every cell the same. Without it, the bias of the last layer of a student of texts is
    shifted until it says each class as often, within a row, as its teacher does on the inputs of the validation split,
    which neither was trained on; labels are not read. The outcome says how far apart the shares were, or why it was not
    done (no validation split, no `head.bias`). The existing model teaches; reference students get teachers of their own
    half of the data. A module without a recipe teaches as well, by `default_recipe`'s settings: neither it nor its
    student can then be trained again, so what the seed moves is not known.
    Limits: without `balance` it is not controlled which groups lose, and with it the many pay for the few; the student
    has seen the training rows, and its teacher's memory of them; it is smaller only if its teacher is larger; a class
    that the teacher says too often it says too often.
    Raises TreatmentError for a recipe that is no plain one (a private one would lose its epsilon), without one unless
    the model is a module, for regression, and after model-stage treatments.

    Source: Hinton, Vinyals and Dean 2015, section 2; cells: Kamiran and Calders 2012 weigh them in training alike;
    patience: Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent".
    """
    names, wrong = _common.chosen_columns(system, columns) if balance or columns is not None else ((), None)
    problems = [wrong, *_wrong_options(system, hidden, (temperature, hard_share, balance))]
    _common.refuse("distill", system, problems)
    teacher = _taught_by(system)
    kind, known = system.data.modality, teacher.architecture
    student = widest_of(known, system) if hidden is None else student_of(known, kind, hidden)
    student = resolve(student, system.data.columns)
    rest = (tuple(names), float(balance), PASSES[kind], kind in MATCHED and not balance)  # cells are to move shares
    recipe = DistillRecipe(teacher, student, float(temperature), float(hard_share), *rest)
    fitted = recipe.fit_student(system.model, system.data.splits["train"], data=system.data, seed=system.seed)
    numbers = {"temperature": float(temperature), "hard_share": float(hard_share), "balance": float(balance)}
    asked = {name: None if one is None else list(one) for name, one in (("hidden", hidden), ("columns", columns))}
    outcome = _sizes(system.model, fitted.model) | fitted.facts.get(FACT, {})
    named = _common.grown(system, treatment="distill", stage="train", parameters=asked | numbers, outcome=outcome)
    return replace(named, model=fitted.model, recipe=recipe if system.recipe else None, facts=fitted.facts)


def _taught_by(system: System) -> TrainRecipe:
    """How the teacher was trained; where nothing says it, how a plain network on such data is."""
    if system.recipe is not None:
        return _common.train_recipe(system)
    plain = default_recipe(system.data)
    return replace(plain, architecture=Architecture("cnn_lenet")) if system.data.modality == "image" else plain


def _wrong_options(
    system: System, hidden: Sequence[int] | None, numbers: tuple[float, float, float]
) -> list[Problem | None]:
    temperature, hard_share, balance = numbers
    needed = [_common.needs_no_later_stage(system), _common.needs_split(system, "train")]
    teaches = system.recipe is None and _common.module_of(system.model) is not None
    return [
        *(needed if teaches else _common.trains_again(system)),
        _common.needs_classes(system),
        None if hidden is None else _wrong_hidden(system, hidden),
        _common.unless(0 < temperature < np.inf, f"temperature is {temperature}", "a positive number"),
        _common.unless(0 <= hard_share <= 1, f"hard_share is {hard_share}", "0 to 1"),
        _common.unless(0 <= balance <= 1, f"balance is {balance}", "0 to 1"),
    ]


def widest_of(teacher: Architecture, system: System) -> Architecture:
    """The widest student with at most a tenth of the teacher's parameters, but at least K - 1 units for K classes.

    Fewer hardly learn to tell the classes apart.
    """
    data = system.data

    def made(width: int) -> Architecture:
        if teacher.name in RESIDUAL:
            return Architecture(teacher.name, {**teacher.params, "width": width})
        return student_of(teacher, data.modality, (width,))

    def size(one: Architecture) -> int:
        module = build(one.name, columns=data.columns, num_outputs=system.task.num_outputs, params=one.params)
        return describe(module)["num_parameters"]

    own = _common.module_of(system.model) if system.recipe is None else None
    limit = (size(teacher) if own is None else describe(own)["num_parameters"]) * SHARE
    if data.modality == "text":
        return bag_of(resolve(teacher, data.columns), int(limit), system.task.num_outputs)
    low = 1 if teacher.name in RESIDUAL else max(1, system.task.num_outputs - 1)
    high = low + 1
    while size(made(high)) <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(made(middle)) <= limit else (low, middle)
    return made(low)


def bag_of(teacher: Architecture, limit: int, num_outputs: int) -> Architecture:
    """A bag of words (of runs of up to three characters, where those are read) with at most `limit` parameters.

    Nearly all parameters of a small text model are its table: a bag spends them all on it, and every word of the
    teacher's is in it as soon as K numbers a word are allowed, for K classes.

    >>> bag_of(Architecture("gru", {"vocab_size": 500}), 2000, 2).params
    {'vocab_size': 500, 'longest': 1, 'num_grams': 495, 'dim': 4}
    """
    read = {name: teacher.params[name] for name in BAG if name in teacher.params}
    longest = 3 if read.get("kind") == "char" else 1
    most = min(MOST_RUNS, read.get("vocab_size", MOST_RUNS)) if longest == 1 else MOST_RUNS
    dim = min(max(limit // most, min(num_outputs, WIDEST_RUN)), WIDEST_RUN)
    num = (limit - (dim + 1) * num_outputs) // dim - NUM_SPECIAL
    return Architecture("ngrams", {**read, "longest": longest, "num_grams": max(1, min(num, most)), "dim": dim})


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


def _sizes(before: Model, after: Model) -> dict[str, Any]:
    sizes: dict[str, Any] = {"bytes_before": before.num_bytes, "bytes_after": after.num_bytes}
    modules = [_common.module_of(before), _common.module_of(after)]
    counts = [None if module is None else describe(module)["num_parameters"] for module in modules]
    if counts[0] is None or counts[1] is None:
        return sizes
    return {
        **sizes,
        "parameters_before": counts[0],
        "parameters_after": counts[1],
        "parameter_ratio": counts[1] / counts[0],
    }
