"""The one seam between the loop and many processes: whose rows, whose gradients, whose sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Workers(Protocol):
    """What the loop asks of the processes that train together. Every worker draws the same batches in the same order.

    `ready` is called once, before the optimizer is made; `rows` where a batch's rows are chosen, `backward` where the
    loss is known, `sums` where numbers of all rows are summed. `leads` says who writes whole files.
    """

    @property
    def rank(self) -> int:
        """From 0."""
        ...

    @property
    def size(self) -> int:
        """How many workers."""
        ...

    @property
    def is_sharded(self) -> bool:
        """Whether each worker holds a part of every weight."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this worker writes whole files and reports."""
        ...

    def ready(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module as the workers run it, with equal weights on all of them."""
        ...

    def rows(self, batch: Tensor) -> tuple[Tensor, float]:
        """The part of this worker, `(m,)`, of the batch's rows `(n,)`, and its weight m / n."""
        ...

    def backward(self, mean: Tensor, share: float) -> None:
        """Gradients of the mean loss of the whole batch, on every worker, from the mean over each worker's share."""
        ...

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor that is spread over the workers, put together; every worker must ask for it."""
        ...

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over the workers."""
        ...


class Alone:
    """One process: every row is its own, and nothing is exchanged. On a GPU where there is one."""

    rank, size, leads, is_sharded = 0, 1, True, False

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def ready(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module itself."""
        return module

    def rows(self, batch: Tensor) -> tuple[Tensor, float]:
        """The whole batch."""
        return batch, 1.0

    def backward(self, mean: Tensor, share: float) -> None:
        """The gradients of the mean."""
        mean.backward()  # type: ignore[no-untyped-call]

    def whole(self, tensor: Tensor) -> Tensor:
        """The tensor."""
        return tensor

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """The numbers themselves."""
        return list(numbers)
