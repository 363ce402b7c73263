"""Texts as what a gradient can be taken of: one vector a token, where it stands in the text, and how tokens attend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.values import Array

NO_ATTENTION = "the model has no attention"


@runtime_checkable
class ByToken(Protocol):
    """A module of texts that can be entered at the vectors of its tokens."""

    def token_ids(self, inputs: Array) -> Tensor:
        """Texts `(N,)` to ids `(N, L)`, 0 = padding."""
        ...

    def token_vectors(self, tokens: Tensor) -> Tensor:
        """Ids `(N, L)` to vectors `(N, L, D)`."""
        ...

    def from_vectors(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Vectors `(N, L, D)` of tokens `(N, L)` to outputs `(N, K)`."""
        ...

    def token_spans(self, inputs: Array) -> list[list[tuple[int, int]]]:
        """For each text, the first character of each token and the one after its last; (0, 0) for one not of it."""
        ...


@runtime_checkable
class ByColumn(Protocol):
    """A module of tables that can be entered at its encoding, where categories are numbers too."""

    def encoded_columns(self, inputs: Tensor) -> Tensor:
        """Rows `(N, F)` to their encoding `(N, D)`."""
        ...

    def from_encoded(self, encoded: Tensor) -> Tensor:
        """The encoding `(N, D)` to outputs `(N, K)`."""
        ...

    def columns_of_slots(self) -> Tensor:
        """Which column each encoded number is of, `(D,)`."""
        ...


@runtime_checkable
class Attends(Protocol):
    """A layer that tells how its tokens attend to each other."""

    def attention_weights(self, *arguments: Tensor) -> Tensor:
        """From the arguments of `forward`, weights `(N, heads, L, L)` whose rows sum to 1 over tokens."""
        ...


def by_token(module: nn.Module) -> ByToken:
    """The module, seen as one that can be entered at its tokens. Raises ModelError when it cannot."""
    if not isinstance(module, ByToken):
        kind = type(module).__name__
        raise ModelError(Problem(f"{kind} cannot be entered at the vectors of tokens", "a text model of assay"))
    return module


@contextmanager
def _recorded(module: nn.Module, into: list[Tensor]) -> Iterator[None]:
    def record(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if isinstance(layer, Attends):
            into.append(layer.attention_weights(*arguments).mean(dim=1))

    layers = [layer for layer in module.modules() if isinstance(layer, Attends)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def attention_maps(module: nn.Module, inputs: Array) -> list[Array]:
    """Mean weights over heads of each layer, `(N, layers, L, L)` float32 in one array a batch of 64 texts.

    Raises ModelError when the model has no attention of tokens to each other.
    """
    reader = by_token(module)
    if not any(isinstance(layer, Attends) for layer in module.modules()):
        raise ModelError(Problem(NO_ATTENTION, "a transformer or a sentence encoder"))
    was_training, found = module.training, []
    module.eval()
    try:
        for start in range(0, len(inputs), 64):
            maps: list[Tensor] = []
            with _recorded(module, maps):
                tokens = reader.token_ids(inputs[start : start + 64])
                reader.from_vectors(reader.token_vectors(tokens), tokens)
            found.append(torch.stack(maps, dim=1).float().numpy())
    finally:
        module.train(was_training)
    return found


def rollout(maps: Array) -> Array:
    r"""Attention rollout: $\prod_l (A_l + I) / 2$ over layers, `(N, layers, L, L)` to `(N, L, L)`, last layer first.

    Entry (i, j) says how much of the state at token i came from token j, if states only mixed as attention says.
    Limits: what values and later layers make of a token is not seen, nor its sign; it is not about any one class.
    Source: Abnar and Zuidema 2020, section 3 (equation 1, with the residual connection).

    >>> rollout(np.array([[[[0.5, 0.5], [0.0, 1.0]]]])).tolist()
    [[[0.75, 0.25], [0.0, 1.0]]]
    """
    identity = np.eye(maps.shape[-1], dtype=maps.dtype)
    found = np.broadcast_to(identity, maps[:, 0].shape)
    for layer in range(maps.shape[1]):
        found = (0.5 * (maps[:, layer] + identity)) @ found
    return found


def is_attending(module: nn.Module) -> bool:
    """Whether tokens attend to each other in this module.

    >>> from assay.models.attention import MultiHeadAttention
    >>> is_attending(nn.Linear(2, 2)), is_attending(MultiHeadAttention(4, 2))
    (False, True)
    """
    return any(isinstance(layer, Attends) for layer in module.modules())
