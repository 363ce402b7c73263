"""The training loop: the only one. Whole tables in memory, AdamW, one learning-rate curve, nothing hidden."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem, UsageError
from assay.meter import Energy, measure_energy
from assay.models.adapters.module import evaluation
from assay.values import Array, Progress, Split, Task, plain, quiet

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs (n, K), rows (n,) positions in the split) -> losses (n,)
Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (module, inputs (n, F), rows (n,)) -> inputs (n, F)


@dataclass(frozen=True)
class TrainSettings:
    """Every number of a training run. `patience` counts epochs without a better validation loss; 0 = never stop."""

    epochs: int = 8
    batch_size: int = 512
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    warmup: float = 0.15  # share of the steps during which the rate rises
    curve: Literal["cosine", "linear", "constant"] = "cosine"
    max_grad_norm: float = 5.0
    label_smoothing: float = 0.0
    patience: int = 0
    num_threads: int = 1  # small models are fastest with 1, and the weights then do not depend on the machine's cores

    def __post_init__(self) -> None:
        wrong = [
            Problem(f"{name} is {getattr(self, name)}", allowed)
            for name, fine, allowed in (
                ("epochs", self.epochs >= 1, "1 or more"),
                ("batch_size", self.batch_size >= 1, "1 or more"),
                ("learning_rate", 0 < self.learning_rate < math.inf, "a positive number"),
                ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
                ("warmup", 0 <= self.warmup < 1, "0 to below 1"),
                ("curve", self.curve in ("cosine", "linear", "constant"), "cosine, linear, constant"),
                ("max_grad_norm", self.max_grad_norm > 0, "a positive number"),
                ("label_smoothing", 0 <= self.label_smoothing < 1, "0 to below 1"),
                ("num_threads", self.num_threads >= 1, "1 or more"),
                ("patience", self.patience >= 0, "0 or more"),
            )
            if not fine
        ]
        if wrong:
            raise UsageError(wrong)


@dataclass(frozen=True)
class Hooks:
    """What a caller may hang on the loop; each is used where its name says and nowhere else."""

    progress: Progress = quiet
    validation: Split | None = None  # watched every epoch; its best epoch is kept
    loss: Loss | None = None  # instead of the task's own (distillation, group penalties)
    perturb: Perturb | None = None  # changes a batch of inputs before the step (adversarial training)
    after_step: Callable[[nn.Module], None] | None = None  # e.g. put pruned weights back to zero


def fit(
    module: nn.Module,
    split: Split,
    *,
    task: Task,
    settings: TrainSettings | None = None,
    seed: int = 0,
    hooks: Hooks | None = None,
) -> dict[str, Any]:
    """Train `module` in place on `split`, and return the facts of the run.

    Minimises the mean over rows of `w_i * loss_i`, weights scaled to mean 1, with AdamW. The same seed, data, module
    and thread count give bit-equal weights. Limits: the training loss in the facts is the mean over the last epoch's
    batches, each measured before its step. Raises ModelError within the step at which a loss or gradient stops being
    finite, and for labels or weights that cannot be trained on.
    """
    settings, hooks = settings or TrainSettings(), hooks or Hooks()
    check_split(split, task)
    loss = hooks.loss or task_loss(split, task, label_smoothing=settings.label_smoothing)
    inputs, weights = _tensor(split.inputs), _weights(split)
    rate, decay = settings.learning_rate, settings.weight_decay
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=decay, fused=True)
    num_steps = settings.epochs * math.ceil(len(split) / settings.batch_size)
    watch = _Watch(hooks.validation, task, settings.patience)
    step, epochs, train_loss = 0, 0, math.nan
    with _training(module, settings, seed) as order, measure_energy() as meter:
        for epoch in range(settings.epochs):
            total = 0.0
            for rows in torch.split(torch.randperm(len(split), generator=order), settings.batch_size):
                step += 1
                batch = inputs[rows] if hooks.perturb is None else hooks.perturb(module, inputs[rows], rows)
                mean = (loss(module(batch), rows) * weights[rows]).mean()
                _finite(mean, "loss", step)
                optimizer.zero_grad()
                mean.backward()  # type: ignore[no-untyped-call]
                _finite(nn.utils.clip_grad_norm_(module.parameters(), settings.max_grad_norm), "gradient", step)
                optimizer.param_groups[0]["lr"] = learning_rate(step, num_steps, settings)
                optimizer.step()
                if hooks.after_step is not None:
                    hooks.after_step(module)
                total += mean.item() * len(rows)
            epochs, train_loss = epoch + 1, total / len(split)
            hooks.progress("training", step, num_steps)
            if watch.stop(module):
                break
        watch.restore(module)
    facts = {"steps": step, "epochs": epochs, "train_loss": train_loss, "validation_loss": watch.best}
    return facts | _costs(meter.energy, epochs * len(split)) | {"num_train": len(split)}


def learning_rate(step: int, num_steps: int, settings: TrainSettings) -> float:
    """The rate at `step` (from 1): a linear rise over `warmup`, then the curve, reaching 0 after the last step."""
    rise = max(1, round(settings.warmup * num_steps))
    if step <= rise:
        return settings.learning_rate * step / rise
    if settings.curve == "constant":
        return settings.learning_rate
    left = (num_steps - step + 1) / (num_steps - rise + 1)
    share = left if settings.curve == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    return settings.learning_rate * share


def task_loss(split: Split, task: Task, *, label_smoothing: float = 0.0) -> Loss:
    """Losses `(n,)` of rows by position: cross-entropy in nats, or squared error over the variance of the labels.

    Labels of a classification may be class indices `(N,)` or target probabilities `(N, K)` (soft targets).
    """
    if task.name == "regression":
        targets = torch.from_numpy(np.asarray(split.labels, dtype=np.float32)).reshape(len(split), -1)
        variance = targets.var(dim=0, correction=0).clamp_min(torch.finfo(torch.float32).tiny)
        variance = torch.where(variance > 1e-30, variance, 1.0)

        def squared_error(outputs: Tensor, rows: Tensor) -> Tensor:
            _same_shape(outputs, (len(rows), targets.shape[1]))
            return ((outputs - targets[rows]).square() / variance).mean(dim=1)

        return squared_error
    soft = split.labels.ndim == 2
    labels = torch.from_numpy(np.asarray(split.labels, dtype=np.float32 if soft else np.int64))

    def cross_entropy(outputs: Tensor, rows: Tensor) -> Tensor:
        _same_shape(outputs, (len(rows), task.num_outputs))
        return functional.cross_entropy(outputs, labels[rows], reduction="none", label_smoothing=label_smoothing)

    return cross_entropy


def check_split(split: Split, task: Task) -> None:
    """Raise ModelError, with every problem at once, for a split that cannot be trained on."""
    wrong = []
    labels = np.asarray(split.labels)
    if not len(split):
        wrong.append(Problem("the training split has no rows"))
    elif task.name == "regression" or labels.ndim == 2:
        if not np.isfinite(labels).all():
            row = split.rows[~np.isfinite(labels).reshape(len(labels), -1).all(axis=1)][0]
            wrong.append(Problem(f"the label of row {row} is not a finite number", next="Drop or repair such rows"))
    elif labels.min() < 0 or labels.max() >= task.num_outputs:
        row = split.rows[(labels < 0) | (labels >= task.num_outputs)][0]
        wrong.append(Problem(f"the label of row {row} is not a class index", f"0 to {task.num_outputs - 1}"))
    weights = split.weights
    if weights is not None and (not np.isfinite(weights).all() or weights.min() < 0 or not weights.sum() > 0):
        wrong.append(Problem("row weights hold a negative or non-finite number, or only zeros", "0 or more, not all 0"))
    if wrong:
        raise ModelError(wrong)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use `number` threads inside one operation, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _training(module: nn.Module, settings: TrainSettings, seed: int) -> Iterator[torch.Generator]:
    """Training mode inside, evaluation mode after; the order of rows and dropout both come from `seed`."""
    module.train()
    try:
        with torch.random.fork_rng(devices=[]), threads(settings.num_threads):
            torch.manual_seed(seed)  # dropout draws from the global generator
            yield torch.Generator().manual_seed(seed)
    finally:
        module.eval()


def _costs(energy: Energy | None, examples: int) -> dict[str, Any]:
    if energy is None:  # the meter always leaves one behind; a type checker cannot know
        return {"examples": examples}
    seconds = {"seconds": energy.seconds, "cpu_seconds": energy.cpu_seconds}
    return {**seconds, "examples": examples, "examples_per_second": examples / energy.seconds, "energy": plain(energy)}


class _Watch:
    """Early stopping: remembers the best validation loss and the weights that gave it."""

    def __init__(self, validation: Split | None, task: Task, patience: int) -> None:
        self.best: float | None = None
        self.weights: Mapping[str, Tensor] | None = None
        self.validation, self.patience, self.waited = validation, patience, 0
        if validation is not None:
            self.loss = task_loss(validation, task)
            self.inputs = _tensor(validation.inputs)

    def stop(self, module: nn.Module) -> bool:
        if self.validation is None:
            return False
        with evaluation(module), torch.no_grad():
            now = self.loss(module(self.inputs), torch.arange(len(self.inputs))).mean().item()
        if self.best is None or now < self.best:
            self.best, self.waited = now, 0
            self.weights = copy.deepcopy(module.state_dict()) if self.patience else None
        else:
            self.waited += 1
        return 0 < self.patience <= self.waited

    def restore(self, module: nn.Module) -> None:
        if self.weights is not None:
            module.load_state_dict(self.weights)


def _tensor(inputs: Array) -> Tensor:
    return torch.from_numpy(np.array(inputs, dtype=np.float32))


def _weights(split: Split) -> Tensor:
    if split.weights is None:
        return torch.ones(len(split))
    weights = split.weights.astype(np.float64)
    return _tensor(weights / weights.mean())


def _finite(value: Tensor, what: str, step: int) -> None:
    number = value.item()
    if not math.isfinite(number):
        advice = "Look for non-finite inputs, or lower the learning rate; the weights of this run are not usable"
        raise ModelError(Problem(f"the {what} became {number} at step {step}", next=advice))


def _same_shape(outputs: Tensor, expected: tuple[int, int]) -> None:
    if tuple(outputs.shape) != expected:
        raise ModelError(Problem(f"the module answered with shape {tuple(outputs.shape)}", f"{expected}"))
