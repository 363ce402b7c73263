"""What a probe may mask, swap or perturb: columns of a table, patches of an image, words of a text.

Each modality defines its units once, so that a probe is written once for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from assay.units.image import Patches
from assay.units.table import MOST_COLUMNS, NUM_ALONE, NUM_TOGETHER, Columns, SomeColumns, group_features
from assay.units.text import Words
from assay.values import Array, Column, modality

__all__ = [
    "Columns",
    "Ground",
    "Patches",
    "SomeColumns",
    "Units",
    "Words",
    "group_features",
    "is_wide",
    "num_units",
    "of",
]


class Units(Protocol):
    """U units of one input. Units that are not kept come from a background row, or are left out (words)."""

    @property
    def count(self) -> int:
        """U, the same for every input; an input with fewer has units that change nothing."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """What each unit is called in a slice; empty when units have no fixed meaning (the third word of a text)."""
        ...

    def unused(self, rows: Array) -> Array:
        """`(r, U)` bool: units of rows `(r, ...)` that hold nothing, so that masking them changes nothing."""
        ...

    def mix(self, rows: Array, own: Array, background: Array) -> Array:
        """Rows `(r, ...)`, units `own (r, W, C, U)` kept, the others of background `(r, W, ...)`: `(r W C, ...)`."""
        ...


def of(columns: Sequence[Column]) -> Units:
    """The units of inputs with these columns.

    >>> of([Column("age", "numeric"), Column("job", "categorical", ("a", "b"))]).names
    ('age', 'job')
    """
    kind = modality(columns)
    if kind == "image":
        return Patches(columns[0].shape)
    return Words(columns[0].language) if kind == "text" else Columns(tuple(column.name for column in columns))


def is_wide(columns: Sequence[Column]) -> bool:
    """Whether a table has so many columns that few of them are explained by themselves."""
    return len(columns) > MOST_COLUMNS  # pictures and texts are one column


def num_units(columns: Sequence[Column]) -> int:
    """U, how many units of an input are explained.

    >>> num_units([Column(str(place), "numeric") for place in range(256)]), num_units([Column("", "numeric")] * 257)
    (256, 32)
    """
    return NUM_ALONE + NUM_TOGETHER if is_wide(columns) else of(columns).count


@dataclass(frozen=True)
class Ground:
    """What takes the place of units that are masked: background rows `(b, ...)`, and how they are mixed in."""

    background: Array
    units: Units

    @cached_property
    def count(self) -> int:
        """U, how many units an input has."""
        return self.units.count
