"""How a network for texts is trained here: few parameters, few passes, one core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assay.errors import ModelError, Problem
from assay.models import Architecture
from assay.tasks import task_of
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.values import Data

BATCH_SIZE = 128
MIN_STEPS, MAX_EPOCHS = 100, 60


def text_recipe(
    data: Data, *, model: str = "gru", epochs: int | None = None, params: Mapping[str, Any] | None = None
) -> TrainRecipe:
    """A text classifier of any architecture made here, with AdamW, a cosine curve and averaged weights.

    Without `epochs` two passes (three where n-grams are read: by `ngrams`, and by all in Chinese), more where they
    would be fewer than 100 steps. Each token is hidden one time in ten. Limits: the settings were chosen on validation
    rows of movie snippets and Chinese reviews (see `benchmarks/accuracy_text.py`) and suit some 10,000 short texts.
    Raises ModelError for data that are not texts.
    """
    if data.modality != "text":
        raise ModelError(Problem(f"{data.name} holds {data.modality}s", "texts"))
    rows, passes = len(data.splits["train"]), _passes(data, model) if epochs is None else epochs
    settings = TrainSettings(
        epochs=max(passes, min(MAX_EPOCHS, -(-MIN_STEPS * BATCH_SIZE // max(rows, 1)))),
        batch_size=BATCH_SIZE,
        learning_rate=4e-3,
        weight_decay=0.1,
        max_grad_norm=1.0,
        average=0.98,
        augment=("token_dropout:0.1",),
    )
    return TrainRecipe(Architecture(model, dict(params or {})), task_of(data), settings)


def _passes(data: Data, model: str) -> int:
    """A bag of n-grams needs a third pass, which makes the validation loss of others worse."""
    return 3 if model == "ngrams" or data.columns[0].language == "zh" else 2
