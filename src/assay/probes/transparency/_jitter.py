"""The same rows within noise: what an explanation should not depend on."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.units import pixels, typos
from assay.values import Array, modality

_JITTER = 0.05  # of the interquartile range
_PIXEL_JITTER = 0.02  # of the range


def jittered(query: Query, rows: Array, name: str = "jitter") -> Array:
    """The test rows with a little noise: on numeric columns (by the background's quartiles), pixels, or one word."""
    (first, *_), kind = query.columns, modality(query.columns)
    if kind == "image":
        known = (float(query.low.item()), float(query.high.item()))
        return pixels.noisy(query.inputs[rows], _PIXEL_JITTER, known, query.rng(name))
    if kind == "text":
        return typos.slipped_once(query.inputs[rows], language=first.language, rng=query.rng(name))
    return _moved(query, rows, name)


def _moved(query: Query, rows: Array, name: str) -> Array:
    inputs, background = query.inputs[rows].astype(np.float64), query.background
    noise = query.rng(name).standard_normal(inputs.shape)
    low, high = np.quantile(background, [0.25, 0.75], axis=0)
    for place in np.flatnonzero(np.isnan(low) & query.numeric):  # a number is missing
        low[place], high[place] = np.nanquantile(background[:, place], [0.25, 0.75])
    moved = inputs + _JITTER * (high - low) * noise
    moved = np.where((background == np.round(background)).all(axis=0), np.round(moved), moved)
    # A value that is already outside the plausible range is an honest one: it bounds its own noise.
    least = np.array([-np.inf if column.low is None else column.low for column in query.columns])
    most = np.array([np.inf if column.high is None else column.high for column in query.columns])
    moved = np.clip(moved, np.minimum(inputs, least), np.maximum(inputs, most))
    return np.where(query.numeric, moved, inputs).astype(np.float32)
