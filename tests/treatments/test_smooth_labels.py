"""Smoothed labels: what is minimised, and that a network which learnt its rows by heart is less sure of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.engine import audit
from assay.errors import TreatmentError
from assay.models import Architecture
from assay.observe import Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.train.smooth_labels import smooth_labels
from support import make_split


@pytest.fixture(scope="module")
def by_heart(small_data):
    """So wide, and trained for so long on 150 rows, that it is sure of all of them."""
    data = replace(small_data, splits={**small_data.splits, "train": make_split(150, 5, 7001)})
    settings = TrainSettings(epochs=60, batch_size=50, learning_rate=0.01, weight_decay=0.0)
    return train_system(
        data, recipe=TrainRecipe(Architecture("mlp", {"hidden": [64, 64], "num_bins": 16}), task_of(data), settings)
    )


@pytest.fixture(scope="module")
def treated(by_heart):
    return smooth_labels(by_heart, smoothing=0.2)


def test_what_was_too_sure_is_better_calibrated(by_heart, treated):
    workspace = Workspace(key=b"k", num_draws=20)
    found = []
    for system in (by_heart, treated):
        told = audit(system, probes=["calibration_error"], workspace=workspace)
        found.append(told.find("calibration_error").value)
    assert found[0] > 0.1
    assert found[1] < found[0] - 0.02, "what it declares"


def test_the_least_loss_is_at_the_smoothed_shares(by_heart, treated):
    """With 2 classes and s = 0.2 a row that is learnt is answered with 0.9, however long one trains."""
    train = by_heart.data.splits["train"]
    sure = [
        np.median(one.task.probabilities(one.model.outputs(train.inputs))[np.arange(len(train)), train.labels])
        for one in (by_heart, treated)
    ]
    assert sure[0] > 0.97
    assert sure[1] == pytest.approx(0.9, abs=0.03)


def test_it_is_the_recipe_that_changes(by_heart, treated):
    assert treated.recipe.settings == replace(by_heart.recipe.settings, label_smoothing=0.2)
    assert treated.recipe.digest != by_heart.recipe.digest
    assert treated.lineage[-1].outcome == {"smoothing_before": 0.0}
    again = treated.recipe.fit(by_heart.data.splits["train"], by_heart.data, by_heart.seed)
    assert again.model.digest == treated.model.digest


@pytest.mark.parametrize("smoothing", [0.0, 1.0, float("nan")])
def test_what_it_refuses(by_heart, smoothing):
    with pytest.raises(TreatmentError, match="smoothing is"):
        smooth_labels(by_heart, smoothing=smoothing)
