"""How a network for pictures is trained here: few parameters, few passes, one core."""

from __future__ import annotations

from collections.abc import Sequence

from assay.models import Architecture
from assay.tasks import task_of
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.values import Data

BATCH_SIZE = 128
MIN_STEPS, MAX_EPOCHS = 300, 60


def image_recipe(
    data: Data,
    *,
    epochs: int = 10,
    augment: Sequence[str] = (),
    width: int = 32,
    depths: Sequence[int] = (1, 1),
    mirrored: bool = False,
) -> TrainRecipe:
    """`cnn_residual` with AdamW, a cosine curve, smoothed labels and bfloat16, for `epochs` passes over the data.

    More passes where they would be fewer than 300 steps. `augment` names changes that keep a picture's class (see
    `assay.train.augment`): "flip" for things seen from either side, never for digits or letters; `mirrored` then takes
    `cnn_mirrored`, whose answers are means over both sides. A third stage (`depths` of three numbers) makes 319,000
    parameters of 83,000 (ten classes). Limits: the settings were chosen on 10,000
    of Fashion-MNIST's training rows and suit small pictures. Raises ModelError for data that are not pictures.
    """
    rows = len(data.splits["train"])
    least = -(-MIN_STEPS * BATCH_SIZE // max(rows, 1))
    settings = TrainSettings(
        epochs=max(epochs, min(MAX_EPOCHS, least)),
        batch_size=BATCH_SIZE,
        learning_rate=6e-3,
        weight_decay=0.05,
        decay="matrices",
        warmup=0.2,
        label_smoothing=0.1,
        precision="bfloat16",
        augment=tuple(augment),
    )
    params = {"width": width, "depths": list(depths)}
    return TrainRecipe(Architecture("cnn_mirrored" if mirrored else "cnn_residual", params), task_of(data), settings)
