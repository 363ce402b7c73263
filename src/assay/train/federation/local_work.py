"""What a client does on its own rows: passes of plain stochastic gradient descent, on one flat vector of weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from assay.errors import ModelError, Problem
from assay.models import prepared, tensors
from assay.train.augment import augment
from assay.train.objectives import TaskLoss, row_weights, task_loss
from assay.train.recipe import TrainRecipe
from assay.values import Array, Column, Split, digest_of

MOST = 1 << 40  # rows or steps that a client elsewhere may say it has


@dataclass(frozen=True)
class LocalSettings:
    """The numbers of one client's work in one round; `decay` multiplies the rate after every round."""

    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 0.3
    decay: float = 1.0
    proximal: float = 0.0

    def rate(self, number: int) -> float:
        """The learning rate of round `number` (from 0)."""
        return self.learning_rate * self.decay**number


@dataclass(frozen=True)
class Update:
    """What a client sends. The next update may be written over `change`."""

    client: int
    change: Tensor  # (D,): its weights minus those it began with
    loss: float  # mean over the batches of its last pass, each before its step
    num_steps: int
    num_rows: int


def received(client: int, change: Any, told: Any, *, like: Tensor) -> Update | None:
    """The update that a client elsewhere sent: `change (D,)` and, as JSON, loss, steps and rows; None if it is none.

    Limits: a client may still lie about its rows, and so count for more than it should.
    """
    about: Any
    try:
        values, about = np.asarray(change, dtype=np.float32), json.loads(told)
    except (ValueError, TypeError, RecursionError):
        return None
    about = about if isinstance(about, dict) else {}
    loss: Any = about.get("loss")
    counts: list[Any] = [about.get("num_steps"), about.get("num_rows")]
    fine = all(type(one) is int and 1 <= one <= MOST for one in counts) and type(loss) in (int, float)
    if not fine or not math.isfinite(loss) or values.shape != tuple(like.shape) or not np.isfinite(values).all():
        return None
    return Update(client, torch.from_numpy(values.copy()), float(loss), *counts)


Correction = Callable[[int], Tensor | None]  # of a client: what is added to its gradients (P,)


class Work(Protocol):
    """Whoever trains clients: this process (`LocalWork`), or others."""

    @property
    def num_parameters(self) -> int:
        """P, how many of the D weights have a gradient; they come first."""
        ...

    def updates(self, start: Tensor, clients: Sequence[int], number: int, correction: Correction) -> Iterator[Update]:
        """The updates of `clients` in round `number`, in this order, all from the weights `start` `(D,)`.

        Those of clients that are gone are left out.
        """
        ...


def seed_of(seed: int, *names: object) -> int:
    """A seed for one use, from the run's seed and what it is used for: no use disturbs another."""
    return int(digest_of([seed, *map(str, names)])[:15], 16)


class FlatWeights:
    """All trained parameters of a module, then the running statistics of its norms, as one vector that they live in.

    `values (D,)` and `gradients (P,)`, P <= D: a step, a distance or an average over models is one operation, and
    nothing is copied. Weights of convolutions lie channels last within it, as they are fastest. Call `release` at the
    end: parameters then have memory of their own again.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = [one for one in module.parameters() if one.requires_grad]
        self.norms = [
            (layer, name)
            for layer in module.modules()
            if isinstance(layer, _NormBase) and layer.running_mean is not None
            for name in ("running_mean", "running_var")
        ]
        held = [*self.parameters, *(getattr(layer, name) for layer, name in self.norms)]
        odd = sorted({str(one.dtype) for one in held} - {"torch.float32"})
        if odd or not self.parameters:
            raise ModelError(Problem(f"weights are {', '.join(odd) or 'none'}", "float32"))
        self.num_parameters = sum(one.numel() for one in self.parameters)
        self.values = torch.empty(sum(one.numel() for one in held))
        self.gradients = torch.zeros(self.num_parameters)
        at = 0
        with torch.no_grad():
            for parameter in self.parameters:
                view = _view(self.values, at, parameter)
                view.copy_(parameter)
                parameter.data, parameter.grad = view, _view(self.gradients, at, parameter)
                at += parameter.numel()
            for layer, name in self.norms:
                view = _view(self.values, at, getattr(layer, name))
                view.copy_(getattr(layer, name))
                setattr(layer, name, view)
                at += view.numel()
        self.weights = self.values[: self.num_parameters]

    def release(self) -> None:
        """Give every tensor memory of its own, in the usual layout."""
        for parameter in self.parameters:
            parameter.data, parameter.grad = parameter.data.clone(memory_format=torch.contiguous_format), None
        for layer, name in self.norms:
            setattr(layer, name, getattr(layer, name).clone())


def _view(flat: Tensor, at: int, like: Tensor) -> Tensor:
    part = flat[at : at + like.numel()]
    if like.ndim != 4:
        return part.view(like.shape)
    out, into, height, width = like.shape
    return part.view(out, height, width, into).permute(0, 3, 1, 2)


class LocalWork:
    r"""Clients trained one by one, here: $w \leftarrow w - \eta(\nabla\ell_B(w) + \mu(w - w_0) + c)$.

    The loss is that of the base recipe (label smoothing, weights of rows and classes, augmentation, precision), its
    gradient clipped to the recipe's norm; w_0 are the weights a round begins with, c a correction of the client's
    (SCAFFOLD's). What a client does in a round follows from seed, round and client alone. Raises ModelError, with the
    client's number, when an update stops being finite.
    """

    def __init__(
        self,
        module: nn.Module,
        split: Split,
        clients: Sequence[Array],
        *,
        recipe: TrainRecipe,
        settings: LocalSettings,
        seed: int,
    ) -> None:
        base = recipe.settings
        self.module, self.settings, self.seed, self.base, self.task = module, settings, seed, base, recipe.task
        self.flat = FlatWeights(module)
        self.clients = [torch.from_numpy(rows) for rows in clients]
        is_raw = bool(base.augment)
        self.inputs = tensors(module, split.inputs, is_shared=True) if is_raw else prepared(module, split.inputs)
        self.loss = task_loss(split, recipe.task, label_smoothing=base.label_smoothing)
        self.weights = row_weights(split, recipe.task, base.class_weights)
        self.columns: tuple[Column, ...] = ()

    @property
    def num_parameters(self) -> int:
        """P, how many of the D weights have a gradient."""
        return self.flat.num_parameters

    def updates(self, start: Tensor, clients: Sequence[int], number: int, correction: Correction) -> Iterator[Update]:
        """The updates of `clients` in round `number`, one after the other."""
        values = self.flat.values
        for client in clients:
            values.copy_(start)
            loss, num_steps = self._train(client, number, start, correction(client))
            change = values.sub_(start)
            if not math.isfinite(loss + change.norm().item()):
                what = f"the update of client {client} stopped being finite in round {number + 1}"
                raise ModelError(Problem(what, next="Train slower (learning_rate), or look for non-finite inputs"))
            yield Update(client, change, loss, num_steps, len(self.clients[client]))

    def _train(self, client: int, number: int, start: Tensor, correction: Tensor | None) -> tuple[float, int]:
        """All passes of one client; mean loss of the last one, and the steps."""
        flat, settings, own = self.flat, self.settings, self.clients[client]
        rate, anchor = settings.rate(number), start[: flat.num_parameters]
        seed = seed_of(self.seed, "client", number, client)
        order, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
        torch.default_generator.manual_seed(seed + 2)  # dropout draws from it; torch.manual_seed walks the stack
        num_steps, total = 0, 0.0
        for epoch in range(settings.epochs):
            for rows in torch.split(own[torch.randperm(len(own), generator=order)], settings.batch_size):
                number_of = self._gradient(rows, noise)
                if settings.proximal:
                    flat.gradients.add_(flat.weights, alpha=settings.proximal).add_(anchor, alpha=-settings.proximal)
                if correction is not None:
                    flat.gradients.add_(correction)
                flat.weights.add_(flat.gradients, alpha=-rate)
                num_steps += 1
                if epoch == settings.epochs - 1:
                    total += number_of * len(rows)
        return total / len(own), num_steps

    def _gradient(self, rows: Tensor, noise: torch.Generator) -> float:
        """The clipped gradient of a batch's mean loss into `flat.gradients`; the loss."""
        base, flat = self.base, self.flat
        ready = self.inputs.index_select(0, rows)
        if base.augment:
            ready = augment(base.augment, ready, noise, columns=self.columns)
        with torch.autocast("cpu", torch.bfloat16) if base.precision == "bfloat16" else nullcontext():
            outputs = self.module(ready)
        mean = self._mean(outputs.float(), rows)
        flat.gradients.zero_()
        mean.backward()  # type: ignore[no-untyped-call]
        norm = flat.gradients.norm().item()
        if norm > base.max_grad_norm:
            flat.gradients.mul_(base.max_grad_norm / norm)
        return mean.item()

    def _mean(self, outputs: Tensor, rows: Tensor) -> Tensor:
        if self.weights is None and isinstance(self.loss, TaskLoss):
            return self.loss.mean(outputs, rows)
        losses = self.loss(outputs, rows)
        return (losses if self.weights is None else losses * self.weights[rows]).mean()
