"""The one seam between the loop and many processes: whose rows, whose gradients, whose sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn


class Workers(Protocol):
    """What the loop asks of the processes that train together. Every worker draws the same batches in the same order.

    `rows` is called where a batch's rows are chosen, `gradients` where they are ready and before they are clipped,
    `sums` where numbers of all rows are summed. `leads` says who writes checkpoints and shows progress.
    """

    @property
    def leads(self) -> bool:
        """Whether this worker writes files and reports."""
        ...

    def rows(self, batch: Tensor) -> Tensor:
        """The part of this worker, `(m,)`, of the batch's rows `(n,)`."""
        ...

    def gradients(self, parameters: Sequence[nn.Parameter], share: float) -> None:
        """In place: the sum over workers of `share` (its rows over the batch's) times the mean gradient of its rows."""
        ...

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over the workers."""
        ...


class Alone:
    """One process: every row is its own, and nothing is exchanged."""

    leads = True

    def rows(self, batch: Tensor) -> Tensor:
        """The whole batch."""
        return batch

    def gradients(self, parameters: Sequence[nn.Parameter], share: float) -> None:
        """Nothing to add."""

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """The numbers themselves."""
        return list(numbers)
