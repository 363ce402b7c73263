"""What a perturbed table row or picture may look like: shared by the probes of this family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.values import Array, Column, modality


@dataclass(frozen=True)
class Ranges:
    """Per column or pixel: may it be moved by a small amount, in which range is it plausible, is it a whole number."""

    numeric: Array  # (F,) or (C, H, W) bool
    low: Array  # float64, -inf when not declared
    high: Array
    whole: Array  # bool: every value seen is a whole number


def ranges(columns: Sequence[Column], inputs: Array) -> Ranges:
    """Read from the declaration, and whole numbers from the rows at hand `(M, F)` or `(M, C, H, W)`.

    >>> ranges([Column("age", "numeric", low=17, high=90)], np.array([[20.0], [31.0]])).whole.tolist()
    [True]
    """
    numeric = np.array([column.kind in ("numeric", "image") for column in columns], dtype=bool)
    low = np.array([-np.inf if column.low is None else column.low for column in columns], dtype=np.float64)
    high = np.array([np.inf if column.high is None else column.high for column in columns], dtype=np.float64)
    if modality(columns) == "image":  # one declaration for all pixels
        seen, shape = np.where(np.isfinite(inputs), inputs, 0), inputs.shape[1:]
        numeric, low, high = (np.broadcast_to(one.reshape(1, 1, 1), shape) for one in (numeric, low, high))
        return Ranges(numeric, low, high, np.broadcast_to((seen == np.round(seen)).all(), shape))
    # Column by column: rows may be many. A number that is not finite says nothing.
    whole = [bool(((values == np.round(values)) | ~np.isfinite(values)).all()) for values in inputs.T]
    return Ranges(numeric, low, high, numeric & np.array(whole, dtype=bool))


def box(inputs: Array, known: Ranges, radius: float) -> tuple[Array, Array]:
    """Lowest and highest point `(M, ...)` within `radius` of each row, as a share of each column's plausible range.

    A row outside the plausible range may move back, never further out; a whole-number column moves by whole numbers;
    categorical, missing and unranged columns do not move.
    """
    inputs = inputs.astype(np.float64)
    width = known.high - known.low
    step = np.where(known.numeric & np.isfinite(width), radius * width, 0.0)
    step = np.where(known.whole, np.floor(step + 1e-9), step)
    low = np.minimum(inputs, np.maximum(known.low, inputs - step))
    high = np.maximum(inputs, np.minimum(known.high, inputs + step))
    still = (step == 0) | np.isnan(inputs)
    return np.where(still, inputs, low), np.where(still, inputs, high)


def settle(points: Array, low: Array, high: Array, known: Ranges) -> Array:
    """Points as a row would hold them: inside the box, whole numbers rounded, float32."""
    points = np.clip(points, low, high)
    rounded = np.clip(np.round(points), low, high)  # the ends of the box of a whole-number column are whole
    return np.where(known.whole, rounded, points).astype(np.float32)
