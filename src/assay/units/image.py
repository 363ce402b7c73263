"""The units of an image: patches of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from assay.values import Array

GRID = 4  # patches along each side: 16 units, few enough for a Shapley value of each


@dataclass(frozen=True)
class Patches:
    """A grid of at most 4 x 4 patches; all channels of a patch go together, edges shared as evenly as may be.

    >>> Patches((1, 28, 28)).names[:2], Patches((1, 28, 28)).count
    (('patch=1,1', 'patch=1,2'), 16)
    """

    shape: tuple[int, ...]

    @property
    def sides(self) -> tuple[int, int]:
        """Patches down and across."""
        return min(GRID, self.shape[1]), min(GRID, self.shape[2])

    @property
    def count(self) -> int:
        """U, the number of patches."""
        return self.sides[0] * self.sides[1]

    @property
    def names(self) -> tuple[str, ...]:
        """Row and column of each patch, from 1 at the top left."""
        down, across = self.sides
        return tuple(f"patch={i + 1},{j + 1}" for i in range(down) for j in range(across))

    @cached_property
    def owner(self) -> Array:
        """Which unit each pixel belongs to, `(H, W)`."""
        _, height, width = self.shape
        down, across = self.sides
        found: Array = (np.arange(height) * down // height)[:, None] * across + np.arange(width) * across // width
        return found

    def unused(self, rows: Array) -> Array:
        """`(r, U)` bool: no unit is ever empty."""
        return np.zeros((len(rows), self.count), dtype=bool)

    def mix(self, rows: Array, own: Array, background: Array) -> Array:
        """`(r, C, H, W)`, `(r, W, C, U)` and `(r, W, C, H, W)` to `(r W C, C, H, W)`, of the rows' type."""
        kept = own[..., self.owner][:, :, :, None]
        mixed: Array = np.where(kept, rows[:, None, None], background[:, :, None].astype(rows.dtype, copy=False))
        return mixed.reshape(-1, *rows.shape[1:])
