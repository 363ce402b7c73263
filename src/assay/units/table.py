"""The units of a table: its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from assay.values import Array, Column

MOST_COLUMNS = 256  # each a unit of its own; of more, those that move the answers most, and the others in groups
NUM_ALONE, NUM_TOGETHER = 24, 8


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


@dataclass(frozen=True)
class SomeColumns:
    """Units of a wide table: the columns at `alone` by themselves, all others in eight groups of neighbours.

    >>> units = SomeColumns(tuple(f"c{place}" for place in range(300)), (7, 299))
    >>> units.count, units.owner[[6, 7, 8, 298, 299]].tolist(), units.spans[-1]
    (10, [2, 0, 2, 9, 1], (263, 300))
    """

    names: tuple[str, ...]  # of all columns
    alone: tuple[int, ...]

    @property
    def count(self) -> int:
        """U: columns by themselves, and groups."""
        return len(self.alone) + NUM_TOGETHER

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The first and last column of each group, from 1; those in between that stand alone are not in it."""
        ends = [len(self.names) * place // NUM_TOGETHER for place in range(NUM_TOGETHER + 1)]
        return tuple((first + 1, last) for first, last in pairwise(ends))

    @cached_property
    def owner(self) -> Array:
        """Which unit each column `(F,)` belongs to."""
        found = np.concatenate(
            [np.full(last - first + 1, len(self.alone) + at) for at, (first, last) in enumerate(self.spans)]
        )
        found[list(self.alone)] = np.arange(len(self.alone))
        return found

    def unused(self, rows: Array) -> Array:
        """`(r, U)` bool: no unit is ever empty."""
        return np.zeros((len(rows), self.count), dtype=bool)

    def mix(self, rows: Array, own: Array, background: Array) -> Array:
        """`(r, F)`, `(r, W, C, U)` and `(r, W, F)` to `(r W C, F)`."""
        return Columns(self.names).mix(rows, own.take(self.owner, axis=3), background)


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
