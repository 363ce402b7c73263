"""A module with its logits divided by one number: a registered architecture, so that a scaled model saves and loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.models import Architecture, register_architecture
from assay.models.wrapped import build_base, named_base, resolve_base
from assay.values import Column

NAME = "temperature"
PASSED_ON = ("encode", "token_ids", "token_vectors", "token_spans")  # what a text module offers beside its forward pass


class Temperature(nn.Module):
    """`f(x) / T` for the logits `f` of another module, T > 0; it reads inputs, and offers gradients, as that one does.

    >>> made = Temperature(nn.Identity(), temperature=2.0)
    >>> made(torch.tensor([[1.0, -4.0]])).tolist()
    [[0.5, -2.0]]
    """

    temperature: Tensor

    def __init__(self, base: nn.Module, *, temperature: float = 1.0) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        for name in PASSED_ON:
            if hasattr(base, name):
                setattr(self, name, getattr(base, name))
        if hasattr(base, "from_vectors"):
            self.from_vectors = self._from_vectors

    def forward(self, inputs: Tensor) -> Tensor:
        """What the module takes to logits `(N, K)`."""
        scaled: Tensor = self.base(inputs) / self.temperature
        return scaled

    def _from_vectors(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        entered: Any = self.base
        scaled: Tensor = entered.from_vectors(vectors, tokens) / self.temperature
        return scaled


def temperature_architecture(base: Architecture) -> Architecture:
    """The architecture of `base` with its logits divided; the number itself is a weight."""
    return Architecture(NAME, {"base": named_base(base)})


def _temperature(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return Temperature(build_base(NAME, params, parts=("base",), columns=columns, num_outputs=num_outputs))


register_architecture(NAME, _temperature, resolver=resolve_base)
