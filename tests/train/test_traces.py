"""Losses of single rows are kept on request only, change nothing, and leave no array in what is written out."""

from dataclasses import replace

import numpy as np
import pytest

from assay.models import Architecture
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings
from assay.train.traces import FACT
from assay.values import plain


@pytest.fixture(scope="module")
def runs(small_data):
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(small_data), TrainSettings(epochs=3))
    traced = replace(recipe, is_traced=True)
    assert traced.digest == recipe.digest
    split = small_data.splits["train"]
    return split, recipe.fit(split, small_data, 0), traced.fit(split, small_data, 0)


def test_every_row_is_seen_once_an_epoch_and_their_mean_is_the_curve(runs):
    split, _, traced = runs
    trace = traced.facts[FACT]
    assert trace.shape == (3, len(split))
    assert np.isfinite(trace).all()
    curve = [point["train_loss"] for point in traced.facts["curve"]]
    np.testing.assert_allclose(trace.mean(axis=1), curve, rtol=1e-5)


def test_a_traced_run_gives_the_same_model_and_an_untraced_one_keeps_nothing(runs):
    _, bare, traced = runs
    assert bare.model.digest == traced.model.digest
    assert FACT not in bare.facts
    assert plain(traced.facts)[FACT].startswith("array:")
