"""The units of a table: its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.values import Array, Column


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
        """`(r, F)`, `(r, W, C, F)` and `(r, W, F)` to `(r W C, F)`.

        In bits, z ^ ((x ^ z) & mask): at 30 columns a third of the time of choosing number by number.
        """
        if rows.dtype != background.dtype or rows.dtype.kind != "f":
            chosen: Array = np.where(own, rows[:, None, None, :], background[:, :, None, :])
            return chosen.reshape(-1, rows.shape[1])
        bits = np.dtype(f"i{rows.dtype.itemsize}")
        theirs = np.ascontiguousarray(background).view(bits)[:, :, None, :]
        apart = np.ascontiguousarray(rows).view(bits)[:, None, None, :] ^ theirs
        mixed = np.negative(own.view(np.int8), dtype=bits, order="C")  # every bit where a column is kept
        np.bitwise_and(mixed, apart, out=mixed)
        np.bitwise_xor(mixed, theirs, out=mixed)
        return mixed.view(rows.dtype).reshape(-1, rows.shape[1])


def group_features(columns: Sequence[Column], group_columns: Sequence[Column]) -> dict[int, int]:
    """Sensitive columns that the model reads: place among the group columns to place among the features.

    The feature has the same name and all the categories, of which there are two or more.

    >>> sex = Column("sex", "categorical", ("f", "m"))
    >>> group_features([Column("age", "numeric"), sex], [Column("race", "categorical", ("a", "b")), sex])
    {1: 1}
    """
    features = {column.name: place for place, column in enumerate(columns) if column.kind == "categorical"}
    return {
        index: features[group.name]
        for index, group in enumerate(group_columns)
        if group.name in features
        and len(group.categories) > 1
        and set(group.categories) <= set(columns[features[group.name]].categories)
    }
