"""The inner maximisation of adversarial training, and the watch on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.models import tensors
from assay.models.adapters.module import evaluation
from assay.train import Loss, task_loss
from assay.units.ranges import ranges
from assay.values import Array, Column, Split, Task

FGSM_STEP = 1.25  # of the radius: Wong et al. 2020, section 4.1
PGD_STEP = 2.5  # of the radius, over all steps: Madry et al. 2018, section 5
WATCHED = 512  # rows on which overfitting to the training attack is looked for
WATCH_STEPS = 10
LEAST_FALL = 0.1  # in PGD accuracy: less is training noise
MOST_WEAKER = 0.05  # how much the accuracy under FGSM may fall and still count as staying


@dataclass(frozen=True)
class Around:
    """How far a row may move: `step` in the columns' units, inside `low` and `high`; broadcasts with `(n, ...)`."""

    step: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, columns: Sequence[Column], inputs: Array, radius: float) -> Around:
        """Whole-number columns move by whole numbers; columns without a range, and categories, not at all."""
        known = ranges(columns, inputs)
        with np.errstate(invalid="ignore"):
            step = radius * (known.high - known.low)
        step = np.where(known.numeric & np.isfinite(step), step, 0.0)
        if inputs.ndim == 2:  # pixels are whole numbers too, but are trained on as they come
            step = np.where(known.whole, np.floor(step + 1e-9), step)
        made = [torch.from_numpy(np.array(one, dtype=np.float32)) for one in (step, known.low, known.high)]
        return cls(*made)

    def worst(
        self, module: nn.Module, inputs: Tensor, rows: Tensor, *, loss: Loss, num_steps: int, draw: torch.Generator
    ) -> Tensor:
        r"""Rows `(n, ...)` moved up the loss: $x \leftarrow \Pi(x + a\,\mathrm{sign}\nabla_x L)$ from a random start.

        One step of a = 1.25 radius, or k of 2.5 radius / k, as `assay.treatments.train.adversarial_training` says. The
        module is in evaluation mode meanwhile, so that its running statistics see no row twice.
        """
        first = inputs.float()
        step = self.step.expand_as(first)
        low = torch.minimum(first, torch.maximum(self.low, first - step))
        high = torch.maximum(first, torch.minimum(self.high, first + step))
        still = (step == 0) | torch.isnan(first)
        size = step * (FGSM_STEP if num_steps == 1 else PGD_STEP / num_steps)
        now = first + (2 * torch.rand(first.shape, generator=draw) - 1) * step
        with evaluation(module):
            for _ in range(num_steps):
                now = torch.where(still, first, now.clamp(low, high)).requires_grad_(True)
                (slope,) = torch.autograd.grad(loss(module(now).float(), rows).sum(), now)
                now = now.detach() + size * torch.sign(torch.nan_to_num(slope))
        return torch.where(still, first, now.clamp(low, high))


@dataclass
class Collapse:
    """Looks after every epoch whether only the attack trained against is still answered: catastrophic overfitting.

    The sign is that of Wong et al. 2020, section 5.4: accuracy under PGD falls while under FGSM it stays. Then the
    weights of the best epoch under PGD are put back, and training is over.
    """

    split: Split
    task: Task
    around: Around
    seed: int
    first: int = 1  # epoch from which it is judged: before, the radius still rises
    curve: list[dict[str, Any]] = field(default_factory=list)
    told: str = ""
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def on(cls, split: Split, *, task: Task, around: Around, seed: int, first: int = 1) -> Collapse:
        """On at most 512 rows of a split, at even distances."""
        picked = np.linspace(0, len(split) - 1, min(WATCHED, len(split))).round().astype(np.int64)
        return cls(split.take(picked), task, around, seed, first)

    def look(self, module: nn.Module) -> bool:
        """Whether training is over."""
        point = {"epoch": len(self.curve) + 1, "fgsm": self._right(module, 1), "pgd": self._right(module, WATCH_STEPS)}
        best = max(self.curve[self.first - 1 :], key=lambda one: one["pgd"], default=point)
        self.curve.append(point)
        spread = math.sqrt(best["pgd"] * (1 - best["pgd"]) / len(self.split))
        fell = best["pgd"] - point["pgd"] > max(LEAST_FALL, 3 * spread)
        if fell and point["fgsm"] >= best["fgsm"] - MOST_WEAKER:
            self.told = (
                f"epoch {point['epoch']}: accuracy under PGD fell from {best['pgd']:.3f} to {point['pgd']:.3f} while "
                f"under FGSM it was {point['fgsm']:.3f}; training was stopped and epoch {best['epoch']} kept"
            )
            module.load_state_dict(self.weights)
            return True
        if point["pgd"] >= best["pgd"]:
            self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        return False

    def _right(self, module: nn.Module, num_steps: int) -> float:
        loss, rows = task_loss(self.split, self.task), torch.arange(len(self.split))
        draw = torch.Generator().manual_seed(self.seed)
        inputs = tensors(module, self.split.inputs)
        moved = self.around.worst(module, inputs, rows, loss=loss, num_steps=num_steps, draw=draw)
        with evaluation(module), torch.no_grad():
            answers = module(moved).argmax(dim=1).numpy()
        labels = self.split.labels if self.split.labels.ndim == 1 else self.split.labels.argmax(axis=1)
        return float((answers == labels).mean())
