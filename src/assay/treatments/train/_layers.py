"""Layers whose gradients of single rows follow from one forward and one backward pass, and in which form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.treatments.train._forms import Filter, Form, Lookup, Part, Product, Scale


@dataclass(frozen=True)
class Run:
    """One call of a layer: what it was given, and the gradient of the summed loss by what it answered."""

    given: Tensor
    gradient: Tensor


Rule = Callable[[str, nn.Module, Run], Form]


def _names(name: str, layer: nn.Module) -> tuple[str, str | None]:
    has_bias = getattr(layer, "bias", None) is not None
    inside = f"{name}." if name else ""  # a module may be one layer
    return f"{inside}weight", f"{inside}bias" if has_bias else None


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    return weight if isinstance(weight, Tensor) else torch.empty(0)


def linear(name: str, layer: nn.Module, run: Run) -> Form:
    """`(n, ..., I)` to `(n, ..., O)`: every position is one term of the product."""
    weight, bias = _names(name, layer)
    given, gradient = (
        one[:, None] if one.ndim == 2 else one.flatten(1, -2) if one.ndim > 3 else one
        for one in (run.given, run.gradient)
    )
    return Product([Part(weight, bias, _weight(layer).shape, given)], gradient)


def convolution(name: str, layer: nn.Module, run: Run) -> Form:
    """`(n, C, H, W)` or `(n, C, L)`: every place of the filter is one term of the product."""
    weight, bias = _names(name, layer)
    kernel, stride, padding, dilation = (
        _pair(getattr(layer, part)) for part in ("kernel_size", "stride", "padding", "dilation")
    )
    if run.given.ndim == 3:  # one dimension is two of which the first is 1
        kernel, stride, padding, dilation = (1, kernel[1]), (1, stride[1]), (0, padding[1]), (1, dilation[1])

    groups = int(getattr(layer, "groups", 1))
    shape = _weight(layer).shape

    def unfold(given: Tensor) -> Tensor:
        wide = given if given.ndim == 4 else given[:, :, None]
        return unfolded(wide, (kernel, stride, padding, dilation), groups=groups)

    def fold(total: Tensor) -> Tensor:  # (O, kernel, C / G) to (O, C / G, kernel)
        return total.reshape(shape[0], -1, shape[1]).transpose(1, 2).reshape(shape)

    gradient = run.gradient.flatten(2).transpose(1, 2)
    return Product([Part(weight, bias, shape, run.given)], gradient, Filter(unfold, fold, groups))


Geometry = tuple[
    tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]
]  # kernel, stride, padding, dilation


def unfolded(given: Tensor, geometry: Geometry, *, groups: int) -> Tensor:
    """Images `(n, C, H, W)` to what the filter sees at each of T places, `(n G, T, kernel C / G)`, channels innermost.

    With channels innermost, what the filter sees is read in long runs: two to three times as fast as
    `torch.nn.functional.unfold` on a CPU, which goes pixel by pixel.
    """
    kernel, stride, padding, dilation = geometry
    channels = given.shape[1]
    wide = given.permute(0, 2, 3, 1)
    if any(padding):
        wide = functional.pad(wide, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    wide = wide.contiguous()
    num_rows, height, width, _ = wide.shape
    down = (height - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    across = (width - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    line = width * channels
    seen = wide.as_strided(
        (num_rows, down, across, *kernel, channels),
        (height * line, stride[0] * line, stride[1] * channels, dilation[0] * line, dilation[1] * channels, 1),
    )
    if groups == 1:
        return seen.reshape(num_rows, down * across, -1)
    parts = seen.reshape(num_rows, down * across, -1, groups, channels // groups).permute(0, 3, 1, 2, 4)
    return parts.reshape(num_rows * groups, down * across, -1)


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    return (int(size[0]), int(size[-1]))


def embedding(name: str, layer: nn.Module, run: Run) -> Form:
    """`(n, ...)` tokens to `(n, ..., D)`; the entry at padding has no gradient."""
    places = run.given.reshape(len(run.given), -1)
    gradient = run.gradient.reshape(*places.shape, -1)
    padding = getattr(layer, "padding_idx", None)
    if padding is not None:
        gradient = gradient.masked_fill((places == padding)[:, :, None], 0.0)
    return Lookup(f"{name}.weight", _weight(layer).shape, places, gradient)


def layer_norm(name: str, layer: nn.Module, run: Run) -> Form:
    """`(n, ..., C)`, normalised over the last axes: the scale's gradient is the normalised input times d."""
    shape = [int(size) for size in getattr(layer, "normalized_shape", ())]
    normed = functional.layer_norm(run.given, shape, eps=float(getattr(layer, "eps", 1e-5)))
    weight, bias = _names(name, layer)
    between = tuple(range(1, run.given.ndim - len(shape)))

    def total(one: Tensor) -> Tensor:
        return one.sum(dim=between) if between else one

    each = {weight: total(normed * run.gradient)}
    return Scale(each if bias is None else each | {bias: total(run.gradient)})


def group_norm(name: str, layer: nn.Module, run: Run) -> Form:
    """`(n, C, ...)`, normalised within groups of channels."""
    num_groups, small = int(getattr(layer, "num_groups", 1)), float(getattr(layer, "eps", 1e-5))
    normed = functional.group_norm(run.given, num_groups, eps=small)
    weight, bias = _names(name, layer)
    each = {weight: (normed * run.gradient).flatten(2).sum(dim=2)}
    return Scale(each if bias is None else each | {bias: run.gradient.flatten(2).sum(dim=2)})


RULES: Mapping[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
}


def rule_of(layer: nn.Module) -> Rule | None:
    """The rule of a layer, None when it has none: a subclass may compute something else."""
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse):
        return None
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return None
    return RULES.get(type(layer))
