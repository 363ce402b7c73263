"""What 8 bits do to a module, while it is still trained in float32: rounded forward, gradients straight through."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from assay.models.quantised_graph import LEVELS, grid_of

LAYERS = (nn.Linear, nn.Conv2d)
MEMORY = 0.95  # of a running range, a step


class _Clipped(torch.autograd.Function):
    """Rounding to a grid; the gradient of 1 inside its 256 levels and of 0 outside (Jacob et al. 2018, section 3)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, inputs: Tensor, scale: float, zero: int) -> Tensor:
        codes = torch.round(inputs / scale) + zero
        ctx.save_for_backward((codes >= 0) & (codes <= 255))
        return (codes.clamp(0, 255) - zero) * scale

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *given: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return given[0] * inside, None, None


class RoundedWeight(nn.Module):
    """Weights at the nearest multiple of their output's scale; gradients pass as if they were not."""

    def forward(self, weight: Tensor) -> Tensor:
        """The same shape; the first axis is that of outputs, or of a table's rows."""
        with torch.no_grad():
            largest = weight.abs().flatten(1).amax(dim=1).reshape(-1, *[1] * (weight.ndim - 1))
            scale = torch.where(largest > 0, largest / LEVELS, 1.0)
            step = torch.round(weight / scale).clamp(-LEVELS, LEVELS) * scale - weight
        rounded: Tensor = weight + step
        return rounded


class FakeInt8:
    """Rounds weights and layer inputs of a module in its forward passes, until it is taken off again.

    Weights of all linear and convolutional layers, and tables, are rounded from the first step on. Inputs of the layers
    named in `whole` are watched while training, as running smallest and largest values (0 within), and rounded to the
    grid of that range after `start` training steps. `quantised` with `ranges()` then computes the same numbers.
    """

    def __init__(self, module: nn.Module, whole: frozenset[str], *, start: int) -> None:
        self.module, self.start, self.steps = module, start, 0
        self.seen: dict[str, tuple[float, float]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._rounded: list[nn.Module] = []
        for name, layer in module.named_modules():
            table = isinstance(layer, nn.Embedding) and layer.embedding_dim > 2
            if type(layer) in LAYERS or table:
                self._rounded.append(layer)
            if name in whole and type(layer) in LAYERS:
                self._handles.append(layer.register_forward_pre_hook(self._watch(name)))
        for layer in self._rounded:
            parametrize.register_parametrization(layer, "weight", RoundedWeight())

    def step(self) -> None:
        """A training step is about to be taken."""
        self.steps += 1

    def ranges(self) -> Mapping[str, tuple[float, float]]:
        """Of each watched layer's input, by its name."""
        return dict(self.seen)

    def remove(self) -> None:
        """Leave the module with its float32 weights."""
        for handle in self._handles:
            handle.remove()
        for layer in self._rounded:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)

    def _watch(self, name: str) -> object:
        def look(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if layer.training:
                self._widen(name, given[0].detach())
            if self.steps <= self.start or name not in self.seen:
                return None
            scale, zero = grid_of(*self.seen[name])
            rounded: Tensor = _Clipped.apply(given[0].float(), float(scale), zero)  # type: ignore[no-untyped-call]
            return (rounded, *given[1:])

        return look

    def _widen(self, name: str, inputs: Tensor) -> None:
        finite = torch.nan_to_num(inputs.float(), nan=0.0, posinf=0.0, neginf=0.0)
        low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
        if name in self.seen:
            before = self.seen[name]
            low, high = (MEMORY * old + (1 - MEMORY) * new for old, new in zip(before, (low, high), strict=True))
        self.seen[name] = (low, high)
