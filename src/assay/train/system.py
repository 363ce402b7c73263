"""From a table to a system in one call."""

from __future__ import annotations

from dataclasses import replace

from assay.models import Architecture
from assay.tasks import Argmax, Classification, Identity, task_of
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.values import Data, Progress, Recipe, System, quiet

LARGE = 8192  # training rows
MIN_STEPS, MIN_EPOCHS, MAX_EPOCHS = 600, 10, 30


def train_system(
    data: Data, *, name: str = "baseline", recipe: Recipe | None = None, seed: int = 0, progress: Progress = quiet
) -> System:
    """Train on `data`'s training split and return the system: model, task, decision rule and how it was made.

    Without a recipe: `default_recipe(data)`. Raises ModelError for labels that cannot be trained on, or divergence.
    """
    chosen = default_recipe(data) if recipe is None else recipe
    if isinstance(chosen, TrainRecipe):
        chosen = replace(chosen, progress=progress)
    task = task_of(data)
    fitted = chosen.fit(data.splits["train"], data, seed)
    decision = Argmax() if isinstance(task, Classification) else Identity()
    return System(name, fitted.model, data, task, decision, chosen, (), fitted.facts, seed)


def default_recipe(data: Data) -> TrainRecipe:
    """An MLP: 64 and 64 wide with 32 ramps per number for more than 8,192 rows, else 32 wide.

    Adult: 2 CPU seconds or less, test AUC 0.924, accuracy 0.870 (gradient boosting of scikit-learn: 0.926, 0.872).
    Small tables, five folds: wine 0.98 right; diabetes a root mean squared error of 54.4 (least squares: 54.7), where
    the large network, trained for as long, overfits to 67.
    """
    rows = len(data.splits["train"])
    large = rows > LARGE
    batch_size = 512 if large else 64
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, -(-MIN_STEPS * batch_size // rows)))
    params: dict[str, object] = {"hidden": [64, 64], "num_bins": 32} if large else {"hidden": [32]}
    if not data.classes:
        params["scale_outputs"] = True
    return TrainRecipe(Architecture("mlp", params), task_of(data), TrainSettings(epochs=epochs, batch_size=batch_size))
