"""What the loop saw of each row: its loss at every visit, kept on request and by its owner only."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from assay.values import Array

FACT = "loss_trace"  # its name among the facts of a run; written out it is a digest, because it has one row per person


class LossTrace:
    """Losses `(epochs, N)` as they were met: before the step, in training mode; NaN where a row was not visited.

    >>> trace = LossTrace(3)
    >>> trace(0, Tensor([2, 0]).long(), Tensor([0.5, 1.5]))
    >>> trace.losses().round(1).tolist()
    [[1.5, nan, 0.5]]
    """

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.epochs: list[Array] = []

    def __call__(self, epoch: int, rows: Tensor, losses: Tensor) -> None:
        """Write down the losses `(n,)` of the rows `(n,)` of one batch."""
        while len(self.epochs) <= epoch:
            self.epochs.append(np.full(self.num_rows, np.nan, dtype=np.float32))
        self.epochs[epoch][rows.numpy()] = losses.detach().numpy()

    def losses(self) -> Array:
        """`(epochs, N)` float32."""
        return np.stack(self.epochs) if self.epochs else np.empty((0, self.num_rows), dtype=np.float32)
