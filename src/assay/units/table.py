"""The units of a table: its columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from assay.values import Array


@dataclass(frozen=True)
class Columns:
    """One unit a column; a column that is not kept takes the background row's value.

    >>> Columns(("a", "b")).mix(np.ones((1, 2)), np.array([[[[True, False]]]]), np.zeros((1, 1, 2))).tolist()
    [[1.0, 0.0]]
    """

    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """F, the number of columns."""
        return len(self.names)

    def unused(self, rows: Array) -> Array:
        """`(r, U)` bool: no unit is ever empty."""
        return np.zeros((len(rows), self.count), dtype=bool)

    def mix(self, rows: Array, own: Array, background: Array) -> Array:
        """`(r, F)`, `(r, W, C, F)` and `(r, W, F)` to `(r W C, F)`."""
        mixed: Array = np.where(own, rows[:, None, None, :], background[:, :, None, :])
        return mixed.reshape(-1, rows.shape[1])
