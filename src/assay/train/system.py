"""From a table to a system in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from assay.errors import ModelError, Problem, UsageError
from assay.models import BUILDERS, Architecture
from assay.tasks import decision_of, task_of
from assay.train.checkpoints import Checkpoints
from assay.train.images import image_recipe
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.train.streams import check_seed
from assay.train.texts import text_recipe
from assay.values import Data, Progress, Recipe, System, quiet

LARGE = 8192  # training rows
MIN_STEPS, MIN_EPOCHS, MAX_EPOCHS = 600, 10, 30
IMAGE_EPOCHS = 3  # or 300 steps; `image_recipe` takes more
VAST = 1_000_000  # training rows
MAX_EXAMPLES = 20_000_000  # seen by one training of a table: a pass over more rows is still made once


def train_system(
    data: Data,
    *,
    name: str = "baseline",
    recipe: Recipe | None = None,
    seed: int = 0,
    progress: Progress = quiet,
    checkpoints: Checkpoints | None = None,
) -> System:
    """Train on `data`'s training split and return the system: model, task, decision rule and how it was made.

    Without a recipe: `default_recipe(data)`. With `checkpoints` a run that was killed goes on where it stood. Raises
    ModelError for labels that cannot be trained on, divergence, or checkpoints of another run; UsageError for
    checkpoints of a recipe that has a loop of its own, and for a seed that is not 0 to 2^32 - 1.
    """
    check_seed(seed)
    chosen = default_recipe(data) if recipe is None else recipe
    if checkpoints is not None and not isinstance(chosen, TrainRecipe):
        raise UsageError(Problem(f"a {type(chosen).__name__} makes no checkpoints", "TrainRecipe", "Leave them out"))
    task, made = task_of(data), chosen
    if isinstance(chosen, TrainRecipe):
        made = replace(chosen, progress=progress, checkpoints=checkpoints, is_watched=True)
        # A team is of one run: whoever trains again brings another.
        chosen = replace(chosen, workers=None).resolved(data.columns)
    fitted = made.fit(data.splits["train"], data, seed)
    return System(name, fitted.model, data, task, decision_of(task), chosen, (), fitted.facts, seed)


def recipe_for(
    data: Data,
    *,
    model: str = "",
    params: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> TrainRecipe:
    """The default recipe of the data with another architecture, parameters or settings in places.

    Parameters of the default architecture stay where they are not named; those of another one are its own defaults.
    Raises ModelError for an unknown architecture, UsageError for unknown settings, with what is allowed.
    """
    base = default_recipe(data)
    known = {one.name for one in fields(TrainSettings)}
    odd = [
        Problem(f"there is no setting {name!r}", ", ".join(sorted(known)))
        for name in settings or {}
        if name not in known
    ]
    if odd:
        raise UsageError(odd)
    name = model or base.architecture.name
    if name not in BUILDERS:
        raise ModelError(Problem(f"architecture {name!r} is not known", ", ".join(sorted(BUILDERS))))
    own = base.architecture.params if name == base.architecture.name else {}
    architecture = Architecture(name, {**own, **(params or {})})
    base = text_recipe(data, model=name) if data.modality == "text" else base
    return TrainRecipe(architecture, base.task, replace(base.settings, **(settings or {})))


def default_recipe(data: Data) -> TrainRecipe:
    """The recipe of the kind of data: `image_recipe` (3 passes or 300 steps), `text_recipe` (a GRU), or an MLP.

    The MLP is 64 and 64 wide with 32 ramps per number for more than 8,192 rows, else 32 wide.

    At most twenty million examples are seen (or one pass): on 1.44 million made rows one pass already reaches the best
    AUC there is, 0.802. Adult: 2 CPU seconds or less, test AUC 0.924, accuracy 0.870 (gradient boosting of
    scikit-learn: 0.926, 0.872).
    Small tables, five folds: wine 0.98 right; diabetes a root mean squared error of 54.4 (least squares: 54.7), where
    the large network, trained for as long, overfits to 67.
    Pictures, 5,000 of Fashion-MNIST's training rows, two seeds, validation: 0.860 in 16 CPU seconds; LeNet trained for
    as long 0.854. Films' snippets, two seeds, validation: 0.789 in 6 CPU seconds; LSTM 0.779 in 6, Transformer encoder
    0.757 in 9. Limits: nothing is flipped; the network for pictures normalises over batches, which `dp_sgd` refuses:
    give it `norm="group"`.
    """
    rows = len(data.splits["train"])
    if data.modality == "image":
        return image_recipe(data, epochs=IMAGE_EPOCHS)
    if data.modality == "text":
        return text_recipe(data)
    large = rows > LARGE
    batch_size = 2048 if rows > VAST else 512 if large else 64
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, -(-MIN_STEPS * batch_size // rows)), max(1, MAX_EXAMPLES // rows))
    params: dict[str, object] = {"hidden": [64, 64], "num_bins": 32} if large else {"hidden": [32]}
    if task_of(data).name == "regression":
        params["scale_outputs"] = True
    return TrainRecipe(Architecture("mlp", params), task_of(data), TrainSettings(epochs=epochs, batch_size=batch_size))
