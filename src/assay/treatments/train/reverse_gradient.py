"""Training against an adversary that tries to read the group off the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as replaced
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import Problem
from assay.registry import treatment
from assay.train import TrainRecipe, task_loss
from assay.train.streams import stream_seed
from assay.treatments import _common
from assay.treatments.train import _around
from assay.values import Array, Data, Fitted, Split, System, digest_of

Given = Literal["nothing", "label"]
WIDTH = 32  # of the adversary's one hidden layer
RATE, STEPS = 1e-2, 2  # of the adversary: its learning rate, and steps for each of the model's
STREAMS = 2  # version of how draws are seeded: in the digest, for other draws train other weights
SCALE = 4.0  # log-odds are shown to it as tanh(z / SCALE): a model cannot shout it down


@dataclass(frozen=True)
class ReversalSettings:
    """Which groups shall not be told by the answer, given what, and how much that counts."""

    columns: tuple[str, ...]
    given: Given = "nothing"
    strength: float = 1.0
    warmup: float = 0.3


@dataclass(frozen=True)
class ReversalRecipe:
    """The base recipe, its loss less what an adversary loses; the adversary is not kept."""

    base: TrainRecipe
    settings: ReversalSettings

    @cached_property
    def digest(self) -> str:
        """Over the base recipe and every setting."""
        return digest_of(["ReversalRecipe", STREAMS, self.base.digest, self.settings])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        return _around.to_json("reverse_gradient", self.base, self.settings)

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split`."""
        loss = ReversedLoss(split, self.base, self.settings, seed)
        fitted = self.base.fit_by(loss, split, data, seed)
        return replaced(fitted, facts={**fitted.facts, "adversary": loss.told()})


_around.register("reverse_gradient", ReversalRecipe, ReversalSettings)


class ReversedLoss:
    r"""$\ell_i - \alpha_t\,[\bar a < H]\,a_i$: $a_i$ is the adversary's cross-entropy on the group of row i.

    The adversary takes STEPS of its own on each batch that trains, before it is asked. $H$ is the entropy of the
    groups (given the label, where it sees the label): an adversary that knows no more than that has nothing left to
    take, and without the gate a model would gain by misleading it without end. $\alpha_t$ rises evenly to `strength`.
    """

    def __init__(self, split: Split, recipe: TrainRecipe, settings: ReversalSettings, seed: int) -> None:
        self.plain = task_loss(split, recipe.task, label_smoothing=recipe.settings.label_smoothing)
        self.strength, self.sees_label = settings.strength, settings.given == "label"
        codes, num_groups = known_codes(split, settings.columns)
        self.codes, self.num_labels = torch.from_numpy(codes), recipe.task.num_outputs
        self.labels = torch.from_numpy(np.asarray(split.labels, dtype=np.int64))
        self.entropy = _entropy(codes, split.labels if self.sees_label else np.zeros_like(codes))
        whole = recipe.settings.epochs * math.ceil(len(split) / recipe.settings.batch_size)
        self.rising, self.step = max(1.0, settings.warmup * (recipe.settings.max_steps or whole)), 0
        self.recent: list[float] = []
        width = 2 * self.num_labels * (self.num_labels if self.sees_label else 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "adversary"))  # from `seed` itself come the first weights of the model
            self.adversary = nn.Sequential(nn.Linear(width, WIDTH), nn.ReLU(), nn.Linear(WIDTH, num_groups))
        self.optimizer = torch.optim.Adam(self.adversary.parameters(), lr=RATE)

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Losses `(n,)` of the model; with gradients on, a turn of the adversary first."""
        losses = self.plain(outputs, rows)
        known = self.codes[rows] >= 0
        if not torch.is_grad_enabled() or not bool(known.any()):
            return losses
        self.step += 1
        truth = self.codes[rows][known]
        shown = self.shown(outputs.detach(), rows)[known]
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            functional.cross_entropy(self.adversary(shown), truth).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        guesses = _frozen(self.adversary, self.shown(outputs, rows)[known])
        told = functional.cross_entropy(guesses, truth, reduction="none")
        mean = float(told.detach().mean())
        self.recent = [*self.recent[-99:], mean]
        alpha = self.strength * min(1.0, self.step / self.rising) * (mean < self.entropy)
        return losses.index_add(0, torch.nonzero(known)[:, 0], told, alpha=-alpha)

    def shown(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """What the adversary sees `(n, D)`: probabilities and bounded log-odds, in the places of the row's label."""
        centred = outputs - outputs.mean(dim=1, keepdim=True)
        seen = torch.cat([torch.softmax(outputs, dim=1), torch.tanh(centred / SCALE)], dim=1)
        if not self.sees_label:
            return seen
        given = functional.one_hot(self.labels[rows], self.num_labels)
        return (given[:, :, None] * seen[:, None, :]).flatten(1)

    def told(self) -> dict[str, float]:
        """What the adversary lost at the end, and what one that knows nothing loses: nats, mean of 100 batches."""
        mean = float(np.mean(self.recent)) if self.recent else self.entropy
        return {"loss": mean, "loss_without_the_answer": self.entropy}


def _frozen(adversary: nn.Sequential, shown: Tensor) -> Tensor:
    """The adversary's answer; its own weights get no gradient from it."""
    weights = {name: parameter.detach() for name, parameter in adversary.named_parameters()}
    answer: Tensor = torch.func.functional_call(adversary, weights, (shown,))
    return answer


def _entropy(codes: Array, labels: Array) -> float:
    """Of the group given the label, in nats, over rows with a group."""
    kept = codes >= 0
    table = np.zeros((int(labels.max()) + 1, int(codes.max()) + 1))
    np.add.at(table, (labels[kept], codes[kept]), 1.0)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    return float(-(table * np.log(np.where(shares > 0, shares, 1))).sum() / max(int(kept.sum()), 1))


def known_codes(split: Split, columns: Sequence[str]) -> tuple[Array, int]:
    """Group of each row `(N,)` int64, -1 where a column is missing, and how many groups there are."""
    codes, found = _common.cells(split.groups, columns)
    kept = [code for code, cell in enumerate(found) if "" not in cell]
    places = np.full(len(found), -1, dtype=np.int64)
    places[kept] = np.arange(len(kept))
    return places[codes], len(kept)


@treatment("train", moves=("lower:demographic_parity_difference",), trainings=3)
def reverse_gradient(
    system: System,
    *,
    columns: Sequence[str] | None = None,
    given: Given = "nothing",
    strength: float = 1.0,
    warmup: float = 0.3,
) -> System:
    r"""Train again so that an adversary cannot read the group: $\min_w \max_v \sum_i \ell_i - \alpha_t a_i$.

    The adversary v, a small network, sees the model's probabilities and log-odds, and with `given` = "label" the true
    label too; it learns beside the model, whose loss falls as the adversary's $a_i$ rises: the adversary's gradient
    reversed. "nothing" asks for answers independent of the group (equal selection), "label" for answers independent of
    it among those of a label (equal error rates). Groups are the crossed `columns` (None is the first declared one);
    people without a group are not asked about. $\alpha_t$ rises to `strength` over the first `warmup` share of the
    steps, and is 0 while the adversary does no better than the groups' shares, so that the model is not paid for
    shouting it down. The adversary is not kept; groups are not read when it answers; of the model only outputs are.
    Limits: no promise: what this adversary cannot read another may, and on other rows; strengths do not carry over
    between data sets, so try several; more is not always fairer (Adult, given the label: gap of odds 0.059 before,
    0.038 at 1, 0.079 at 3); calibration suffers; where labels and groups go together, accuracy pays.
    Raises TreatmentError without a plain recipe, classes or groups, and after model-stage treatments.

    Source: Zhang, Lemoine and Mitchell 2018, "Mitigating Unwanted Biases with Adversarial Learning", section 3; Ganin
    et al. 2016, section 4 (reversal, rising strength).
    """
    names, wrong = _common.chosen_columns(system, columns)
    settings = ReversalSettings(tuple(names), given, float(strength), float(warmup))
    kinds = get_args(Given)
    problems = [
        *_common.trains_again(system),
        _common.needs_classes(system),
        wrong,
        _common.unless(given in kinds, f"given is {given!r}", ", ".join(kinds)),
        _common.unless(0 < strength < np.inf, f"strength is {strength}", "a positive number"),
        _common.unless(0 <= warmup <= 1, f"warmup is {warmup}", "0 to 1"),
    ]
    _common.refuse("reverse_gradient", system, problems)
    _common.refuse("reverse_gradient", system, [_one_group(system.data.splits["train"], names)])
    recipe = ReversalRecipe(_common.train_recipe(system), settings)
    fitted = recipe.fit(system.data.splits["train"], system.data, system.seed)
    parameters = {**asdict(settings), "columns": None if columns is None else list(columns)}
    outcome = {"columns": list(names), **fitted.facts["adversary"]}
    named = _common.grown(system, treatment="reverse_gradient", stage="train", parameters=parameters, outcome=outcome)
    return replaced(named, model=fitted.model, recipe=recipe, facts=fitted.facts)


def _one_group(train: Split, names: Sequence[str]) -> Problem | None:
    num = known_codes(train, names)[1]
    return _common.unless(num >= 2, f"{', '.join(names)} have {num} group(s) in the training rows", "two or more")
