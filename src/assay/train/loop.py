"""The training loop: the only one. The whole split in memory, one explicit step, nothing hidden."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import Problem, UsageError
from assay.meter import Energy, measure_energy
from assay.models import prepared, tensors
from assay.models.adapters.module import digest_state
from assay.train.augment import augment, check_augment
from assay.train.checkpoints import Checkpoints, Saver, total_energy
from assay.train.costs import costs_in_words, describe_costs
from assay.train.objectives import Loss, TaskLoss, check_split, row_weights, task_loss
from assay.train.progress import Live
from assay.train.schedules import learning_rate
from assay.train.settings import TrainSettings
from assay.train.state import Position, State
from assay.train.streams import stream_seed
from assay.train.updates import Average, clip_gradients, make_optimizer
from assay.train.watching import METRICS, Watch
from assay.train.workers import Alone, Workers
from assay.values import Column, Progress, Split, Task, digest_of, plain, quiet

__all__ = ["Hooks", "Loss", "TrainSettings", "check_split", "fit", "learning_rate", "task_loss", "threads"]

COST_ROWS = 16  # whose mean cost is that of one example
APART = 0x9E3779B1  # between the seeds of workers; above 32 bits a CPU's generator would not see it
Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (module, inputs (n, ...), rows (n,)) -> inputs (n, ...)


@dataclass(frozen=True)
class Hooks:
    """What a caller may hang on the loop; each is used where its name says and nowhere else."""

    progress: Progress = quiet
    validation: Split | None = None  # watched every epoch; with patience its best epoch is kept
    loss: Loss | None = None  # instead of the task's own (distillation, group penalties)
    perturb: Perturb | None = None  # changes a batch of inputs before the step (adversarial training)
    after_step: Callable[[nn.Module], None] | None = None  # e.g. put pruned weights back to zero
    after_epoch: Callable[[nn.Module], bool] | None = None  # True: training is over, with the weights it leaves
    columns: tuple[Column, ...] = ()  # of the inputs; augmentation asks for them
    checkpoints: Checkpoints | None = None  # a killed run goes on from there
    workers: Workers = field(default_factory=Alone)  # the processes that train together
    trace: Callable[[int, Tensor, Tensor], None] | None = None  # is shown epoch, rows and their losses of each step


@dataclass(frozen=True)
class _Run:
    """What stays the same over a run."""

    module: nn.Module
    forward: Callable[[Tensor], Tensor]  # the module, compiled or not
    inputs: Tensor  # (N, ...), encoded once
    weights: Tensor | None  # (N,), mean 1
    loss: Loss
    parameters: list[nn.Parameter]
    settings: TrainSettings
    hooks: Hooks
    num_steps: int


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
    count give bit-equal weights, also when the run was killed and taken up again from `hooks.checkpoints`. Limits: the
    training loss in the facts is the mean over the last epoch's batches, each measured before its step. Raises
    ModelError within the step at which a loss or gradient stops being finite, and for labels or weights that cannot
    be trained on.
    """
    settings, hooks = settings or TrainSettings(), hooks or Hooks()
    check_split(split, task)
    if settings.augment:
        check_augment(settings.augment, hooks.columns)
    identity = {} if hooks.checkpoints is None else _identity(module, split, task, settings, hooks)
    costs = describe_costs(module, hooks.columns, inputs=split.inputs[:COST_ROWS])
    run = _prepare(module, split, task, settings, hooks)
    with _training(run, task, seed) as state, measure_energy() as meter:
        at, live = state.at, Live(hooks.progress, meter, task, run.num_steps)
        saver = Saver(hooks.checkpoints, identity | {"seed": str(seed)}, meter, hooks.workers)
        saver.resume(state)
        hooks.progress(f"training: {costs_in_words(costs)}", at.step, run.num_steps)
        while not at.is_over:
            for batch in state.batches(len(split), settings.batch_size):
                stopped = _step(run, state, batch)
                if stopped:
                    raise saver.stopped(stopped, at.step)
                live.step(at, len(batch))
                saver.after_step(state)
                if at.step == run.num_steps:
                    break
            _end_epoch(run, state, total_energy(meter.read(), at.spent).seconds)
            live.epoch(at)
        saver.save(state)
    energy = meter.read() if meter.energy is None else meter.energy
    return {**_facts(run, state, task, total_energy(energy, at.spent)), **costs, **saver.facts(state)}


def _step(run: _Run, state: State, batch: Tensor) -> str:
    """One step, written out; says what stopped it, or nothing."""
    settings, hooks, at = run.settings, run.hooks, state.at
    at.step, at.taken = at.step + 1, at.taken + 1
    workers = hooks.workers
    rows, share = workers.rows(batch)
    ready = run.inputs.index_select(0, rows.to(workers.device))
    if settings.augment:
        ready = augment(settings.augment, ready, state.noise, columns=hooks.columns)
    if hooks.perturb is not None:
        ready = hooks.perturb(run.module, ready, rows)
    with torch.autocast(workers.device.type, torch.bfloat16) if settings.precision == "bfloat16" else nullcontext():
        outputs = run.forward(ready)
    mean = _mean_loss(run, at, outputs.float().cpu(), rows)  # (n, K) is small: labels need not live on the device
    for parameter in run.parameters:
        parameter.grad = None
    workers.backward(mean, share)
    norm, number = clip_gradients(run.parameters, settings.max_grad_norm, whole=workers.whole), mean.item()
    if not math.isfinite(number + norm):
        return f"the gradient became {norm}" if math.isfinite(number) else f"the loss became {number}"
    rate = learning_rate(at.step, run.num_steps, settings)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    if hooks.after_step is not None:
        hooks.after_step(run.module)
    state.average.update(at.step)
    num = share * len(batch)
    at.total, at.seen = at.total + number * num, at.seen + num
    return ""


def _mean_loss(run: _Run, at: Position, outputs: Tensor, rows: Tensor) -> Tensor:
    """The mean over a batch of weighted losses; where nobody asks for those of rows, in one operation."""
    trace = run.hooks.trace
    if trace is None and run.weights is None and isinstance(run.loss, TaskLoss):
        return run.loss.mean(outputs, rows)
    losses = run.loss(outputs, rows)
    if trace is not None:
        trace(at.epoch, rows, losses)
    return (losses if run.weights is None else losses * run.weights[rows]).mean()


def _facts(run: _Run, state: State, task: Task, used: Energy) -> dict[str, Any]:
    """What a run came to, as plain data."""
    at, examples = state.at, sum(point["examples"] for point in state.at.curve)
    return {
        "steps": at.step,
        "epochs": at.epoch,
        "train_loss": at.curve[-1]["train_loss"],
        "validation_loss": state.watch.best,
        "curve": at.curve,
        "curve_metric": METRICS.get(task.name, "accuracy"),
        "seconds": used.seconds,
        "cpu_seconds": used.cpu_seconds,
        "examples": examples,
        "examples_per_second": examples / used.seconds,
        "energy": plain(used),
        "num_train": len(run.inputs),
        **({"workers": size} if (size := run.hooks.workers.size) > 1 else {}),
    }


def _end_epoch(run: _Run, state: State, seconds: float) -> None:
    """One more point of the curve; after the last epoch the weights to keep."""
    settings, at = run.settings, state.at
    total, seen = run.hooks.workers.sums([at.total, at.seen])
    with state.average.in_place() if settings.average else nullcontext():
        validation_loss, metric = state.watch.look(run.module)
    loss = total / seen
    point = {"epoch": at.epoch + 1, "step": at.step, "train_loss": loss, "validation_loss": validation_loss}
    at.curve.append({**point, "validation_metric": metric, "seconds": seconds, "examples": int(seen)})
    state.next_epoch()
    if run.hooks.after_epoch is not None and run.hooks.after_epoch(run.module):
        at.is_over = True
        return
    low = settings.stop_at_loss is not None and loss <= settings.stop_at_loss
    if low or state.watch.is_over or at.step == run.num_steps:
        state.average.put()
        state.watch.restore(run.module)
        at.is_over = True


def _prepare(module: nn.Module, split: Split, task: Task, settings: TrainSettings, hooks: Hooks) -> _Run:
    loss = hooks.loss or task_loss(split, task, label_smoothing=settings.label_smoothing)
    device = hooks.workers.device
    forward = hooks.workers.ready(module.to(device))
    changes = settings.augment or hooks.perturb is not None
    inputs = tensors(module, split.inputs, is_shared=True) if changes else prepared(module, split.inputs)
    num_steps = settings.epochs * math.ceil(len(split) / settings.batch_size)
    return _Run(
        module,
        _compiled(forward) if settings.compile else forward,
        inputs.to(device),
        row_weights(split, task, settings.class_weights),
        loss,
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        settings,
        hooks,
        min(num_steps, settings.max_steps) if settings.max_steps else num_steps,
    )


def _compiled(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if not any(name and shutil.which(name) for name in compilers):
        what = "compile is on, and there is no C++ compiler"
        raise UsageError(Problem(what, "g++ or clang++ on the path, or CXX", "Install one, or train without compile"))
    compiled: Callable[[Tensor], Tensor] = torch.compile(forward)
    return compiled


def _identity(module: nn.Module, split: Split, task: Task, settings: TrainSettings, hooks: Hooks) -> dict[str, str]:
    """What a checkpoint must have been made with to be this run's: names, and a digest of each."""
    calls = [
        None if call is None else getattr(call, "__qualname__", type(call).__qualname__)
        for call in (hooks.loss, hooks.perturb, hooks.after_step)
    ]
    return {
        "training data": split.digest,
        "validation data": "" if hooks.validation is None else hooks.validation.digest,
        "task": task.digest,
        "settings": digest_of(settings),
        "model": digest_state(module, None, "")[0],
        "hooks": digest_of(calls),
    }


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
def _training(run: _Run, task: Task, seed: int) -> Iterator[State]:
    """Training mode inside, evaluation mode after; order of rows, augmentation and dropout all come from `seed`.

    Augmentation has a stream of its own. Order and dropout begin at the same words and are uncorrelated all the same
    (`tests/train/test_streams.py` measures it): a place is a word modulo the rows left, a mask is of its high bits.

    Images are trained in the memory layout that convolutions are fastest in (channels last), and left in the usual one,
    so that a module answers with the same bits as the one that is loaded from its file.
    """
    module, settings, hooks = run.module, run.settings, run.hooks
    is_image = run.inputs.ndim == 4 and hooks.workers.size == 1
    others = hooks.workers.rank * APART  # each worker's dropout and augmentation are its own; the order is everybody's
    module.train()
    if is_image:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.random.fork_rng(devices=[]), threads(settings.num_threads):
            torch.manual_seed(seed + others)  # dropout draws from the global generator
            yield State(
                module,
                make_optimizer(module, settings),
                Average(module, settings.average),
                Watch(module, hooks.validation, task, settings.patience),
                torch.Generator().manual_seed(seed),
                torch.Generator().manual_seed(stream_seed(seed, f"augmentation {hooks.workers.rank}")),
            )
    finally:
        if is_image:
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        module.to("cpu").eval()
