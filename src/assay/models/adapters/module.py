"""A `torch.nn.Module` as a model: batched, digested, and open to gradients."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import Architecture, tensors
from assay.values import Array, canonical

BATCH_SIZE = 8192
OutputsAre = Literal["logits", "probabilities", "values"]


class ModuleModel:
    """A module that maps raw inputs `(N, ...)` to outputs `(N, K)`; encoding is the module's own (`tensors`).

    Offers query, meter and, unless `differentiable` is False (int8 weights, say), gradient. `architecture` names the
    registered builder, without which the model can be audited and treated but not saved. `digest` covers every
    parameter, buffer and the architecture; the module must not be changed afterwards. Limits: the digest does not cover
    the code of `forward`: of a network of one's own, changed code with the same weights looks the same. NaN outputs
    pass through: the row counts as errored.
    Raises ModelError for a module whose state cannot be digested, and from `outputs` for an answer of a wrong shape.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        outputs_are: OutputsAre = "logits",
        architecture: Architecture | None = None,
        differentiable: bool = True,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.module = module
        self.outputs_are: OutputsAre = outputs_are
        self.architecture = architecture
        self.batch_size = batch_size
        self.offers = frozenset({"query", "meter"} | ({"gradient"} if differentiable else set()))
        self.digest, self.num_bytes = digest_state(module, architecture, outputs_are)

    def outputs(self, inputs: Array) -> Array:
        """Raw inputs `(N, ...)` to outputs `(N, K)` float32, in evaluation mode and without gradients."""
        if inputs.ndim not in (1, 2, 4) or (inputs.ndim == 1) != (inputs.dtype.kind == "T"):
            raise ModelError(
                Problem(f"inputs have shape {inputs.shape}", "(N, F) numbers, (N, C, H, W) pixels, (N,) texts")
            )
        known = parts(self.module)  # once: a walk takes 5 of the 235 us of one row through a small MLP
        device = next((one.device for part in known for one in own_parameters(part)), torch.device("cpu"))
        step = min(self.batch_size, rows_a_batch(inputs))
        with _evaluating(known), torch.inference_mode():
            batches = [
                self._batch(tensors(self.module, inputs[start : start + step]).to(device))
                for start in range(0, max(len(inputs), 1), step)
            ]
        return np.concatenate(batches)

    def _batch(self, rows: Tensor) -> Array:
        answer = self.module(rows)
        if not isinstance(answer, Tensor) or not answer.is_floating_point():
            kind = answer.dtype if isinstance(answer, Tensor) else type(answer).__name__
            raise ModelError(Problem(f"the module answered with {kind}", "one floating-point tensor (N, K)"))
        if answer.ndim != 2 or len(answer) != len(rows):
            raise ModelError(Problem(f"{len(rows)} rows gave an answer of shape {tuple(answer.shape)}", "(N, K)"))
        return answer.float().cpu().numpy()


def rows_a_batch(inputs: Array) -> int:
    """How many rows go through a module at once: activations of images and texts are many times their inputs.

    >>> rows_a_batch(np.zeros((1, 14))), rows_a_batch(np.zeros((1, 1, 28, 28)))
    (8192, 512)
    """
    return BATCH_SIZE if inputs.ndim == 2 else 512


def parts(module: nn.Module) -> list[nn.Module]:
    """Every module in `module`, itself first, in the order of `module.modules()`, for a fifth of the time.

    >>> layers = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
    >>> parts(layers) == list(layers.modules())
    True
    """
    found: dict[nn.Module, None] = {}
    waiting = [module]
    while waiting:
        part = waiting.pop()
        if part not in found:
            found[part] = None
            waiting.extend(child for child in reversed(part._modules.values()) if child is not None)
    return list(found)


def own_parameters(part: nn.Module) -> list[nn.Parameter]:
    """The parameters of one module itself, not of those in it."""
    return [one for one in part._parameters.values() if one is not None]


def evaluation(module: nn.Module) -> AbstractContextManager[None]:
    """Evaluation mode inside, every submodule's own mode restored after; untouched if already evaluating."""
    return _evaluating(parts(module))


@contextmanager
def _evaluating(known: Sequence[nn.Module]) -> Iterator[None]:
    training = [part for part in known if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def digest_state(module: nn.Module, architecture: Architecture | None, outputs_are: str) -> tuple[str, int]:
    """SHA-256 over sorted names, types, shapes and bytes of the state, and its bytes, shared tensors counted once."""
    head = [type(module).__qualname__ if architecture is None else architecture.digest, outputs_are]
    total = hashlib.sha256(canonical(head).encode())
    seen: set[tuple[int, int]] = set()
    num_bytes = 0
    for name, tensor in state_tensors(module):
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor_bytes(tensor))
        place = (tensor.data_ptr(), tensor.numel() * tensor.element_size())
        if place not in seen:
            seen.add(place)
            num_bytes += place[1]
    return total.hexdigest(), num_bytes


def state_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Every tensor of `state_dict`, by sorted name; packed int8 weights are opened into their parts."""
    found: list[tuple[str, Tensor]] = []
    for name, entry in sorted(module.state_dict().items()):
        _open(name, entry, found)
    return found


def _open(name: str, entry: Any, found: list[tuple[str, Tensor]]) -> None:
    if isinstance(entry, Tensor):
        if entry.is_quantized:
            found += [(name + ".int_repr", entry.int_repr()), *_quantiser(name, entry)]
        elif entry.layout is not torch.strided:
            raise ModelError(Problem(f"state {name!r} is {entry.layout}", "dense tensors", "Call .to_dense() on it"))
        else:
            found.append((name, entry.detach()))
    elif isinstance(entry, (tuple, list)):
        for position, part in enumerate(entry):
            _open(f"{name}.{position}", part, found)
    elif isinstance(entry, Mapping):
        for key in sorted(entry):
            _open(f"{name}.{key}", entry[key], found)
    elif entry is None or isinstance(entry, (bool, int, float, str, torch.dtype)):
        found.append((f"{name}={entry}", torch.empty(0)))
    else:
        raise ModelError(Problem(f"state {name!r} holds a {type(entry).__name__}", "tensors, numbers and text"))


def _quantiser(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale, zero = torch.tensor(tensor.q_scale()), torch.tensor(tensor.q_zero_point())
    else:
        scale, zero = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return [(name + ".scale", scale), (name + ".zero_point", zero)]


def tensor_bytes(tensor: Tensor) -> bytes:
    """The raw bytes of a dense tensor of any type, bfloat16 included."""
    flat = tensor.detach().cpu().contiguous()
    return ctypes.string_at(flat.data_ptr(), flat.numel() * flat.element_size()) if flat.numel() else b""
