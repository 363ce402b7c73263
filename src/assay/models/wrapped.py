"""What architectures around another one share: naming, building and resolving it, and replacing its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from assay.errors import ModelError, Problem
from assay.models import Architecture, build, resolve
from assay.values import Column


def named_base(base: Architecture) -> dict[str, Any]:
    """The architecture within, as plain data of the one around it.

    >>> named_base(Architecture("mlp", {"hidden": [8]}))
    {'name': 'mlp', 'params': {'hidden': [8]}}
    """
    return {"name": base.name, "params": dict(base.params)}


def is_named(base: object) -> bool:
    """Whether plain data name an architecture."""
    return isinstance(base, Mapping) and set(base) == {"name", "params"}


def build_base(
    name: str, params: Mapping[str, Any], *, parts: Sequence[str], columns: Sequence[Column], num_outputs: int
) -> nn.Module:
    """The module within. Raises ModelError when `params` of the architecture around it lack one of `parts`."""
    missing = [repr(part) for part in parts if part not in params or (part == "base" and not is_named(params[part]))]
    if missing:
        raise ModelError(Problem(f"architecture {name!r} lacks {', '.join(missing)}", ", ".join(parts)))
    base = params["base"]
    return build(base["name"], columns=columns, num_outputs=num_outputs, params=base["params"])


def resolve_base(columns: Sequence[Column], params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same parameters with every one of the architecture within written out."""
    base = params.get("base")
    if not is_named(base) or base is None:
        return params  # the builder says what is missing
    return {**params, "base": named_base(resolve(Architecture(str(base["name"]), base["params"]), columns))}


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Every plain linear layer, without code of its own on it, by its dotted name."""
    return {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear and not has_hooks(layer)}


def has_hooks(layer: nn.Module) -> bool:
    """Whether code hangs on a layer, which whatever takes its place would lose."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def swap(module: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put other layers in the places named by dotted names, in place."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer)


def swap_linear(
    module: nn.Module, settings: Mapping[str, Any], *, within: str, make: Callable[[nn.Linear, Any], nn.Module]
) -> nn.Module:
    """Replace each linear layer named in `settings` by what `make` gives for it and its setting. Raises ModelError."""
    layers = linear_layers(module)
    unknown = sorted(set(settings) - set(layers))
    if unknown:
        raise ModelError(Problem(f"{within!r} has no linear layer {', '.join(unknown)}", ", ".join(layers)))
    swap(module, {name: make(layers[name], setting) for name, setting in settings.items()})
    return module
