"""What can be said of a picture or a text in a number, so that slices can be searched by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.units.text import words
from assay.values import Array, Column, Groups, modality


def readable(inputs: Array, columns: Sequence[Column]) -> tuple[Array, tuple[Column, ...]]:
    """The table that slices are searched in: a table as it is `(N, F)`, else derived numbers `(N, P)`, and its columns.

    A picture has the mean of its pixels (brightness) and their standard deviation (contrast); a text the number of its
    words (characters, in languages written without spaces).

    >>> from assay.values import texts
    >>> table, named = readable(texts(["a good film", ""]), [Column("text", "text", language="en")])
    >>> table.tolist(), [column.name for column in named]
    ([[3.0], [0.0]], ['num_words'])
    """
    kind = modality(columns)
    if kind == "image":
        table = np.array([(one.mean(), one.std()) for one in inputs], dtype=np.float64).reshape(-1, 2)
        return table, (Column("brightness", "numeric"), Column("contrast", "numeric"))
    if kind == "text":
        counts = [float(len(words(text, columns[0].language))) for text in inputs.tolist()]
        return np.array(counts, dtype=np.float64).reshape(-1, 1), (Column("num_words", "numeric"),)
    return inputs.astype(np.float64), tuple(columns)


def declared(inputs: Array, columns: Sequence[Column], groups: Groups) -> tuple[Array, tuple[Column, ...]]:
    """What is readable, and beside it the group columns that it does not have: `(N, P)` float64, and its columns."""
    table, read = readable(inputs, columns)
    named = {column.name for column in read}
    extra = [index for index, column in enumerate(groups.columns) if column.name not in named]
    whole = np.concatenate([table, groups.codes[:, extra]], axis=1).astype(np.float64, copy=False)
    return whole, (*read, *(groups.columns[index] for index in extra))
