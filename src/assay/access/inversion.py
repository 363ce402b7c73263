"""Rows out of one gradient of the weights: exactly at a first linear layer, by matching gradients elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.models import tensors
from assay.models.adapters.module import evaluation
from assay.values import Array

SMOOTHNESS = 1e-3  # weight of the total variation of pixels
RATE = 0.1  # of the first step, in units of the pixels' range
LARGEST = 255.0


@dataclass(frozen=True)
class Inverted:
    """Rows as the attacker recovered them, and as they were, `(n, D)` each, where the module reads them."""

    found: Array
    truth: Array
    others: Array  # (b, D): background rows, for the distance to a row's nearest neighbour
    method: str


def first_linear(module: nn.Module, inputs: Array) -> nn.Linear | None:
    """The linear layer with a bias that runs before every other layer with weights; None if there is none."""
    order: list[nn.Module] = []
    layers = [one for one in module.modules() if next(one.parameters(recurse=False), None) is not None]
    hooks = [one.register_forward_pre_hook(lambda layer, _: order.append(layer)) for one in layers]
    try:
        with evaluation(module), torch.no_grad():
            module(tensors(module, inputs[:1]))
    finally:
        for hook in hooks:
            hook.remove()
    first = order[0] if order else None
    return first if isinstance(first, nn.Linear) and first.bias is not None else None


def solve(module: nn.Module, inputs: Array, labels: Array, background: Array) -> Inverted:
    r"""What the first linear layer was given, from its gradients alone: $x = \sum_i \delta_i G_i / \sum_i \delta_i^2$.

    One row has weight gradient $G = \delta x^T$ and bias gradient $\delta$. Raises ModelError where no such
    layer comes first.

    Source: Geiping et al. 2020, proposition 3.1.
    """
    layer = first_linear(module, inputs)
    if layer is None:
        raise ModelError(Problem("no linear layer comes first", next="Match gradients instead"))
    given: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0].detach()))
    found = []
    try:
        with evaluation(module), torch.enable_grad():
            for place in range(len(inputs)):
                outputs = module(tensors(module, inputs[place : place + 1]))
                loss = functional.cross_entropy(outputs, torch.from_numpy(labels[place : place + 1]).long())
                weights, bias = torch.autograd.grad(loss, [layer.weight, layer.bias])
                wide = bias.double()
                found.append((wide @ weights.double()) / wide.square().sum().clamp_min(1e-300))
            with torch.no_grad():
                module(tensors(module, background))
    finally:
        hook.remove()
    rows = torch.cat(given).reshape(-1, layer.in_features).double().numpy()
    return Inverted(torch.stack(found).numpy(), rows[: len(inputs)], rows[len(inputs) :], "first linear layer")


def match(
    module: nn.Module, inputs: Array, labels: Array, background: Array, *, steps: int, rng: np.random.Generator
) -> Inverted:
    """Pixels whose gradient points as the given one does: Adam on signs, cosine distance and total variation.

    Source: Geiping et al. 2020, section 4.
    """
    parameters = [one for one in module.parameters() if one.requires_grad]
    found = []
    with evaluation(module), torch.enable_grad():
        for place in range(len(inputs)):
            row, label = inputs[place : place + 1], torch.from_numpy(labels[place : place + 1]).long()
            loss = functional.cross_entropy(module(tensors(module, row).float()), label)
            given = torch.autograd.grad(loss, parameters)
            start = torch.from_numpy(rng.random(row.shape).astype(np.float32))
            found.append(_matched(module, parameters, given, (start, label), steps).reshape(-1))
    truth, others = (
        np.asarray(side, dtype=np.float64).reshape(len(side), -1) / LARGEST for side in (inputs, background)
    )
    return Inverted(torch.stack(found).double().numpy(), truth, others, f"{steps} steps of gradient matching")


def _matched(
    module: nn.Module, parameters: list[nn.Parameter], given: tuple[Tensor, ...], at: tuple[Tensor, Tensor], steps: int
) -> Tensor:
    pixels, label = at[0].clone().requires_grad_(), at[1]
    optimizer = torch.optim.Adam([pixels], lr=RATE)
    length = torch.sqrt(sum((one.square().sum() for one in given), torch.zeros(())))
    for step in range(steps):
        loss = functional.cross_entropy(module(pixels * LARGEST), label)
        mine = torch.autograd.grad(loss, parameters, create_graph=True)
        inner = sum(((a * b).sum() for a, b in zip(mine, given, strict=True)), torch.zeros(()))
        own = torch.sqrt(sum((one.square().sum() for one in mine), torch.zeros(())))
        rough = pixels.diff(dim=-1).abs().mean() + pixels.diff(dim=-2).abs().mean()
        cost = 1 - inner / (own * length).clamp_min(1e-30) + SMOOTHNESS * rough
        (slope,) = torch.autograd.grad(cost, pixels)
        pixels.grad = slope.sign()
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    return pixels.detach()
