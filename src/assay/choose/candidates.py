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
from assay.values import Data, modality

STEPS = 600  # that a small data set is trained for at least
MAX_EPOCHS = 40


@dataclass(frozen=True)
class Candidate:
    """A name, an architecture and how it is trained."""

    name: str
    architecture: Architecture
    settings: TrainSettings = field(default_factory=TrainSettings)

    def recipe(self, data: Data, *, share: float = 1.0) -> TrainRecipe:
        """The recipe for a share of the training rows: fewer rows are seen more often, by the root of the share."""
        epochs = min(MAX_EPOCHS, max(self.settings.epochs, ceil(self.settings.epochs / share**0.5)))
        params = dict(self.architecture.params)
        if not data.classes and self.architecture.name == "mlp":
            params["scale_outputs"] = True
        return TrainRecipe(
            replace(self.architecture, params=params), task_of(data), replace(self.settings, epochs=epochs)
        )


def candidates_for(data: Data) -> tuple[Candidate, ...]:
    """The candidates that suit the inputs: from a linear model to the largest that a small machine trains in minutes.

    >>> from assay.data import load_adult
    >>> [one.name for one in candidates_for(load_adult())][:2]
    ['mlp hidden=[]', 'mlp hidden=[] num_bins=32']
    """
    rows = len(data.splits["train"])
    kind = modality(data.columns)
    if kind == "table":
        size = 512 if rows > 8192 else 64
        settings = TrainSettings(batch_size=size, epochs=_epochs(rows, size, 8))
        found = [_named("mlp", params, settings) for params in _TABLES]
    elif kind == "image":
        settings = TrainSettings(
            batch_size=128, epochs=_epochs(rows, 128, 6), curve="one_cycle", learning_rate=5e-3, precision="bfloat16"
        )
        found = [_named(name, params, settings) for name, params in _IMAGES]
    else:
        settings = TrainSettings(
            batch_size=64, epochs=_epochs(rows, 64, 6), learning_rate=2e-3, augment=("token_dropout:0.1",)
        )
        found = [_named(name, params, settings) for name, params in _TEXTS]
    return tuple(found)


def _epochs(rows: int, batch_size: int, least: int) -> int:
    return min(MAX_EPOCHS, max(least, ceil(STEPS * batch_size / max(rows, 1))))


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
    ("rnn", {"num_hidden": 32}),
    ("gru", {"num_hidden": 32}),
    ("gru", {"num_hidden": 96}),
    ("lstm", {"num_hidden": 64}),
    ("lstm_attention", {"num_hidden": 64}),
    ("transformer", {"num_layers": 1}),
    ("transformer", {"num_layers": 2}),
)
