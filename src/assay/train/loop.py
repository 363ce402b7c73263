"""The training loop: the only one. The whole split in memory, one explicit step, nothing hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.meter import Energy, measure_energy
from assay.models import tensors
from assay.train.objectives import Loss, check_split, row_weights, task_loss
from assay.train.schedules import learning_rate
from assay.train.settings import TrainSettings
from assay.train.updates import Average, clip_gradients, make_optimizer
from assay.train.watching import Watch, metric_of
from assay.train.workers import Alone, Workers
from assay.values import Column, Progress, Split, Task, plain, quiet

__all__ = ["Hooks", "Loss", "TrainSettings", "check_split", "fit", "learning_rate", "task_loss", "threads"]

Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (module, inputs (n, ...), rows (n,)) -> inputs (n, ...)


@dataclass(frozen=True)
class Hooks:
    """What a caller may hang on the loop; each is used where its name says and nowhere else."""

    progress: Progress = quiet
    validation: Split | None = None  # watched every epoch; with patience its best epoch is kept
    loss: Loss | None = None  # instead of the task's own (distillation, group penalties)
    perturb: Perturb | None = None  # changes a batch of inputs before the step (adversarial training)
    after_step: Callable[[nn.Module], None] | None = None  # e.g. put pruned weights back to zero
    columns: tuple[Column, ...] = ()  # of the inputs; augmentation asks for them
    workers: Workers = field(default_factory=Alone)  # the processes that train together


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

    Minimises the mean over rows of `w_i * loss_i`, weights scaled to mean 1. The same seed, data, module and thread
    count give bit-equal weights. Limits: the training loss in the facts is the mean over the last epoch's batches,
    each measured before its step. Raises ModelError within the step at which a loss or gradient stops being
    finite, and for labels or weights that cannot be trained on.
    """
    settings, hooks = settings or TrainSettings(), hooks or Hooks()
    check_split(split, task)
    loss = hooks.loss or task_loss(split, task, label_smoothing=settings.label_smoothing)
    inputs, weights = tensors(module, split.inputs), row_weights(split, task, settings.class_weights)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(module, settings)
    average, watch = Average(module, settings.average), Watch(module, hooks.validation, task, settings.patience)
    num_steps = _num_steps(len(split), settings)
    step, curve = 0, []
    with _training(module, settings, seed) as (order, noise), measure_energy() as meter:
        for epoch in range(settings.epochs):
            total, seen = 0.0, 0
            for batch in torch.split(torch.randperm(len(split), generator=order), settings.batch_size):
                step += 1
                rows = hooks.workers.rows(batch)
                ready = _prepare(inputs[rows], rows, module, settings, hooks, noise)
                with _autocast(settings):
                    outputs = module(ready)
                losses = loss(outputs.float(), rows)
                mean = (losses if weights is None else losses * weights[rows]).mean()
                for parameter in parameters:
                    parameter.grad = None
                mean.backward()  # type: ignore[no-untyped-call]
                hooks.workers.gradients(parameters, len(rows) / len(batch))
                norm, number = clip_gradients(parameters, settings.max_grad_norm), mean.item()
                if not math.isfinite(number + norm):
                    raise _stopped(number, norm, step)
                rate = learning_rate(step, num_steps, settings)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                if hooks.after_step is not None:
                    hooks.after_step(module)
                average.update(step)
                total, seen = total + number * len(rows), seen + len(rows)
                if step == num_steps:
                    break
            total, seen = hooks.workers.sums([total, seen])
            with average.in_place() if settings.average else nullcontext():
                found, figure = watch.look(module)
            curve.append(
                {"epoch": epoch + 1, "step": step, "train_loss": total / seen, "validation_loss": found}
                | {"validation_metric": figure, "seconds": meter.read().seconds, "examples": int(seen)}
            )
            hooks.progress("training", step, num_steps)
            low = settings.stop_at_loss is not None and total / seen <= settings.stop_at_loss
            if watch.is_over or low or step == num_steps:
                break
        average.put()
        watch.restore(module)
    examples = sum(point["examples"] for point in curve)
    facts = {"steps": step, "epochs": len(curve), "train_loss": curve[-1]["train_loss"], "validation_loss": watch.best}
    facts |= {"curve": curve, "curve_metric": metric_of(task)}
    return facts | _costs(meter.energy, examples) | {"num_train": len(split)}


def _num_steps(num_rows: int, settings: TrainSettings) -> int:
    steps = settings.epochs * math.ceil(num_rows / settings.batch_size)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def _prepare(
    batch: Tensor, rows: Tensor, module: nn.Module, settings: TrainSettings, hooks: Hooks, noise: torch.Generator
) -> Tensor:
    """The batch as the module meets it: augmented, then perturbed."""
    if settings.augment:
        from assay.train.augment import augment

        batch = augment(settings.augment, batch, noise, columns=hooks.columns)
    return batch if hooks.perturb is None else hooks.perturb(module, batch, rows)


def _autocast(settings: TrainSettings) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if settings.precision == "bfloat16" else nullcontext()


def _stopped(loss: float, norm: float, step: int) -> ModelError:
    what, number = ("gradient", norm) if math.isfinite(loss) else ("loss", loss)
    advice = "Look for non-finite inputs, or lower the learning rate; the weights of this run are not usable"
    return ModelError(Problem(f"the {what} became {number} at step {step}", next=advice))


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
def _training(
    module: nn.Module, settings: TrainSettings, seed: int
) -> Iterator[tuple[torch.Generator, torch.Generator]]:
    """Training mode inside, evaluation mode after; order of rows, augmentation and dropout all come from `seed`."""
    module.train()
    try:
        with torch.random.fork_rng(devices=[]), threads(settings.num_threads):
            torch.manual_seed(seed)  # dropout draws from the global generator
            yield torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    finally:
        module.eval()


def _costs(energy: Energy | None, examples: int) -> dict[str, Any]:
    if energy is None:  # the meter always leaves one behind; a type checker cannot know
        return {"examples": examples}
    seconds = {"seconds": energy.seconds, "cpu_seconds": energy.cpu_seconds}
    return {**seconds, "examples": examples, "examples_per_second": examples / energy.seconds, "energy": plain(energy)}
