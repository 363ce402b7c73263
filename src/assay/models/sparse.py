"""Layers that keep as many weights in each row, stored without their zeros: a registered architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.models import Architecture, register_architecture
from assay.models.wrapped import build_base, has_hooks, named_base, resolve_base, swap
from assay.values import Column

NAME = "sparse"
Layer = nn.Linear | nn.Conv2d


class Sparse(nn.Module):
    """A linear layer or convolution with `num_kept` weights a row: their values, and one bit a weight for where.

    4 bytes a weight that stays and 1/8 for every one: 53 % of the bytes at one half. The weights are written out at
    first use, and the layer then costs what it did. Gradients go to the inputs, not to the weights. Limits: no second
    is saved, and running takes the packed weights beside the others.
    """

    values: Tensor
    mask: Tensor
    bias: Tensor | None

    def __init__(self, layer: Layer, num_kept: int) -> None:
        super().__init__()
        self.shape = tuple(layer.weight.shape)
        self.how: dict[str, Any] = {}
        if isinstance(layer, nn.Conv2d):
            self.how = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        size = layer.weight[0].numel()
        if not 1 <= num_kept <= size:
            raise ModelError(Problem(f"{num_kept} weights a row", f"1 to {size}"))
        self.register_buffer("values", torch.zeros(self.shape[0], num_kept))
        self.register_buffer("mask", packed((torch.arange(size) < num_kept).repeat(self.shape[0], 1)))
        self.register_buffer("bias", None if layer.bias is None else torch.zeros(self.shape[0]))
        self._ready: Tensor | None = None  # written out at first use; forgotten when the buffers are loaded or moved
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def forward(self, inputs: Tensor) -> Tensor:
        """As the layer it stands for."""
        if self._ready is None:
            with torch.inference_mode(False):  # it outlives this call, which may be one without gradients
                self._ready = self.weight()
        if self.how:
            return functional.conv2d(inputs, self._ready, self.bias, **self.how)
        return functional.linear(inputs, self._ready, self.bias)

    def weight(self) -> Tensor:
        """All weights in the shape of the layer, zeros written out."""
        stays = unpacked(self.mask, math.prod(self.shape[1:]))
        whole = self.values.new_zeros(stays.shape)
        whole[stays] = self.values.reshape(-1)
        return whole.reshape(self.shape)

    def _apply(self, fn: Any, recurse: bool = True) -> Sparse:
        self._ready = None
        found: Sparse = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return found


def _forget(layer: nn.Module, incompatible: Any) -> None:
    if isinstance(layer, Sparse):
        layer._ready = None


def packed(stays: Tensor) -> Tensor:
    """Booleans `(out, in)` as bits `(out, ceil(in / 8))`, the first in the lowest.

    >>> packed(torch.tensor([[True, False, False, True, False, False, False, False, True]])).tolist()
    [[9, 1]]
    """
    filled = functional.pad(stays.to(torch.uint8), (0, -stays.shape[1] % 8)).reshape(len(stays), -1, 8)
    return (filled << torch.arange(8, dtype=torch.uint8)).sum(dim=2, dtype=torch.uint8)


def unpacked(mask: Tensor, size: int) -> Tensor:
    """Bits back as booleans `(out, size)`."""
    bits = (mask[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=mask.device)) & 1
    return bits.flatten(1)[:, :size].bool()


def from_layer(layer: Layer, stays: Tensor) -> Sparse:
    """A layer without the weights that do not stay; `stays (out, in)` has as many in every row."""
    made = Sparse(layer, int(stays[0].sum()))
    with torch.no_grad():
        made.values.copy_(layer.weight.detach().flatten(1)[stays].reshape(made.values.shape))
        made.mask.copy_(packed(stays))
        if made.bias is not None and layer.bias is not None:
            made.bias.copy_(layer.bias)
    return made.eval()


def can_be_sparse(module: nn.Module) -> dict[str, Layer]:
    """Plain linear layers and convolutions by name, all but the `head`."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if (type(layer) is nn.Linear or (type(layer) is nn.Conv2d and _is_plain(layer)))
        and name.rpartition(".")[2] != "head"
        and not has_hooks(layer)
    }


def _is_plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def sparse_architecture(base: Architecture, kept: Mapping[str, int]) -> Architecture:
    """The architecture of `base` with so many weights left in every row of the named layers."""
    return Architecture(NAME, {"base": named_base(base), "kept": dict(kept)})


def _sparse(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    module = build_base(NAME, params, parts=("base", "kept"), columns=columns, num_outputs=num_outputs)
    layers = can_be_sparse(module)
    unknown = sorted(set(params["kept"]) - set(layers))
    if unknown:
        what = f"{params['base']['name']!r} has no layer {', '.join(unknown)} to thin out"
        raise ModelError(Problem(what, ", ".join(layers)))
    swap(module, {name: Sparse(layers[name], int(number)) for name, number in params["kept"].items()})
    return module


register_architecture(NAME, _sparse, resolver=resolve_base)
