"""Near copies, whatever the inputs are."""

from __future__ import annotations

from collections.abc import Sequence

from assay.data.quality.near_image import near_images
from assay.data.quality.near_table import near_rows
from assay.data.quality.near_text import near_texts
from assay.parts import modality
from assay.values import Array, Column


def near_copies(inputs: Array, known: Array, columns: Sequence[Column]) -> Array:
    """For each row of `inputs (M, ...)` the place in `known (N, ...)` of one that is nearly the same, or -1.

    See `near_rows`, `near_images` and `near_texts` for what nearly means.
    """
    kind = modality(columns)
    if kind == "text":
        return near_texts(inputs, known, language=columns[0].language)
    return near_images(inputs, known) if kind == "image" else near_rows(inputs, known, columns)
