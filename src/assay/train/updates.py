"""From gradients to new weights: the optimizers, the clipped norm, and the running mean of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from assay.train.settings import TrainSettings

AVERAGE_START = 10  # the mean of the first steps reaches back less far: (1 + step) / (10 + step)


def make_optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer of the settings over the parameters that require a gradient, in one fused pass a step."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [p for p in trained if settings.decay == "all" or p.ndim >= 2]
    rest = [p for p in trained if settings.decay == "matrices" and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}]
    if rest:
        groups.append({"params": rest, "weight_decay": 0.0})
    if settings.optimizer == "sgd":
        momentum, nesterov = settings.momentum, settings.nesterov
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=momentum, nesterov=nesterov, fused=True)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate, fused=True)


def clip_gradients(
    parameters: Sequence[nn.Parameter], max_norm: float, *, whole: Callable[[Tensor], Tensor] = torch.detach
) -> float:
    """Scale all gradients so that their joint Euclidean norm is at most `max_norm`; the norm before that.

    The arithmetic of `torch.nn.utils.clip_grad_norm_`, without the pass over the gradients where nothing is clipped.
    A norm that is not finite leaves the gradients as they are: the caller stops. `whole` puts a norm together whose
    gradients are spread over workers.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norm = whole(torch.stack(torch._foreach_norm(gradients)).norm())
    number = float(norm.item())
    if number + 1e-6 > max_norm * (1 - 1e-6):  # False for NaN; the factor itself is one of tensors, in their precision
        factor = max_norm / (norm + 1e-6)
        if factor.item() < 1.0:
            torch._foreach_mul_(gradients, factor)
    return number


class Average:
    """The running mean of the weights, m <- d m + (1 - d) w after each step, d = min(decay, (1 + step) / (10 + step)).

    Running statistics of BatchNorm are averaged with the same d, so that they belong to the averaged weights; fitted
    buffers (an encoding, a vocabulary) are no statistics of training and stay as they are. Limits: a mean over steps
    lags behind by about 1 / (1 - d) of them.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live = moving_tensors(module) if decay else {}
        self.means = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self._pairs = list(self.means.values()), [tensor.detach() for tensor in self.live.values()]

    def update(self, step: int) -> None:
        """Move the means towards the weights after `step` (from 1)."""
        if self.means:
            share = min(self.decay, (1 + step) / (AVERAGE_START + step))
            torch._foreach_lerp_(*self._pairs, 1 - share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The means in the module inside, its own weights again after."""
        kept = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self.put()
        try:
            yield
        finally:
            _copy(kept, self.live)

    def put(self) -> None:
        """Put the means into the module for good."""
        _copy(self.means, self.live)

    def load(self, means: dict[str, Tensor]) -> None:
        """Take up means that were saved."""
        _copy(means, self.means)


def moving_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What training moves: parameters, and the running statistics of BatchNorm."""
    found: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.running_mean is not None and layer.running_var is not None:
            prefix = f"{name}." if name else ""
            found |= {f"{prefix}running_mean": layer.running_mean, f"{prefix}running_var": layer.running_var}
    return found


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
