"""Models made here, by name; models made elsewhere come through `assay.models.adapters`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models.mlp import MLP
from assay.values import Array, Column, Split, digest_of

Builder = Callable[[Sequence[Column], int, Mapping[str, Any]], nn.Module]
BUILDERS: dict[str, Builder] = {}


@runtime_checkable
class FitsEncoding(Protocol):
    """A module whose encoding is fitted on training rows before its weights are."""

    def fit_encoding(self, split: Split) -> None:
        """Set the encoding's buffers from the training split only."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A module with its own way from raw inputs to the tensor its `forward` takes (tokens of a text)."""

    def encode(self, inputs: Array) -> Tensor:
        """Raw inputs `(N, ...)` to a tensor of N rows; no gradient goes through it."""
        ...


def tensors(module: nn.Module, inputs: Array) -> Tensor:
    """Raw inputs `(N, ...)` as the tensor that `module` takes: by its own `encode`, else float32 numbers as they are.

    >>> tensors(nn.Identity(), np.ones((2, 3))).dtype
    torch.float32
    """
    if isinstance(module, Encodes):
        return module.encode(inputs)
    if inputs.dtype.kind not in "biuf":
        kind = type(module).__name__
        raise ModelError(Problem(f"{kind} cannot read inputs of type {inputs.dtype}", "numbers", "Give it an `encode`"))
    return torch.from_numpy(np.array(inputs, dtype=np.float32))


@dataclass(frozen=True)
class Architecture:
    """What a module is built from: a registered name and JSON-able parameters. Weights come from elsewhere."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of name and parameters."""
        return digest_of([self.name, self.params])


def register_architecture(name: str, builder: Builder) -> None:
    """Make `builder(columns, num_outputs, params) -> nn.Module` known by `name`, so that a file may name it.

    A file never brings code: only names registered by code that is already installed can be loaded.
    Raises ModelError when another builder has the name.
    """
    known = BUILDERS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (builder.__module__, builder.__qualname__):
        raise ModelError(Problem(f"architecture {name!r} is already registered by {known.__module__}", "a new name"))
    BUILDERS[name] = builder


def build(
    name: str, *, columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any] | None = None
) -> nn.Module:
    """An untrained module of a registered architecture, for these columns and `num_outputs` outputs.

    Raises ModelError for an unknown name or parameters that the architecture does not take.

    >>> columns = (Column("age", "numeric"), Column("sex", "categorical", ("Female", "Male")))
    >>> describe(build("mlp", columns=columns, num_outputs=2, params={"hidden": [8]}))["num_parameters"]
    66
    """
    if name not in BUILDERS:
        raise ModelError(
            Problem(
                f"architecture {name!r} is not known",
                ", ".join(sorted(BUILDERS)),
                "Register it with assay.models.register_architecture before building or loading",
            )
        )
    try:
        return BUILDERS[name](tuple(columns), num_outputs, dict(params or {}))
    except TypeError as error:
        raise ModelError(
            Problem(f"architecture {name!r} cannot be built with {dict(params or {})}: {error}")
        ) from error


def describe(module: nn.Module) -> dict[str, int]:
    """Number of parameters, and bytes of all parameters and buffers, a tensor that is shared being counted once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return {
        "num_parameters": sum(parameter.numel() for parameter in module.parameters()),
        "num_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def _mlp(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return MLP(columns, num_outputs=num_outputs, **params)


register_architecture("mlp", _mlp)
for _name in ("int8", "cnn", "gan", "recurrent", "transformer"):
    importlib.import_module(f"assay.models.{_name}")  # registers itself, with the names above

__all__ = [
    "MLP",
    "Architecture",
    "Builder",
    "Encodes",
    "FitsEncoding",
    "build",
    "describe",
    "register_architecture",
    "tensors",
]
