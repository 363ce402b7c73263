from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay.errors import ModelError, UsageError
from assay.models import Architecture
from assay.models.store import load_system, save_system
from assay.train import default_recipe, train_system
from assay.train.images import image_recipe
from assay.train.system import recipe_for
from assay.train.texts import text_recipe
from assay.values import Data
from support import small_images, small_texts


@pytest.fixture(scope="module")
def bars() -> Data:
    return small_images(600)


@pytest.mark.slow
def test_bars_are_told_apart_and_the_system_is_stored_whole(bars: Data, tmp_path: Path) -> None:
    system = train_system(bars, recipe=image_recipe(bars, width=4, augment=["crop:1", "noise:0.02"]), seed=1)
    test = bars.splits["test"]
    answers = system.model.outputs(test.inputs)
    assert (answers.argmax(axis=1) == test.labels).mean() > 0.95
    np.testing.assert_allclose(system.model.outputs(test.inputs.astype(np.float32)), answers, atol=1e-5)
    again = load_system(save_system(system, tmp_path / "system"), bars)
    assert again.model.digest == system.model.digest
    np.testing.assert_array_equal(again.model.outputs(test.inputs), answers)


def test_small_data_get_more_passes_and_large_data_those_asked_for(bars: Data) -> None:
    assert image_recipe(bars).settings.epochs == 60
    assert image_recipe(small_images(20_000, size=8)).settings.epochs == 10
    assert image_recipe(small_images(20_000, size=8), epochs=2).settings.epochs == 4  # 300 steps


def test_augmentation_that_does_not_fit_is_refused_before_training(bars: Data) -> None:
    with pytest.raises(UsageError, match="token_dropout"):
        train_system(bars, recipe=image_recipe(bars, augment=["token_dropout:0.1"]))


def test_tables_are_refused(small_data: Data) -> None:
    with pytest.raises(ModelError, match="one image column"):
        train_system(small_data, recipe=image_recipe(small_data))


def test_pictures_and_texts_are_trained_by_the_recipes_made_for_them(bars: Data) -> None:
    large = small_images(20_000, size=8)
    assert default_recipe(large) == image_recipe(large, epochs=3)
    assert default_recipe(large).settings.epochs == 4, "300 steps"
    assert default_recipe(bars).settings.augment == (), "a flip may change what a picture shows"
    reviews = small_texts(200)
    assert default_recipe(reviews) == text_recipe(reviews)
    assert default_recipe(reviews).architecture.name == "gru"
    other = recipe_for(bars, model="cnn_lenet", params={"hidden": [4]}, settings={"epochs": 2})
    assert other.architecture == Architecture("cnn_lenet", {"hidden": [4]})
    assert other.settings == replace(default_recipe(bars).settings, epochs=2)
