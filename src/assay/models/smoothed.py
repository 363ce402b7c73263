"""A module that answers by the vote of another one over noisy copies of each row, and may abstain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import bdtrc
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import Architecture, register_architecture
from assay.models.wrapped import build_base, named_base, resolve_base
from assay.values import Array, Column, modality

NAME = "smoothed"
AT_ONCE = 8192  # noisy copies of one call of the module
PERSON = b"assay vote"  # of the hash: whoever knows the row knows its noise


class Smoothed(nn.Module):
    r"""$\log (n_k / n)$ for the votes $n_k$ of n copies $x + \sigma s z$; 0 for every class where it abstains.

    z is standard normal, its stream keyed by the bytes of the row, so that a row's answer depends on nothing beside it
    and is the same each time. s is the scale of each column, 0 where there is no noise. A class without a vote counts
    half of one, so that logarithms stay finite. It abstains where the first two classes' votes are as close as by
    chance, $2 P(\mathrm{Bin}(n_1 + n_2, 1/2) \ge n_1) > \alpha$; with $\alpha = 0$ never. A copy without an answer has
    no vote; without any the row is NaN.
    """

    scale: Tensor

    def __init__(self, base: nn.Module, scale: Tensor, *, num_votes: int, alpha: float) -> None:
        super().__init__()
        self.base, self.num_votes, self.alpha = base, num_votes, alpha
        self.register_buffer("scale", scale.clone().float())

    def forward(self, inputs: Tensor) -> Tensor:
        """Raw rows `(N, ...)` to `(N, K)`."""
        step = max(1, AT_ONCE // self.num_votes)
        parts = [self._some(inputs[start : start + step]) for start in range(0, max(len(inputs), 1), step)]
        return torch.cat(parts)

    def copies(self, inputs: Tensor) -> Tensor:
        """The noisy copies of rows `(N, ...)`, `(N, n, ...)`."""
        rows = inputs.detach().cpu().numpy().astype(np.float32) + np.float32(0)
        drawn = np.stack([_noise(row, self.num_votes) for row in rows]) if len(rows) else rows[:, None]
        noise = torch.from_numpy(drawn).to(inputs.device)
        return inputs[:, None] + self.scale * noise

    def _some(self, inputs: Tensor) -> Tensor:
        copies = self.copies(inputs)
        answers = self.base(copies.reshape(-1, *inputs.shape[1:]))
        whole = torch.isfinite(answers).all(dim=1)
        votes = torch.zeros_like(answers)
        votes[torch.arange(len(votes)), torch.nan_to_num(answers).argmax(dim=1)] = 1.0
        counts = (votes * whole[:, None]).reshape(len(inputs), -1, answers.shape[1]).sum(dim=1)
        total = counts.sum(dim=1, keepdim=True)
        told = counts.clamp_min(0.5).log() - total.log()
        unsure = torch.from_numpy(is_close(counts.cpu().numpy(), self.alpha)).to(inputs.device)
        told = torch.where(unsure[:, None], torch.zeros_like(told), told)
        return torch.where(total > 0, told, torch.nan)


def is_close(counts: Array, alpha: float) -> Array:
    """Whether the first two classes of votes `(N, K)` may have equal shares, at level alpha `(N,)`.

    >>> is_close(np.array([[60.0, 40.0], [75.0, 25.0]]), 0.001).tolist()
    [True, False]
    """
    second, first = np.sort(counts, axis=1)[:, -2:].T if counts.shape[1] > 1 else (0 * counts[:, 0], counts[:, 0])
    chance = np.where(first > 0, 2 * bdtrc(np.maximum(first, 1) - 1, (first + second).astype(np.int64), 0.5), 1.0)
    unsure: Array = np.minimum(chance, 1.0) > alpha
    return unsure if alpha > 0 else np.zeros(len(counts), dtype=bool)


def _noise(row: Array, num: int) -> Array:
    row = np.where(np.isnan(row), np.float32(np.nan), row)
    key = hashlib.blake2b(np.ascontiguousarray(row, dtype="<f4").tobytes(), digest_size=16, person=PERSON).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return stream.standard_normal((num, *row.shape), dtype=np.float32)


def smoothed_architecture(base: Architecture, *, num_votes: int, alpha: float) -> Architecture:
    """The architecture of `base`, answering by vote; how far the noise goes is a weight."""
    return Architecture(NAME, {"base": named_base(base), "num_votes": int(num_votes), "alpha": float(alpha)})


def _smoothed(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    parts, kind = ("base", "num_votes", "alpha"), modality(columns)
    if kind == "text":
        raise ModelError(Problem(f"{NAME!r} cannot add noise to texts", "tables and pictures"))
    base = build_base(NAME, params, parts=parts, columns=columns, num_outputs=num_outputs)
    scale = torch.zeros((1, 1, 1) if kind == "image" else (len(columns),))
    return Smoothed(base, scale, num_votes=int(params["num_votes"]), alpha=float(params["alpha"]))


register_architecture(NAME, _smoothed, resolver=resolve_base)
