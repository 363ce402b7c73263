"""Models made here, by name; models made elsewhere come through `assay.models.adapters`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, update_wrapper
from typing import Any, Protocol, TypeGuard, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models.mlp import MLP
from assay.values import Array, Column, Split, digest_of, plain

Builder = Callable[[Sequence[Column], int, Mapping[str, Any]], nn.Module]
Resolver = Callable[[Sequence[Column], Mapping[str, Any]], Mapping[str, Any]]
BUILDERS: dict[str, Builder] = {}
RESOLVERS: dict[str, Resolver] = {}
REPLACED: list[str] = []  # names whose builder is another by now: what was trained by the one before is stale
UNREGISTERED = "unregistered"  # stands for the architecture of a module that nothing says how to build
Made = TypeVar("Made", bound=Callable[..., nn.Module])


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


@cache
def _kind_encodes(kind: Any) -> bool:
    return issubclass(kind, Encodes)


def encodes(module: nn.Module) -> TypeGuard[Encodes]:
    """`isinstance(module, Encodes)` without its cost, a fifth of answering one row: the class is asked once."""
    kind: Any = type(module)
    return _kind_encodes(kind) or "encode" in vars(module)


def tensors(module: nn.Module, inputs: Array, *, is_shared: bool = False) -> Tensor:
    """Raw inputs `(N, ...)` as the tensor that `module` takes: by its own `encode`, else float32 numbers as they are.

    With `is_shared` it may be the inputs' own memory, for callers that only take rows out of it.

    >>> tensors(nn.Identity(), np.ones((2, 3))).dtype
    torch.float32
    """
    if encodes(module):
        return module.encode(inputs)
    if inputs.dtype.kind not in "biuf":
        kind = type(module).__name__
        raise ModelError(Problem(f"{kind} cannot read inputs of type {inputs.dtype}", "numbers", "Give it an `encode`"))
    is_shared = is_shared and inputs.flags.writeable  # torch has no tensor that cannot be written to
    return torch.from_numpy(np.array(inputs, dtype=np.float32, copy=None if is_shared else True))


@runtime_checkable
class Prepares(Protocol):
    """A module whose first part is fixed: its `forward` also takes what that part made of the inputs."""

    def prepare(self, inputs: Array) -> Tensor:
        """Raw inputs `(N, ...)` to what training starts from, N rows; no gradient goes through it."""
        ...


def prepared(module: nn.Module, inputs: Array) -> Tensor:
    """What a loop over steps takes rows from: what the fixed first part of `module` made of the inputs, else `tensors`.

    Only for loops that leave raw inputs as they are: no augmentation, no perturbation.
    """
    return module.prepare(inputs) if isinstance(module, Prepares) else tensors(module, inputs, is_shared=True)


@dataclass(frozen=True)
class Architecture:
    """What a module is built from: a registered name and JSON-able parameters. Weights come from elsewhere."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of name and parameters."""
        return digest_of([self.name, self.params])


def register_architecture(name: str, builder: Builder, *, resolver: Resolver | None = None) -> None:
    """Make `builder(columns, num_outputs, params) -> nn.Module` known by `name`, so that a file may name it.

    `resolver(columns, params)` writes every parameter out (see `from_signature`, `filled`); without one, parameters are
    taken as they are given. A file never brings code: only names registered by code that is already installed can be
    loaded. Raises ModelError when another builder has the name.
    """
    if not name or name == UNREGISTERED:
        raise ModelError(Problem(f"an architecture cannot be called {name!r}", "a name of its own"))
    known = BUILDERS.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (builder.__module__, builder.__qualname__):
        raise ModelError(Problem(f"architecture {name!r} is already registered by {known.__module__}", "a new name"))
    if known is not None and known is not builder:
        REPLACED.append(name)
    BUILDERS[name] = builder
    if resolver is not None:
        RESOLVERS[name] = resolver


def architecture(name: str) -> Callable[[Made], Made]:
    """Register a network of one's own: on a function `(columns, num_outputs, *, parameters)`, or a class made alike.

    All that training again, saving and loading need. Put it where your own code imports it first: a folder holds the
    name and the parameters (plain data), never code. Raises ModelError for other parameters and a name that is taken.

    >>> @architecture("my net")
    ... def my_net(columns, num_outputs, *, width=8):
    ...     return nn.Sequential(nn.Linear(len(columns), width), nn.ReLU(), nn.Linear(width, num_outputs))
    >>> build("my net", columns=(Column("age", "numeric"),), num_outputs=2, params={"width": 3})[0]
    Linear(in_features=1, out_features=3, bias=True)
    >>> del BUILDERS["my net"], RESOLVERS["my net"]  # for this example only
    """

    def register(made: Made) -> Made:
        given = inspect.signature(made).parameters.values()
        by_name = [one.kind is one.KEYWORD_ONLY for one in given]
        if len(by_name) < 2 or any(by_name[:2]) or not all(by_name[2:]):
            what = f"{name!r} is built from ({', '.join(map(str, given))})"
            advice = "As in: lambda columns, num_outputs: Net(len(columns))"
            raise ModelError(Problem(what, "(columns, num_outputs, *, parameters with defaults)", advice))

        def builder(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
            return made(columns, num_outputs, **params)

        register_architecture(name, update_wrapper(builder, made), resolver=from_signature(made))
        return made

    return register


def from_signature(function: Callable[..., Any], *, without: Sequence[str] = ()) -> Resolver:
    """A resolver whose parameters are the keyword-only ones of a function, with its defaults, but some."""
    return lambda columns, params: filled(params, defaults_of(function, without=without))


def defaults_of(function: Callable[..., Any], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Keyword-only parameters of a function and their defaults, `inspect.Parameter.empty` where there is none."""
    taken = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in taken if one.kind is one.KEYWORD_ONLY and one.name not in without}


def filled(params: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`params`, and the defaults of those that are not given; 1 where 1.0 is the default becomes 1.0.

    Raises ModelError with every name that there is no default for, and those that there are.

    >>> filled({"dropout": 0}, {"dropout": 0.5, "width": 32})
    {'dropout': 0.0, 'width': 32}
    """
    odd = [Problem(f"there is no parameter {name!r}", ", ".join(sorted(defaults))) for name in sorted(params)]
    odd = [problem for problem, name in zip(odd, sorted(params), strict=True) if name not in defaults]
    if odd:
        raise ModelError(odd)
    found = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty} | dict(params)
    return {
        name: float(value) if type(value) is int and type(defaults[name]) is float else value
        for name, value in found.items()
    }


def resolve(architecture: Architecture, columns: Sequence[Column]) -> Architecture:
    """The same architecture with every parameter written out, as JSON has them.

    What is kept of a system names no defaults, so that a later change of one leaves it as it was. Two that build the
    same are the same. Raises ModelError for an unknown name or parameters that the architecture does not take.

    >>> resolve(Architecture("mlp", {"hidden": (8,)}), (Column("age", "numeric"),)).params
    {'hidden': [8], 'num_bins': 0, 'dropout': 0.0, 'scale_outputs': False}
    """
    name, params = architecture.name, dict(architecture.params)
    if name not in BUILDERS:
        advice = f"Import the code that registers it first, as by @assay.models.architecture({name!r})"
        raise ModelError(Problem(f"architecture {name!r} is not known", ", ".join(sorted(BUILDERS)), advice))
    resolver = RESOLVERS.get(name)
    return Architecture(name, plain(params if resolver is None else resolver(tuple(columns), params)))


def build(
    name: str, *, columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any] | None = None
) -> nn.Module:
    """An untrained module of a registered architecture, for these columns and `num_outputs` outputs.

    Raises ModelError for an unknown name or parameters that the architecture does not take, with those it takes.

    >>> columns = (Column("age", "numeric"), Column("sex", "categorical", ("Female", "Male")))
    >>> describe(build("mlp", columns=columns, num_outputs=2, params={"hidden": [8]}))["num_parameters"]
    66
    """
    resolved = resolve(Architecture(name, dict(params or {})), columns)
    try:
        module = BUILDERS[name](tuple(columns), num_outputs, dict(resolved.params))
    except TypeError as error:
        raise ModelError(
            Problem(f"architecture {name!r} cannot be built with {dict(params or {})}: {error}")
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(Problem(f"architecture {name!r} is built as a {type(module).__name__}", "a torch.nn.Module"))
    return module


def describe(module: nn.Module) -> dict[str, int]:
    """Number of parameters, and bytes of all parameters and buffers that a file keeps, a shared tensor counted once."""
    tensors = {id(tensor): tensor for tensor in module.state_dict(keep_vars=True).values()}
    return {
        "num_parameters": sum(parameter.numel() for parameter in module.parameters()),
        "num_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    }


def _mlp(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return MLP(columns, num_outputs=num_outputs, **params)


register_architecture("mlp", _mlp, resolver=from_signature(MLP.__init__, without=["num_outputs"]))
for _name in (
    "guarded",
    "int8",
    "low_rank",
    "rounded",
    "smoothed",
    "temperature",
    "votes",
    "uncorrelated",
    "cnn",
    "scattering",
    "gan",
    "recurrent",
    "transformer",
    "ngrams",
    "channels",
    "sparse",
    "by_onnxruntime",
):
    importlib.import_module(f"assay.models.{_name}")  # registers itself, with the names above

__all__ = [
    "MLP",
    "Architecture",
    "Builder",
    "Encodes",
    "FitsEncoding",
    "architecture",
    "build",
    "describe",
    "register_architecture",
    "resolve",
    "tensors",
]
