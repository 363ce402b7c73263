"""A norm that takes the place of BatchNorm, where what BatchNorm remembers of the rows must not be kept."""

from __future__ import annotations

from dataclasses import replace

from assay.models import Architecture
from assay.train import TrainRecipe
from assay.values import Data


def without_batch_norm(recipe: TrainRecipe, data: Data, *, why: str) -> tuple[TrainRecipe, dict[str, str]]:
    """The recipe with GroupNorm where its architecture has BatchNorm and offers both; and what was said of it."""
    resolved = recipe.resolved(data.columns)
    if resolved.architecture.params.get("norm") != "batch":
        return recipe, {}
    params = {**resolved.architecture.params, "norm": "group"}
    changed = replace(resolved, architecture=Architecture(resolved.architecture.name, params))
    return changed, {"replaced": f"BatchNorm by GroupNorm: {why}"}
