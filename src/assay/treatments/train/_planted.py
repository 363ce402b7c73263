"""Canaries inside a private training: rows whose gradients are known, and what the training releases of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.access.handles import Released
from assay.models import prepared
from assay.train import Loss
from assay.values import Array, Split

STEEP = 1000.0  # times the clipping norm: the norm of a canary's gradient before it is clipped


class Planted(nn.Module):
    r"""`module` and m weights w, each of one canary: the loss of canary i is `STEEP` $C\,w_i$, of other rows their own.

    So the gradient of canary i is `STEEP` C in its own direction and 0 elsewhere, and other rows have 0 in all m: what
    a training releases in direction i is the canary, clipped, at the steps that drew it, and noise. Canaries are rows
    like any other: drawn, run, differentiated, clipped, summed and noised by the code that does it for people's rows.
    `included (m,)` bool: the canaries that are among the rows, after `num_rows` others.
    """

    def __init__(self, module: nn.Module, included: Array, *, num_rows: int, max_grad_norm: float) -> None:
        super().__init__()
        self.module, self.included, self.num_rows, self.norm = module, included, num_rows, max_grad_norm
        self.own = nn.Linear(1, len(included), bias=False)
        nn.init.zeros_(self.own.weight)
        self.which = torch.from_numpy(np.flatnonzero(included))  # canary of each row after the first `num_rows`
        self.sums: list[Tensor] = []
        self.batch_sizes: list[int] = []
        self.times_drawn = np.zeros(num_rows + len(self.which), dtype=np.int64)

    def prepare(self, inputs: Array) -> Tensor:
        """What `module` makes of raw inputs."""
        return prepared(self.module, inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Answers of `module` `(n, K)` and the canaries' weights, `(n, K + m)`."""
        outputs = self.module(inputs)
        return torch.cat([outputs, self.own(outputs.new_ones(len(outputs), 1))], dim=1)

    def joined(self, split: Split) -> Split:
        """`split` and one row for each included canary: a copy of that with the largest weight, never looked at."""
        copied = 0 if split.weights is None else int(split.weights.argmax())
        return split.take(np.concatenate([np.arange(len(split)), np.full(len(self.which), copied)]))

    def loss(self, loss: Loss) -> Loss:
        """`loss` for rows of the split, and the canaries' own."""

        def losses(outputs: Tensor, rows: Tensor) -> Tensor:
            num = outputs.shape[1] - len(self.included)
            given = loss(outputs[:, :num], rows.clamp_max(self.num_rows - 1))
            if not len(self.which):
                return given
            places = self.which[(rows - self.num_rows).clamp_min(0)]
            own = outputs[:, num:].gather(1, places[:, None])[:, 0]
            return torch.where(rows < self.num_rows, given, STEEP * self.norm * own)

        return losses

    def saw(self, rows: Tensor) -> None:
        """Note the rows `(n,)` that a step drew, and what it is about to give the optimiser."""
        gradient = self.own.weight.grad
        if gradient is not None:
            self.sums.append(gradient[:, 0].detach().cpu().clone())
        self.batch_sizes.append(len(rows))
        self.times_drawn += np.bincount(rows.numpy(), minlength=len(self.times_drawn))

    def released(self, facts: Mapping[str, Any]) -> Released:
        """All steps, in units of the clipping norm, as sums over the batch."""
        scale = facts["sample_rate"] * facts["num_train"] / self.norm
        sums = torch.stack(self.sums).numpy() * np.float32(scale)
        return Released(sums, self.included, np.array(self.batch_sizes), self.times_drawn, facts)
