"""Where a run stands: all that a step reads or changes, and the form in which a checkpoint keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.train.shards import is_spread
from assay.train.updates import Average, moving_tensors
from assay.train.watching import Watch


@dataclass
class Position:
    """The plain numbers of a run. A point of the curve is one epoch."""

    step: int = 0
    epoch: int = 0  # finished epochs
    taken: int = 0  # batches of the present epoch that were trained on
    total: float = 0.0  # of the present epoch: sum of losses, and of rows
    seen: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    is_over: bool = False
    resumed: int = 0  # how often this run was taken up again
    spent: dict[str, Any] = field(default_factory=dict)  # what was used before it was taken up again, as an Energy


@dataclass
class State:
    """A run's moving parts. `order` draws the batches, `noise` the augmentation; dropout has torch's own generator."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    watch: Watch
    order: torch.Generator
    noise: torch.Generator
    at: Position = field(default_factory=Position)
    epoch_order: Tensor | None = None  # the order generator's state at the beginning of the present epoch

    def batches(self, num_rows: int, batch_size: int) -> tuple[Tensor, ...]:
        """The batches of the present epoch that are left; every row once an epoch, in an order of its own."""
        if self.epoch_order is None:
            self.epoch_order = self.order.get_state()
        else:  # taken up again: draw the same order once more
            self.order.set_state(self.epoch_order)
        rows = torch.randperm(num_rows, generator=self.order)
        return torch.split(rows, batch_size)[self.at.taken :]

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.at.epoch += 1
        self.at.taken, self.at.total, self.at.seen, self.epoch_order = 0, 0.0, 0.0, None

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name, and plain numbers: all it takes to go on to the same bits.

        Raises ModelError when a weight is not finite: such a state is not worth going on from.
        """
        for name, tensor in moving_tensors(self.module).items():
            if not torch.isfinite(_held(tensor)).all():
                raise ModelError(Problem(f"{name} is not finite after step {self.at.step}", next="Train slower"))
        found = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for number, parameter in enumerate(self._parameters()):
            for key, tensor in self.optimizer.state.get(parameter, {}).items():
                if tensor is not None:  # sgd without momentum
                    found[f"optimizer.{number}.{key}"] = tensor
        found |= {f"average.{name}": tensor for name, tensor in self.average.means.items()}
        found |= {f"best.{name}": tensor for name, tensor in self.watch.weights.items()}
        found |= {"generator.torch": torch.get_rng_state(), "generator.noise": self.noise.get_state()}
        found["generator.order"] = self.order.get_state() if self.epoch_order is None else self.epoch_order
        numbers = asdict(self.at) | {"best": self.watch.best, "waited": self.watch.waited}
        return found, numbers | {"is_between_epochs": self.epoch_order is None}

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Stand where `dump` was called."""
        numbers = dict(numbers)
        between = numbers.pop("is_between_epochs")
        self.watch.best, self.watch.waited = numbers.pop("best"), numbers.pop("waited")
        for name, value in numbers.items():
            setattr(self.at, name, value)
        self.module.load_state_dict(_under("module.", tensors))
        parameters = self._parameters()
        for name, tensor in _under("optimizer.", tensors).items():
            number, key = name.split(".", 1)
            parameter = parameters[int(number)]
            # In the parameter's own memory layout: fused optimizers walk through all of them side by side.
            own = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor.clone()
            self.optimizer.state[parameter][key] = own.detach()
        self.average.load(_under("average.", tensors))
        self.watch.weights = _under("best.", tensors)
        torch.set_rng_state(tensors["generator.torch"])
        self.noise.set_state(tensors["generator.noise"])
        if between:
            self.order.set_state(tensors["generator.order"])
        else:
            self.epoch_order = tensors["generator.order"]

    def like(self, name: str) -> Tensor | None:
        """What a saved tensor of this name is to lie like: a weight here and now; None for any other."""
        part, _, rest = name.partition(".")
        if part == "optimizer":
            return self._parameters()[int(rest.split(".", 1)[0])]
        return self.module.state_dict().get(rest) if part in ("module", "average", "best") else None

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _held(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if is_spread(tensor) else tensor


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
