"""What is tried: architectures and sizes for each modality, from cheap to dear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from assay.models import Architecture
from assay.tasks import task_of
from assay.train.recipe import TrainRecipe
from assay.train.settings import TrainSettings
from assay.train.system import recipe_for
from assay.values import Data

MAX_EPOCHS = 40  # that a part of the rows is seen at most, unless the settings say more


@dataclass(frozen=True)
class Candidate:
    """A name, an architecture and how it is trained."""

    name: str
    architecture: Architecture
    settings: TrainSettings = field(default_factory=TrainSettings)

    def recipe(self, data: Data, *, share: float = 1.0) -> TrainRecipe:
        """The recipe for a share of the training rows: fewer rows are seen more often, by the root of the share."""
        epochs = max(self.settings.epochs, min(MAX_EPOCHS, ceil(self.settings.epochs / share**0.5)))
        params = dict(self.architecture.params)
        task = task_of(data)
        if task.name == "regression" and self.architecture.name == "mlp":
            params["scale_outputs"] = True
        return TrainRecipe(replace(self.architecture, params=params), task, replace(self.settings, epochs=epochs))


def candidates_for(data: Data) -> tuple[Candidate, ...]:
    """The candidates that suit the inputs: from a linear model to the largest that a small machine trains in minutes.

    All are trained with the settings of the default recipe for these data, n-grams of texts with a third pass.

    >>> from assay.data import load_adult
    >>> [one.name for one in candidates_for(load_adult())][:2]
    ['mlp hidden=[]', 'mlp hidden=[] num_bins=32']
    """
    return tuple(_named(name, params, recipe_for(data, model=name).settings) for name, params in _TRIED[data.modality])


def _named(name: str, params: Mapping[str, Any], settings: TrainSettings) -> Candidate:
    words = [f"{key}={value}" for key, value in params.items()]
    return Candidate(" ".join([name, *words]), Architecture(name, params), settings)


_TABLES: tuple[dict[str, Any], ...] = (
    {"hidden": []},
    {"hidden": [], "num_bins": 32},
    {"hidden": [16]},
    {"hidden": [32], "num_bins": 16},
    {"hidden": [64, 64]},
    {"hidden": [64, 64], "num_bins": 32},
    {"hidden": [128, 128], "num_bins": 32},
    {"hidden": [256, 256], "num_bins": 32, "dropout": 0.1},
)
_IMAGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("cnn_lenet", {}),
    ("cnn_residual", {"width": 8}),
    ("cnn_residual", {"width": 16}),
    ("cnn_residual", {"width": 32}),
    ("cnn_vgg", {}),
)
_TEXTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ngrams", {}),
    ("rnn", {"num_hidden": 32}),
    ("gru", {"num_hidden": 32}),
    ("gru", {"num_hidden": 96}),
    ("lstm", {"num_hidden": 64}),
    ("lstm_attention", {"num_hidden": 64}),
    ("transformer", {"num_layers": 1}),
    ("transformer", {"num_layers": 2}),
)
_TRIED = {"table": tuple(("mlp", params) for params in _TABLES), "image": _IMAGES, "text": _TEXTS}
