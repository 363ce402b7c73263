"""Columns as anybody may read them: no number that fewer than ten rows lie at or beyond."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from assay.values import Array, Column, Data

FEWEST_ROWS = 10  # of a group, a cell or a client, or beyond a number: below it, what is told would be of persons


def columns_told(data: Data) -> tuple[Column, ...]:
    """The columns, each number's range told as `range_told` tells that of the training rows at hand.

    A row that is there several times counts once. Limits: a range that was declared by hand is not told either, since
    nobody can tell it from one that was read.
    """
    train = data.splits.get("train")
    if train is None or all(one.kind != "numeric" for one in data.columns):
        return tuple(without_range(one) for one in data.columns)
    once = np.unique(train.rows, return_index=True)[1]
    ends = [
        range_told(train.inputs[once, at]) if one.kind == "numeric" else None for at, one in enumerate(data.columns)
    ]
    pairs = zip(data.columns, ends, strict=True)
    return tuple(one if told is None else replace(one, low=told[0], high=told[1]) for one, told in pairs)


def range_told(values: Array) -> tuple[float | None, float | None]:
    """The tenth smallest and the tenth largest number `(N,)`, rounded outward to two digits of their distance.

    Neither end says anything of the nine rows beyond it. Of fewer than twenty numbers nothing is told.

    >>> range_told(np.array([17.0, *range(20, 80), 93.0])), range_told(np.linspace(1000, 98765.4321, 500))
    ((28.0, 71.0), (2000.0, 98000.0))
    >>> range_told(np.arange(19.0))
    (None, None)
    """
    seen = np.sort(values[np.isfinite(values)].astype(np.float64))
    if len(seen) < 2 * FEWEST_ROWS:
        return None, None
    low, high = float(seen[FEWEST_ROWS - 1]), float(seen[-FEWEST_ROWS])
    if low == high:
        return low, high
    power = math.floor(math.log10(high - low)) - 1
    step = 10.0**power
    return _even(math.floor(low / step), power), _even(math.ceil(high / step), power)


def _even(num: int, power: int) -> float:
    return float(num * 10**power) if power >= 0 else num / 10**-power


def is_told(seen: Array, points: Array) -> Array:
    """Whether at least ten of the numbers `(N,)` lie at or below each point `(K,)`, and ten at or above.

    >>> is_told(np.arange(100.0), np.array([0.0, 9.0, 50.0, 95.0])).tolist()
    [False, True, True, False]
    """
    seen = np.sort(seen[np.isfinite(seen)])
    below, above = np.searchsorted(seen, points, side="right"), len(seen) - np.searchsorted(seen, points, side="left")
    found: Array = (below >= FEWEST_ROWS) & (above >= FEWEST_ROWS)
    return found


def without_range(column: Column) -> Column:
    """A number's column without its range; of pictures the range of a pixel is no secret."""
    return replace(column, low=None, high=None) if column.kind == "numeric" else column


def columns_of(listed: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    """Columns as a file lists them; of an older one, without shapes and languages. Raises TypeError."""
    found = []
    for one in listed:
        lists: dict[str, Any] = {name: tuple(one.get(name, ())) for name in ("categories", "shape")}
        found.append(Column(**{**one, **lists}))
    return tuple(found)
