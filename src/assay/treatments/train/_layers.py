"""Layers whose gradients of single rows follow from one forward and one backward pass, and in which form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.treatments.train._forms import Filter, Form, Lookup, Part, Product, Scale, Scratch
from assay.treatments.train._windows import Geometry, overlapping, sizes_of, unfolded


@dataclass(frozen=True)
class Run:
    """One call of a layer: what it was given, and the gradient of the summed loss by what it answered."""

    given: Tensor
    gradient: Tensor
    scratch: Scratch = field(default_factory=Scratch)


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
    return Product([Part(weight, bias, _weight(layer).shape, given)], gradient, scratch=run.scratch)


def convolution(name: str, layer: nn.Module, run: Run) -> Form:
    """`(n, C, H, W)` or `(n, C, L)`: every place of the filter is one term of the product."""
    weight, bias = _names(name, layer)
    geometry, groups = _geometry(layer), int(getattr(layer, "groups", 1))
    shape = _weight(layer).shape
    pictures = run.given if run.given.ndim == 4 else run.given[:, :, None]

    def unfold(given: Tensor) -> Tensor:
        return unfolded(given, geometry, groups=groups)

    def windows(given: Tensor) -> list[Tensor]:
        return overlapping(given, geometry, run.scratch)

    def fold(total: Tensor) -> Tensor:  # (G, kernel, C / G, O / G) to (O, C / G, kernel)
        return total.view(groups, -1, shape[1], shape[0] // groups).permute(0, 3, 2, 1).reshape(shape)

    form = Filter(unfold, fold, windows, *sizes_of(pictures.shape[1:], geometry), groups)
    gradient = run.gradient.flatten(2).transpose(1, 2)
    return Product([Part(weight, bias, shape, pictures)], gradient, form, scratch=run.scratch)


def _geometry(layer: nn.Module) -> Geometry:
    """One dimension is two of which the first is 1."""
    kernel, stride, padding, dilation = (
        (int(size[0]), int(size[-1]))
        for size in (getattr(layer, part) for part in ("kernel_size", "stride", "padding", "dilation"))
    )
    if isinstance(layer, nn.Conv1d):
        return Geometry((1, kernel[1]), (1, stride[1]), (0, padding[1]), (1, dilation[1]))
    return Geometry(kernel, stride, padding, dilation)


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
