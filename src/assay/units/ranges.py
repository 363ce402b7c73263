"""What a perturbed table row or picture may look like: how far a small change goes, and what it must stay within."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.values import Array, Column, modality

USUAL_RADIUS = 0.05  # of a table column's plausible range


def radius_of(columns: Sequence[Column]) -> tuple[float, str]:
    """The usual radius as a share of the plausible range, and in words.

    Pictures: 8 of 255 levels in colour (Croce and Hein 2020, table 2: CIFAR-10), 0.1 of the range in grey, about a
    third of what MNIST models are trained against (Madry et al. 2018, section 5).

    >>> radius_of([Column("image", "image", low=0, high=255, shape=(3, 32, 32))])
    (0.03137254901960784, '8/255 of the range')
    """
    if modality(columns) == "table":
        return USUAL_RADIUS, f"{USUAL_RADIUS} of each plausible range"
    return (0.1, "0.1 of the range") if columns[0].shape[0] == 1 else (8 / 255, "8/255 of the range")


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
