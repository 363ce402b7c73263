"""Coded rows back to what people would write: names and raw values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from assay.errors import ModelError, Problem
from assay.parts import modality
from assay.values import Array, Column


def check_inputs(inputs: Array, columns: Sequence[Column]) -> None:
    """Raise ModelError unless inputs are what the columns declare: `(N, F)`, `(N, C, H, W)` or texts `(N,)`."""
    kind = modality(columns)
    if kind == "text":
        fine, allowed = inputs.ndim == 1 and inputs.dtype.kind in "TU", "texts (N,)"
    else:
        shape = columns[0].shape if kind == "image" else (len(columns),)
        fine = inputs.shape[1:] == shape and inputs.ndim == len(shape) + 1 and inputs.dtype.kind in "biuf"
        allowed = f"numbers (N, {', '.join(map(str, shape))})"
    if not fine:
        raise ModelError(Problem(f"inputs have shape {inputs.shape} and type {inputs.dtype}", allowed))


def decode(inputs: Array, columns: Sequence[Column]) -> dict[str, list[Any]]:
    """Inputs to raw values by column: codes to names, texts, pictures as nested lists `(C, H, W)`.

    Missing (NaN, or a code outside the categories) is None. Raises ModelError for inputs that are not of the columns.
    """
    check_inputs(inputs, columns)
    if modality(columns) != "table":
        return {columns[0].name: inputs.tolist()}
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
