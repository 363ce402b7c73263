"""Coded rows back to what people would write: names and raw values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from assay.errors import ModelError, Problem
from assay.values import Array, Column


def decode(inputs: Array, columns: Sequence[Column]) -> dict[str, list[Any]]:
    """`(N, F)` codes and numbers to raw values by column; missing (NaN, or a code outside the categories) is None."""
    if inputs.ndim != 2 or inputs.shape[1] != len(columns):
        raise ModelError(Problem(f"inputs have shape {inputs.shape}", f"(N, {len(columns)})"))
    table: dict[str, list[Any]] = {}
    for position, column in enumerate(columns):
        values = inputs[:, position]
        if column.kind == "numeric":
            table[column.name] = [float(value) if np.isfinite(value) else None for value in values]
        else:
            names = (*column.categories, None)
            codes = np.where((values >= 0) & (values < len(column.categories)), values, len(column.categories))
            table[column.name] = [names[code] for code in codes.astype(np.int64).tolist()]
    return table
