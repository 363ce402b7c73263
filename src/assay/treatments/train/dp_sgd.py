"""Training whose weights hardly depend on any one row: clipped gradients and noise."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.access.handles import Released
from assay.errors import ModelError, Problem
from assay.models import FitsEncoding, prepared, tensors
from assay.models.store import recipe_from_json, register_recipe
from assay.registry import EVERY_TASK, treatment
from assay.train import Loss, TrainRecipe, task_loss
from assay.train.draws import Draws
from assay.train.loop import check_split, threads
from assay.train.streams import stream_seed
from assay.train.updates import Average
from assay.train.workers import Alone
from assay.treatments import _common
from assay.treatments.train._accountant import epsilon_of, noise_for
from assay.treatments.train._clipped_sums import ClippedSums, Clipping
from assay.treatments.train._norms import without_batch_norm
from assay.treatments.train._planted import Planted
from assay.values import Array, Data, Fitted, Modality, Recipe, Split, System, digest_of, plain

Ranges = Mapping[str, Sequence[float]]
CLIPPINGS = ("flat", "per_layer")
STREAMS = 2  # version of how draws are seeded: in the digest, for other draws train other weights
LEARNED: Mapping[Modality, str] = {  # what a system takes from its training rows before any noise is added
    "table": "means, scales and quantiles of the encoding were computed on the training rows",
    "image": "mean and standard deviation of each channel were computed on the training pictures",
    "text": "the table of tokens was made from the training texts: whoever reads it sees which words they hold",
}
OF_LABELS = "mean and variance of numeric labels, which set the loss, were computed on the training rows"


@dataclass(frozen=True)
class DpSettings:
    """The numbers of a private run. `public_ranges`: (low, high) of every numeric column, known without the data."""

    epsilon: float = 3.0
    delta: float = 1e-5
    max_grad_norm: float = 1.0
    batch_size: int = 1024
    epochs: int = 15
    learning_rate: float = 5e-3
    secure_noise: bool = False
    public_ranges: Ranges | None = None
    clipping: Clipping = "flat"
    average: float = 0.0  # of the weights over steps, as `TrainSettings.average`: it reads no row, so it costs nothing


@dataclass(frozen=True)
class DpRecipe:
    """The base recipe's architecture and loss, trained by clipped and noised gradient sums."""

    base: TrainRecipe
    settings: DpSettings

    @cached_property
    def digest(self) -> str:
        """Over the base recipe and the settings."""
        return digest_of(["DpRecipe", STREAMS, self.base.digest, self.settings])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        return {"name": "dp_sgd", "base": self.base.to_json(), "settings": plain(self.settings)}

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split` with the noise its own size asks for; epsilon is the settings' for any size."""
        module = self._module(split, data, seed)
        facts = fit_private(module, split, recipe=self.base, settings=self.settings, seed=seed)
        return Fitted(self.base.wrap(module, data.columns), facts)

    def fit_watched(self, split: Split, data: Data, seed: int, included: Array) -> Released:
        """Train with canaries of known gradients among the rows of `split`, and show what every step releases."""
        norm = self.settings.max_grad_norm
        planted = Planted(self._module(split, data, seed), included, num_rows=len(split), max_grad_norm=norm)
        return planted.released(
            fit_private(planted, planted.joined(split), recipe=self.base, settings=self.settings, seed=seed)
        )

    def _module(self, split: Split, data: Data, seed: int) -> nn.Module:
        check_split(split, self.base.task)
        module = self.base.make_module(split, data, seed)
        if self.settings.public_ranges is not None and isinstance(module, FitsEncoding):
            module.fit_encoding(_range_rows(data, self.settings.public_ranges))
        wrong = wrong_layers(module)
        if wrong is not None:
            raise ModelError(wrong)
        return module


def _from_json(about: Mapping[str, Any], data: Data) -> Recipe:
    base = recipe_from_json(about["base"], data)
    if not isinstance(base, TrainRecipe):
        raise ModelError(Problem(f"the recipe under a private one is a {type(base).__name__}", "TrainRecipe"))
    return DpRecipe(base, DpSettings(**about["settings"]))


register_recipe("dp_sgd", _from_json)


def fit_private(
    module: nn.Module, split: Split, *, recipe: TrainRecipe, settings: DpSettings, seed: int
) -> dict[str, Any]:
    r"""Train `module` in place with Adam on $\tilde g = (\sum_{i\in B} \mathrm{clip}_C(g_i) + \sigma C\,\xi)/(qN)$.

    Each row joins each batch B by an own coin of probability q = `batch_size` / N, and the sum is divided by the
    *expected* batch size: dividing by the realised one, or shuffling instead of tossing, would void the accounting.
    The learning rate falls linearly to 0. Noise and coins are drawn on the CPU, in a stream apart from dropout's. A
    `Planted` module has canaries' losses and sees each step. Returns the facts, with what epsilon does not cover.

    Source: Abadi et al. 2016, algorithm 1.
    """
    num_rows, device = len(split), Alone().device
    sample_rate, steps, noise_multiplier = _schedule(settings, num_rows)
    began = time.perf_counter(), time.process_time()
    inputs = prepared(module.to(device), split.inputs).to(device)
    weights = None if split.weights is None else torch.from_numpy(split.weights / split.weights.mean())
    loss = _loss(module, split, recipe)
    draw = Draws(stream_seed(seed, "private noise and coins"), secure=settings.secure_noise)
    named = {name: one for name, one in module.train().named_parameters() if one.requires_grad}
    optimizer = torch.optim.Adam(named.values(), lr=settings.learning_rate, fused=True)
    with torch.random.fork_rng(devices=[]), threads(recipe.settings.num_threads):
        torch.manual_seed(stream_seed(seed, "dropout"))  # `seed` itself made the first weights
        clip = ClippedSums(module, max_grad_norm=settings.max_grad_norm, clipping=settings.clipping)
        average = Average(module, settings.average)
        for step in range(steps):
            rows = torch.nonzero(draw.uniform(num_rows) < sample_rate).reshape(-1)
            sums = _sums(clip, (inputs, weights), rows, loss)
            _noised(named, sums, draw, spread=noise_multiplier * settings.max_grad_norm, size=sample_rate * num_rows)
            if isinstance(module, Planted):
                module.saw(rows)
            optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / steps)
            optimizer.step()
            average.update(step + 1)
            if step % 50 == 0:
                recipe.progress("private training", step, steps)
    average.put()
    optimizer.zero_grad()
    module.to("cpu").eval()
    return {
        "seconds": time.perf_counter() - began[0],
        "cpu_seconds": time.process_time() - began[1],
        "steps": steps,
        "epochs": settings.epochs,
        # Expected, not counted: how many rows were drawn or clipped is a number about the data without noise.
        "examples": round(steps * sample_rate * num_rows),
        "num_train": num_rows,
        "clipping": f"{settings.clipping}, {clip.method}",
        **privacy_facts(settings, num_rows, has_weights=weights is not None, learned=_learned(module, split, recipe)),
    }


def _loss(module: nn.Module, split: Split, recipe: TrainRecipe) -> Loss:
    loss = task_loss(split, recipe.task, label_smoothing=recipe.settings.label_smoothing)
    return module.loss(loss) if isinstance(module, Planted) else loss


def _learned(module: nn.Module, split: Split, recipe: TrainRecipe) -> list[str]:
    """What module and loss took from the training rows before any noise; of inputs nothing if that is fixed."""
    kind: Modality = "text" if split.inputs.dtype.kind == "T" else "image" if split.inputs.ndim == 4 else "table"
    found = [LEARNED[kind]] if isinstance(module, FitsEncoding) else []
    return [*found, OF_LABELS] if recipe.task.name == "regression" else found


def _schedule(settings: DpSettings, num_rows: int) -> tuple[float, int, float]:
    """Sample rate, number of steps, noise multiplier."""
    sample_rate = min(1.0, settings.batch_size / num_rows)
    steps = math.ceil(settings.epochs / sample_rate)
    return sample_rate, steps, noise_for(settings.epsilon, sample_rate, steps, delta=settings.delta)


def _sums(clip: ClippedSums, data: tuple[Tensor, Tensor | None], rows: Tensor, loss: Loss) -> dict[str, Tensor]:
    """Clipped gradient sums of the rows drawn; none when nobody was drawn."""
    if not len(rows):
        return {}
    inputs, weights = data

    def losses(outputs: Tensor, at: Tensor) -> Tensor:
        at = at.cpu()
        found = loss(outputs.cpu(), rows[at])  # (n, K) is small: labels need not live on the device
        return found if weights is None else found * weights[rows[at]]

    clip.module.zero_grad()  # the last step's gradients go before the next ones come
    sums, norms = clip(inputs.index_select(0, rows.to(inputs.device)), losses)
    if not torch.isfinite(norms).all():
        raise ModelError(Problem("a gradient stopped being finite", next="Look for non-finite inputs, or train slower"))
    return sums


def _noised(
    named: Mapping[str, nn.Parameter], sums: dict[str, Tensor], draw: Draws, *, spread: float, size: float
) -> None:
    """Gradients from sums, which are used up: noise of standard deviation `spread` added, over the expected `size`."""
    for name, parameter in named.items():
        noise = draw.normal(parameter.shape).to(parameter.device).mul_(spread)
        parameter.grad = noise.add_(sums.pop(name, 0.0)).div_(size)


def privacy_facts(
    settings: DpSettings, num_rows: int, *, has_weights: bool = False, learned: Sequence[str] = ()
) -> dict[str, Any]:
    """Epsilon as accounted for a run on `num_rows` rows, and what it does not cover."""
    sample_rate, steps, noise_multiplier = _schedule(settings, num_rows)
    return {
        "epsilon": epsilon_of(noise_multiplier, sample_rate, steps, delta=settings.delta),
        "delta": settings.delta,
        "noise_multiplier": noise_multiplier,
        "max_grad_norm": settings.max_grad_norm,
        "sample_rate": sample_rate,
        "accountant": "PLD",
        "neighbours": "one row added or removed",
        "not_covered": _not_covered(settings, has_weights, learned),
    }


def _not_covered(settings: DpSettings, has_weights: bool, learned: Sequence[str]) -> list[str]:
    found = [
        "the number of training rows, and the column names and category lists, are taken as public",
        "choices made by looking at this data: architecture, settings, treatments applied later",
        "several rows of one person: epsilon is for one row",
    ]
    found += [one for one in learned if settings.public_ranges is None or one == OF_LABELS]
    if not settings.secure_noise:
        found.append("noise and batches follow from the seed: who knows the seed can take the noise away again")
    if has_weights:
        found.append("training weights of rows were taken as public; if they were counted from the data, they leak")
    return found


@treatment("train", moves=("lower:membership_auc",), tasks=EVERY_TASK)
def dp_sgd(
    system: System,
    *,
    epsilon: float = 3.0,
    delta: float = 1e-5,
    training: Mapping[str, Any] | None = None,
    secure_noise: bool = False,
    public_ranges: Ranges | None = None,
) -> System:
    r"""Train again so that for any row and any set S of weights $P(w\in S) \le e^\varepsilon P'(w\in S) + \delta$.

    The noise multiplier is the smallest that keeps epsilon, by privacy loss distributions. `training` sets batch_size,
    epochs, learning_rate, max_grad_norm, average (of the weights over steps) and clipping ("flat", or "per_layer": each
    of L layers to max_grad_norm / sqrt(L)). `public_ranges` gives (low, high) of every numeric column from public
    knowledge; without it the encoding's statistics come from the training rows and are not covered, which the outcome
    says, beside all else that is not. `secure_noise` draws batches and noise from the operating system: do that for a
    model that is published; then the seed no longer gives the same model again. BatchNorm mixes rows: where the
    architecture also comes with GroupNorm, that takes its place, and the outcome says so. Limits: an upper bound for
    one row, in this implementation's arithmetic of floats; small groups usually lose most accuracy. Clipping takes one
    forward and one backward pass for linear, convolutional, recurrent, embedding and norm layers, and one gradient a
    row, several times slower, for a module with other parameters. Raises TreatmentError without a plain recipe, after
    model-stage treatments, for BatchNorm that cannot be replaced, for a module whose gradients cannot be taken row by
    row, and for numbers out of range.

    Source: Abadi et al. 2016, algorithm 1; Mironov, Talwar and Zhang 2019, section 1 (Poisson sampling).
    """
    chosen = dict(training or {})
    ranges = None if public_ranges is None else {name: [float(v) for v in pair] for name, pair in public_ranges.items()}
    settings = _settings(float(epsilon), float(delta), chosen)
    settings = replace(settings, secure_noise=secure_noise, public_ranges=ranges)
    problems = [
        _common.needs_recipe(system),
        _common.needs_train_recipe(system),
        _common.needs_no_later_stage(system),
        _common.needs_split(system, "train"),
        *_wrong_settings(system, settings, chosen),
    ]
    _common.refuse("dp_sgd", system, problems)
    why = "BatchNorm mixes rows, so no gradient would be one row's own"
    base, replaced = without_batch_norm(_common.train_recipe(system), system.data, why=why)
    recipe = DpRecipe(base, settings)
    train = system.data.splits["train"]
    _common.refuse("dp_sgd", system, [_cannot_clip(system, train, recipe)])
    fitted = recipe.fit(train, system.data, system.seed)
    parameters = {"epsilon": float(epsilon), "delta": float(delta), "training": training and dict(training)}
    parameters |= {"secure_noise": secure_noise, "public_ranges": ranges}
    facts = _common.told_of_rows(fitted.facts, system.lineage)
    outcome = {name: fact for name, fact in facts.items() if name not in ("seconds", "cpu_seconds")} | replaced
    named = _common.grown(system, treatment="dp_sgd", stage="train", parameters=parameters, outcome=outcome)
    return replace(named, model=fitted.model, recipe=recipe, facts=facts)


def _settings(epsilon: float, delta: float, training: Mapping[str, Any]) -> DpSettings:
    usual = DpSettings(epsilon, delta)
    return replace(
        usual,
        max_grad_norm=float(training.get("max_grad_norm", usual.max_grad_norm)),
        batch_size=int(training.get("batch_size", usual.batch_size)),
        epochs=int(training.get("epochs", usual.epochs)),
        learning_rate=float(training.get("learning_rate", usual.learning_rate)),
        clipping=training.get("clipping", usual.clipping),
        average=float(training.get("average", usual.average)),
    )


def _wrong_settings(system: System, settings: DpSettings, training: Mapping[str, Any]) -> list[Problem | None]:
    known = ("batch_size", "epochs", "learning_rate", "max_grad_norm", "clipping", "average")
    unknown = sorted(set(training) - set(known))
    train = system.data.splits.get("train")
    num_rows = 0 if train is None else len(train)
    found = [
        _common.unless(0 < settings.epsilon < math.inf, f"epsilon is {settings.epsilon}", "a positive number"),
        _common.unless(
            0 < settings.delta < 1 / max(num_rows, 1),
            f"delta is {settings.delta}",
            f"above 0 and below 1 / {num_rows}, the number of training rows",
            "A larger delta would allow publishing one row in full",
        ),
        _common.unless(settings.max_grad_norm > 0, f"max_grad_norm is {settings.max_grad_norm}", "a positive number"),
        _common.unless(0 <= settings.average < 1, f"average is {settings.average}", "0 to below 1"),
        _common.unless(settings.clipping in CLIPPINGS, f"clipping is {settings.clipping!r}", ", ".join(CLIPPINGS)),
        _common.unless(not unknown, f"training sets {', '.join(unknown)}", ", ".join(known)),
        _common.unless(
            settings.batch_size >= 1 and settings.epochs >= 1 and settings.learning_rate > 0,
            f"batch_size {settings.batch_size}, epochs {settings.epochs}, learning_rate {settings.learning_rate}",
            "1 or more, 1 or more, positive",
        ),
    ]
    if settings.public_ranges is not None and system.data.modality != "table":
        found.append(Problem(f"public_ranges are given, and the inputs are {system.data.modality}s", "tables"))
    elif settings.public_ranges is not None:
        numeric = [column.name for column in system.data.columns if column.kind == "numeric"]
        fine = all(
            len(pair) == 2 and math.isfinite(pair[0]) and math.isfinite(pair[1]) and pair[0] < pair[1]
            for pair in settings.public_ranges.values()
        )
        same = set(settings.public_ranges) == set(numeric)
        what = f"public_ranges names {', '.join(sorted(settings.public_ranges)) or 'no column'}"
        found.append(_common.unless(fine and same, what, f"(low, high), low < high, for each of {', '.join(numeric)}"))
    return found


def wrong_layers(module: nn.Module) -> Problem | None:
    """Layers that mix rows: one row's gradient is then not its own, and clipping it bounds nothing."""
    mixing = [name for name, layer in module.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    return _common.unless(
        not mixing,
        f"layers {', '.join(mixing)} are BatchNorm, which mixes rows",
        "GroupNorm, LayerNorm or no normalisation",
        "Replace them: clipping one row's gradient bounds nothing when rows are mixed",
    )


def _cannot_clip(system: System, train: Split, recipe: DpRecipe) -> Problem | None:
    """What stops gradients of single rows: layers that mix rows, or what two rows show before any training."""
    module = recipe.base.make_module(train, system.data, system.seed)
    wrong, rows = wrong_layers(module), train.take(np.arange(min(2, len(train))))
    if wrong is not None:
        return wrong
    loss = task_loss(rows, recipe.base.task)
    try:
        with torch.random.fork_rng(devices=[]):  # dropout draws
            clip = ClippedSums(module, max_grad_norm=1.0, clipping=recipe.settings.clipping)
            clip(tensors(module, rows.inputs), loss)
    except ModelError as error:
        return error.problems[0]
    return None


def _range_rows(data: Data, ranges: Ranges) -> Split:
    """Made-up rows that carry nothing but the public ranges: an even grid over each, and one row of missing values."""
    template = data.splits["train"].take(np.zeros(0, dtype=np.int64))
    grid = np.linspace(0, 1, 257)
    inputs = np.full((len(grid) + 1, len(data.columns)), -1, dtype=np.float32)
    for position, column in enumerate(data.columns):
        if column.kind == "numeric":
            low, high = ranges[column.name]
            inputs[:-1, position] = low + (high - low) * grid
            inputs[-1, position] = np.nan
    like = template.labels
    labels = np.linspace(-1, 1, len(inputs)).astype(like.dtype)
    labels = labels if like.ndim == 1 else np.zeros((len(inputs), like.shape[1]), dtype=like.dtype)
    groups = replace(template.groups, codes=np.full((len(inputs), len(data.group_columns)), -1))
    return Split(inputs, labels, groups, np.arange(len(inputs)))
