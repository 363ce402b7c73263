"""How an answer is taken apart: what the probes of explanations and the service share."""

from __future__ import annotations

from assay.explain.masked import (
    Explanation,
    Masked,
    background_effects,
    explain,
    masked_passes,
    num_blocks,
    num_model_rows,
    shapley,
)

__all__ = [
    "Explanation",
    "Masked",
    "background_effects",
    "explain",
    "masked_passes",
    "num_blocks",
    "num_model_rows",
    "shapley",
]
