"""A module that says nothing about rows unlike those it was trained on: even probabilities instead of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import Architecture, register_architecture
from assay.models.wrapped import build_base, named_base, resolve_base
from assay.values import Array, Column

NAME = "guarded"
SCORES = ("distance", "energy")
SHRINKAGE = 1e-3  # of the mean variance, so that directions without any do not make everything far


class Guarded(nn.Module):
    r"""`f(x)` where $s(x) \le t$, else 0 for every class, f another module and t the `threshold`.

    "distance": $s = \min_k |W (e(x) - \mu_k)|^2$ for the input e of f's last linear layer, means of the classes and W
    with $W^T W$ the inverse of their common covariance. "energy": $s = -\log \sum_k \exp f_k(x)$. A row that f cannot
    answer stays NaN: it failed, and is not refused.
    """

    means: Tensor  # (K, D)
    whitener: Tensor  # (D, D)
    threshold: Tensor

    def __init__(self, base: nn.Module, *, score: str, num_outputs: int) -> None:
        super().__init__()
        if score not in SCORES:
            raise ModelError(Problem(f"score is {score!r}", ", ".join(SCORES)))
        self.base, self.score = base, score
        width = last_linear(base).in_features if score == "distance" else 0
        self.register_buffer("means", torch.zeros(num_outputs if width else 0, width))
        self.register_buffer("whitener", torch.eye(width))
        self.register_buffer("threshold", torch.tensor(torch.inf))
        if hasattr(base, "encode"):
            self.encode = base.encode

    def look(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the base takes to its logits `(N, K)` and, for "distance", what its last linear layer reads `(N, D)`."""
        if self.score == "energy":
            logits = self.base(inputs)
            return logits, logits
        seen: list[Tensor] = []
        hook = last_linear(self.base).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        try:
            logits = self.base(inputs)
        finally:
            hook.remove()
        return logits, seen[-1].reshape(len(logits), -1)

    def scores(self, logits: Tensor, seen: Tensor) -> Tensor:
        """How unfamiliar each row is `(N,)`."""
        if self.score == "energy":
            return -torch.logsumexp(logits, dim=1)
        return torch.stack([((seen - mean) @ self.whitener.T).square().sum(dim=1) for mean in self.means]).amin(dim=0)

    def forward(self, inputs: Tensor) -> Tensor:
        """What the base takes to `(N, K)`."""
        logits, seen = self.look(inputs)
        is_far = (self.scores(logits, seen) > self.threshold) & torch.isfinite(logits).all(dim=1)
        return torch.where(is_far[:, None], torch.zeros_like(logits), logits)


def last_linear(base: nn.Module) -> nn.Linear:
    """The layer whose input is the embedding. Raises ModelError where there is none, or its weights are packed."""
    layers = [layer for layer in base.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise ModelError(Problem("the module has no linear layer", "one to read embeddings from", 'Use score="energy"'))
    return layers[-1]


def class_shape(seen: Array, labels: Array, num_classes: int) -> tuple[Array, Array]:
    r"""Means `(K, D)` of the classes of `seen (N, D)`, and W `(D, D)` with $W^T W = \Sigma^{-1}$, common to all.

    A class without rows gets the mean of all, so that it is as near as nothing special.

    >>> means, whitener = class_shape(np.array([[0.0], [2.0], [10.0], [14.0]]), np.array([0, 0, 1, 1]), 2)
    >>> means.tolist(), round(float(whitener[0, 0]) ** -2, 2)
    ([[1.0], [12.0]], 2.5)
    """
    counts = np.bincount(labels, minlength=num_classes)
    means = np.stack([seen[labels == k].mean(axis=0) if counts[k] else seen.mean(axis=0) for k in range(num_classes)])
    apart = seen - means[labels]
    covariance = apart.T @ apart / len(seen)
    size = max(float(np.trace(covariance)) / len(covariance), 1e-12)
    root = np.linalg.cholesky(covariance + SHRINKAGE * size * np.eye(len(covariance)))
    return means, np.linalg.inv(root)


def guarded_architecture(base: Architecture, *, score: str) -> Architecture:
    """The architecture of `base` with a guard; means, covariance and threshold are weights."""
    return Architecture(NAME, {"base": named_base(base), "score": score})


def _guarded(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    base = build_base(NAME, params, parts=("base", "score"), columns=columns, num_outputs=num_outputs)
    return Guarded(base, score=str(params["score"]), num_outputs=num_outputs)


register_architecture(NAME, _guarded, resolver=resolve_base)
