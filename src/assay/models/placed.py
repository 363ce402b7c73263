"""Parts of a module on devices of their own: what goes in and out of them is carried along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem


def place(module: nn.Module, devices: Mapping[str, str]) -> nn.Module:
    """Put named parts of a module on devices, in place, and carry what they take and give; the module itself.

    Keys are dotted names; "" is all that no other name holds, on "cpu" unless it is named. A part takes its inputs on
    its device and answers on the device of what it is a part of, so code around it need not know. Limits: parts run one
    after the other, and each costs two transfers: for models that no one device holds, not for speed; place whole
    bodies rather than single layers. Raises ModelError, for all of them, for unknown names and devices that are not
    there.

    >>> layers = place(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), {"1": "cpu"})
    >>> layers(torch.zeros(4, 2)).shape
    torch.Size([4, 1])
    """
    known, wanted = dict(module.named_modules()), {"": "cpu", **devices}
    parts = ", ".join(name for name in known if name.count(".") < 2 and name)
    wrong = [Problem(f"{name!r} is no part of the module", parts) for name in wanted if name not in known]
    wrong += [problem for problem in map(_unavailable, dict.fromkeys(wanted.values())) if problem is not None]
    if wrong:
        raise ModelError(wrong)
    if not devices:
        return module
    _move(module, "", wanted[""], wanted)
    for name, device in wanted.items():
        known[name].register_forward_pre_hook(_taking(device), with_kwargs=True)
        if name:
            held = [other for other in wanted if not other or name.startswith(other + ".")]
            known[name].register_forward_hook(_giving(wanted[max(held, key=len)]))
    return module


def _move(part: nn.Module, name: str, device: str, wanted: Mapping[str, str]) -> None:
    """Every tensor straight to its device: the whole need not fit on any of them."""
    device = wanted.get(name, device)
    if not any(other.startswith(name + ".") or (not name and other) for other in wanted):
        part.to(device)
        return
    for key, child in part.named_children():
        _move(child, f"{name}.{key}" if name else key, device, wanted)
    for key, parameter in part.named_parameters(recurse=False):
        setattr(part, key, nn.Parameter(parameter.detach().to(device), requires_grad=parameter.requires_grad))
    for key, buffer in part.named_buffers(recurse=False):
        setattr(part, key, buffer.to(device))


def _taking(device: str) -> Any:
    def take(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _moved(given, device), {name: _moved(one, device) for name, one in named.items()}

    return take


def _giving(device: str) -> Any:
    def give(_: nn.Module, given: tuple[Any, ...], answer: Any) -> Any:
        return _moved(answer, device)

    return give


def _moved(given: Any, device: str) -> Any:
    if isinstance(given, tuple):
        return tuple(_moved(one, device) for one in given)
    return given.to(device) if isinstance(given, Tensor) else given


def _unavailable(device: str) -> Problem | None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        return Problem(f"device {device!r} is not there ({str(error).splitlines()[0][:80]})", ", ".join(there))
    return None
