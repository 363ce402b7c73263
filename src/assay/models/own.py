"""Networks of one's own: what stands for an architecture that nothing has registered, and how one is registered."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from assay.errors import ModelError, Problem
from assay.models import BUILDERS, UNREGISTERED, Architecture
from assay.models.wrapped import is_named
from assay.values import Column

if TYPE_CHECKING:
    from assay.models.adapters.module import ModuleModel


def architecture_of(model: ModuleModel) -> Architecture:
    """The model's architecture; of a module that has none, one that holds its class's name and cannot be built.

    With it a treated module has a digest over its treatment's parameters too, and is known to be one that cannot be
    saved.
    """
    return model.architecture or Architecture(UNREGISTERED, {"class": type(model.module).__qualname__})


def chain_of(architecture: Architecture) -> list[Architecture]:
    """The architecture and those within it, the innermost last.

    >>> [one.name for one in chain_of(Architecture("rounded", {"base": {"name": "mlp", "params": {}}}))]
    ['rounded', 'mlp']
    """
    found, base = [architecture], architecture.params.get("base")
    while isinstance(base, Mapping) and is_named(base):
        found.append(Architecture(str(base["name"]), base["params"]))
        base = found[-1].params.get("base")
    return found


def missing_in(architecture: Architecture) -> str | None:
    """What of an architecture no builder is registered for: a name, or the class of a module; None when all are.

    >>> missing_in(Architecture("rounded", {"base": {"name": "no such net", "params": {}}}))
    'no such net'
    """
    missing = [one for one in chain_of(architecture) if one.name not in BUILDERS]
    return str(missing[0].params.get("class", missing[0].name)) if missing else None


def is_registered(model: ModuleModel) -> bool:
    """Whether the module could be built again from names, so that it can be saved."""
    return missing_in(architecture_of(model)) is None


def stored(model: ModuleModel) -> Architecture:
    """The architecture that a folder names. Raises ModelError where it could not be built again."""
    found = architecture_of(model)
    missing = missing_in(found)
    if missing is not None:
        what = f"{missing} has no registered architecture, so it could not be built again"
        advice = "Before any treatment: from assay.train import with_recipe; system = with_recipe(system, NAME)"
        raise ModelError(Problem(what, "modules of registered architectures", advice))
    return found


def require_registered(architecture: Architecture, folder: object) -> None:
    """Raise ModelError when a folder names an architecture that nothing imported has registered."""
    missing = missing_in(architecture)
    if missing is not None:
        what = f"{folder} needs the architecture {missing!r}, which is not known: no imported code has registered it"
        advice = f"Import your own code that does (@assay.models.architecture({missing!r})) first: a folder brings none"
        raise ModelError(Problem(what, ", ".join(sorted(BUILDERS)), advice))


def is_all_ours(architecture: Architecture) -> bool:
    """Whether every part is built by this package: elsewhere a name and weights do not tell what `forward` does."""
    known = [BUILDERS.get(one.name) for one in chain_of(architecture)]
    return all(one is not None and one.__module__.startswith("assay.") for one in known)


def like(module: nn.Module) -> Callable[[Sequence[Column], int], nn.Module]:
    """A builder of modules like this one, untrained: copies of which every part has drawn its weights anew.

    For `assay.models.architecture`, where no function that builds the network is at hand. What a part draws is what
    its own `reset_parameters` does, as of the layers of torch; what a class changes about its layers after making them
    is lost. Raises ModelError for parts with weights or buffers of their own and no `reset_parameters`, and where some
    weights are frozen.

    >>> again = like(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    >>> again((), 2)
    Sequential(
      (0): Linear(in_features=4, out_features=2, bias=True)
      (1): ReLU()
    )
    """
    odd = [name or "itself" for name, part in module.named_modules() if _has_own(part) and _reset(part) is None]
    trained = {one.requires_grad for one in module.parameters()}
    kind, reasons = type(module).__name__, [f"{', '.join(odd)} has weights and no way to draw them"] if odd else []
    reasons += ["some of its weights are frozen, so they come from elsewhere"] if len(trained) > 1 else []
    if reasons:
        advice = f"Put @assay.models.architecture({kind!r}) on a function (columns, num_outputs) that builds it"
        what = f"{kind} cannot be made anew from a copy: {'; '.join(reasons)}"
        raise ModelError(Problem(what, "parts with reset_parameters(), all trained", advice))
    pattern = copy.deepcopy(module)

    def made(columns: Sequence[Column], num_outputs: int) -> nn.Module:
        again = copy.deepcopy(pattern).train().requires_grad_(True)
        for part in again.modules():
            draw = _reset(part)
            if draw is not None:
                draw()
        return again

    made.__module__, made.__qualname__ = type(module).__module__, type(module).__qualname__
    return made


def _has_own(part: nn.Module) -> bool:
    return any(one is not None for one in (*part._parameters.values(), *part._buffers.values()))


def _reset(part: nn.Module) -> Callable[[], None] | None:
    """How a part draws its weights; torch's attention has it under another name."""
    names = ("reset_parameters", "_reset_parameters")
    return next((getattr(part, name) for name in names if callable(getattr(part, name, None))), None)
