"""The sum of clipped per-example gradients, from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.treatments.train._row_gradients import MIN_NORM, Losses, RowGradients


def clipped_sums(
    module: nn.Module, inputs: Tensor, losses: Losses, *, max_grad_norm: float
) -> tuple[dict[str, Tensor], Tensor]:
    r"""$\sum_i g_i \min(1, C/\|g_i\|_2)$ by parameter name, and the norms `(n,)`; C = `max_grad_norm`.

    For a linear layer with inputs a and output gradients d, example i has $\|g_i\|^2 = \|a_i\|^2\|d_i\|^2$ (and
    $\|d_i\|^2$ for its bias), so norms need no per-example gradient, and the sum is one product $(c \odot d)^T a$ with
    c the clipping factors: the arithmetic of an ordinary step. With a sequence axis the norm is
    $\sum_{tu} (a_t \cdot a_u)(d_t \cdot d_u)$. Holds only while no row's output depends on another row. Each linear
    layer must run exactly once. Raises ModelError when it does not.

    Source: Bu et al. 2023, "Differentially Private Optimization on Large Model at Small Cost", section 3.
    """
    layers, given, gradients = _one_pass(module, inputs, losses)
    squared = torch.zeros(len(inputs))
    for name, gradient in gradients.items():
        squared += _squared_norms(given[name], gradient, has_bias=layers[name].bias is not None)
    norms = squared.sqrt()
    factors = (max_grad_norm / norms.clamp_min(MIN_NORM)).clamp_max(1.0)
    sums: dict[str, Tensor] = {}
    for name, gradient in gradients.items():
        scaled = gradient * factors.reshape(-1, *[1] * (gradient.ndim - 1))
        flat, seen = scaled.flatten(0, -2), given[name].flatten(0, -2)
        sums[f"{name}.weight"] = flat.T @ seen
        if layers[name].bias is not None:
            sums[f"{name}.bias"] = flat.sum(dim=0)
    return sums, norms


def _one_pass(
    module: nn.Module, inputs: Tensor, losses: Losses
) -> tuple[dict[str, nn.Linear], dict[str, Tensor], dict[str, Tensor]]:
    """The linear layers, what each was given, and the gradient of the summed loss by what each answered."""
    layers = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
    given: dict[str, Tensor] = {}
    answered: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def record(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in given:
                raise ModelError(Problem(f"layer {name!r} runs more than once in a pass", "once"))
            given[name] = arguments[0].detach()
            # Parameters ask for no gradient here, so the first layer's output is where the graph begins.
            answered[name] = output if output.requires_grad else output.requires_grad_()
            return output

        return record

    parameters = list(module.parameters())
    asked = [parameter.requires_grad for parameter in parameters]
    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        outputs = module(inputs)
        gradients = torch.autograd.grad(losses(outputs, torch.arange(len(inputs))).sum(), list(answered.values()))
    finally:
        for handle in handles:
            handle.remove()
        for parameter, before in zip(parameters, asked, strict=True):
            parameter.requires_grad_(before)
    return layers, given, dict(zip(answered, gradients, strict=True))


def _squared_norms(given: Tensor, gradient: Tensor, *, has_bias: bool) -> Tensor:
    if given.ndim == 2:
        scale = given.square().sum(dim=1) + (1.0 if has_bias else 0.0)
        return gradient.square().sum(dim=1) * scale
    if given.ndim != 3:
        raise ModelError(Problem(f"a linear layer was given {given.ndim} axes", "(n, in) or (n, T, in)"))
    between = gradient @ gradient.transpose(1, 2)  # (n, T, T)
    result = ((given @ given.transpose(1, 2)) * between).sum(dim=(1, 2))
    if has_bias:
        result = result + gradient.sum(dim=1).square().sum(dim=1)
    return result.clamp_min(0)


def only_linear(module: nn.Module) -> bool:
    """Whether every trained parameter belongs to a plain linear layer, and to one only."""
    layers = [layer for layer in module.modules() if type(layer) is nn.Linear]
    own = {id(parameter) for layer in layers for parameter in layer.parameters()}
    count = sum(len(list(layer.parameters())) for layer in layers)
    return bool(own) and count == len(own) and all(id(parameter) in own for parameter in module.parameters())


class ClippedSums:
    """`clipped_sums` for modules made of linear layers, gradients of single rows (`RowGradients`) for others."""

    def __init__(self, module: nn.Module, *, max_grad_norm: float) -> None:
        self.module = module
        self.max_grad_norm = max_grad_norm
        self.rows = None if only_linear(module) else RowGradients(module, max_grad_norm=max_grad_norm)
        self.method = "one forward and one backward pass" if self.rows is None else "one gradient a row"

    def __call__(self, inputs: Tensor, losses: Losses) -> tuple[dict[str, Tensor], Tensor]:
        """Sums by parameter name, and norms `(n,)`."""
        if self.rows is None:
            return clipped_sums(self.module, inputs, losses, max_grad_norm=self.max_grad_norm)
        return self.rows(inputs, losses)
