"""A network of pictures cut after its first layer: what lies on a line before an affine layer lies on one after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from assay.models.adapters.module import evaluation
from assay.models.image import ImageNetwork
from assay.values import Array


@dataclass(frozen=True)
class Entrance:
    """`first`, an affine map of raw pixels, and `rest`, from there to logits: together the module."""

    first: nn.Module
    rest: nn.Module

    def enter(self, inputs: Array) -> Array:
        """What the first part makes of inputs `(R, C, H, W)`, `(R, ...)` float32."""
        with evaluation(self.first), torch.no_grad():
            return np.asarray(self.first(_tensor(inputs)).numpy())

    def back(self, inputs: Array, gradients: Array) -> Array:
        """Gradients by inputs `(R, C, H, W)` of what has `gradients (R, ...)` by what the first part gives."""
        with evaluation(self.first):
            pixels = _tensor(inputs).requires_grad_(True)
            (found,) = torch.autograd.grad(self.first(pixels), pixels, _tensor(gradients))
        return np.asarray(found.numpy())


def entrance_of(module: nn.Module, inputs: Array) -> Entrance | None:
    """Where to cut the module, or None: not a network of this library, or one that does not begin with a convolution.

    A cut that does not give the module's own answer to the first of `inputs (R, C, H, W)` is none.
    """
    if type(module) is not ImageNetwork or module.is_mirrored or not isinstance(module.body, nn.Sequential):
        return None
    layers = list(module.body)
    if not layers or type(layers[0]) is not nn.Conv2d or _is_watched(module, layers[0]) or not len(inputs):
        return None
    found = Entrance(nn.Sequential(module.encoder, layers[0]), nn.Sequential(*layers[1:], module.head))
    with evaluation(module), torch.no_grad():
        pixels = _tensor(inputs[:1])
        is_same = torch.allclose(found.rest(found.first(pixels)), module(pixels), rtol=1e-5, atol=1e-6)
    return found if is_same else None


def _is_watched(*modules: nn.Module) -> bool:
    """Hooks may change what a layer gives, or record it."""
    return any(one._forward_hooks or one._forward_pre_hooks or one._backward_hooks for one in modules)


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))
