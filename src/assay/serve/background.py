"""What an answer is compared with when a caller names nothing better: rows made up from the columns' ranges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.values import Array, Column, modality, texts

__all__ = ["ABOUT", "NUM_ROWS", "background_of", "synthetic_rows"]

NUM_ROWS = 64
ABOUT = {
    "table": (
        "64 made-up rows: each column spread evenly over its training range or its categories, independently of the "
        "others. They are nobody's data and no population: send `background` rows to compare with people like these"
    ),
    "image": (
        "one grey picture, halfway between the lowest and the highest pixel: a patch that is left out is grey, and so "
        "the picture is none that the model was trained on. Send `background` pictures to fill the patches with theirs"
    ),
    "text": "the empty text: a run of words that is left out is gone, so that some texts asked are no sentences",
}


def background_of(columns: Sequence[Column], *, seed: int = 0) -> Array:
    """Rows that hold no row of any training data: see `ABOUT` for each kind of input.

    >>> background_of([Column("text", "text", language="en")]).tolist()
    ['']
    """
    kind = modality(columns)
    if kind == "text":
        return texts([""])
    if kind == "image":
        low, high = columns[0].low or 0.0, columns[0].high or 255.0
        return np.full((1, *columns[0].shape), round((low + high) / 2), dtype=np.uint8)
    return synthetic_rows(columns, seed=seed)


def synthetic_rows(columns: Sequence[Column], *, num_rows: int = NUM_ROWS, seed: int = 0) -> Array:
    """Rows `(num_rows, F)` that fill each column's range evenly (a Latin hypercube), columns independent.

    A sample of training rows would be the usual reference, but it is personal data, and only an owner's sealed part
    may hold that. Limits: no row is a person, some may be impossible, and a column with a long tail is over-drawn
    there, so the base value is not the average answer to the people served. Source: McKay et al. 1979, section 2.

    >>> synthetic_rows([Column("age", "numeric", low=0, high=40)], num_rows=4).ravel().round().tolist()
    [25.0, 5.0, 15.0, 35.0]
    """
    rng = np.random.default_rng(seed)
    rows = np.empty((num_rows, len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        place = rng.permutation(num_rows)
        if column.kind == "categorical":
            rows[:, index] = place % len(column.categories) if column.categories else -1
        else:
            low, high = column.low or 0.0, column.high or 0.0
            rows[:, index] = low + (high - low) * (place + 0.5) / num_rows
    return rows
