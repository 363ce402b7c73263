"""Pruned in rounds: so much goes and stays gone, training in between pays, and only a recipe's own rows count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.errors import TreatmentError
from assay.models import Architecture
from assay.models.adapters.module import ModuleModel
from assay.models.channels import groups_of
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments._pruning import prunable
from assay.treatments.model.prune_magnitude import prune_magnitude
from assay.treatments.train.prune_and_retrain import prune_and_retrain
from support import make_split, small_images


@pytest.fixture(scope="module")
def system(small_data):
    settings = TrainSettings(epochs=6, batch_size=128)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [40, 24]}), task_of(small_data), settings)
    return train_system(small_data, recipe=recipe, seed=2)


def right(system):
    test = system.data.splits["test"]
    return float((system.model.outputs(test.inputs).argmax(axis=1) == test.labels).mean())


def test_half_of_every_group_goes_and_the_recipe_does_the_same_from_scratch(system):
    treated = prune_and_retrain(system, sparsity=0.5, rounds=3)
    assert {group.name: group.size for group in groups_of(treated.model.module)} == {"body.0": 20, "body.2": 12}
    outcome = treated.lineage[-1].outcome
    assert list(outcome["kept"].values()) == [20, 12]
    assert outcome["parameters_after"] == sum(one.numel() for one in treated.model.module.parameters())
    assert treated.model.num_bytes == outcome["bytes_after"] < system.model.num_bytes
    assert treated.facts["epochs"] == 3 * 2
    assert [point["epoch"] for point in treated.facts["curve"]] == [1, 2, 3, 4, 5, 6]
    assert treated.facts["curve"][-1]["step"] == treated.facts["steps"]
    again = treated.recipe.fit(system.data.splits["train"], system.data, system.seed)
    assert again.model.digest == treated.model.digest, "the trained model is where its recipe would have got to"
    assert right(treated) > right(system) - 0.03


def test_each_round_leaves_the_same_share(system, monkeypatch):
    from assay.treatments.train import prune_and_retrain as file

    seen, whole = [], file.fit

    def watched(module, *given, **named):
        seen.append([group.size for group in groups_of(module)])
        return whole(module, *given, **named)

    monkeypatch.setattr(file, "fit", watched)
    prune_and_retrain(system, sparsity=0.875, rounds=3, epochs=1)
    assert seen == [[20, 12], [10, 6], [5, 3]]


def test_zeros_stay_zero_while_the_rest_trains(system):
    treated = prune_and_retrain(system, sparsity=0.8, units=False, rounds=2, epochs=1)
    before, after = (
        torch.cat([one[counts] for one, counts in prunable(two.model.module)]) for two in (system, treated)
    )
    assert int((after == 0).sum()) == round(0.8 * len(after))
    assert treated.lineage[-1].outcome["zero_share"] == pytest.approx(0.8, abs=1e-3)
    stays = after != 0
    assert float((after[stays] != before[stays]).double().mean()) > 0.99, "the others were trained on"
    assert treated.model.num_bytes == system.model.num_bytes


def test_training_in_between_gives_back_what_pruning_at_once_took(system):
    at_once = prune_magnitude(system, sparsity=0.9, structured=False)
    in_rounds = prune_and_retrain(system, sparsity=0.9, units=False, rounds=3, epochs=2)
    assert right(system) - right(at_once) > 0.05
    assert right(in_rounds) > right(at_once) + 0.04


def test_what_goes_is_chosen_on_the_rows_of_the_recipe_alone(system):
    """A reference model must not lean on rows that it is not told of: other splits make no difference."""
    recipe = prune_and_retrain(system, rounds=2, epochs=1).recipe
    half, others = system.data.splits["train"].take(np.arange(300)), make_split(200, 9, 9001)
    elsewhere = replace(system.data, splits={**system.data.splits, "train": others, "validation": others})
    assert recipe.fit(half, system.data, 5).model.digest == recipe.fit(half, elsewhere, 5).model.digest


@pytest.mark.parametrize("params", [{"width": 6, "depths": [1, 1]}, {"width": 6, "depths": [1, 1], "norm": "none"}])
def test_filters_that_shortcuts_add_up_go_together(params):
    data = small_images(300, num_classes=2)
    settings = TrainSettings(epochs=1, batch_size=64)
    recipe = TrainRecipe(Architecture("cnn_residual", params), task_of(data), settings)
    treated = prune_and_retrain(train_system(data, recipe=recipe), sparsity=0.5, rounds=2, epochs=1)
    sizes = [group.size for group in groups_of(treated.model.module)]
    assert list(treated.model.architecture.params["kept"].values()) == sizes
    assert treated.lineage[-1].outcome["parameters_after"] < 0.5 * treated.lineage[-1].outcome["parameters_before"]
    assert np.isfinite(treated.model.outputs(data.splits["test"].inputs)).all()


def test_what_it_refuses_all_at_once(system):
    with pytest.raises(TreatmentError) as caught:
        prune_and_retrain(system, sparsity=1.0, rounds=0, epochs=0)
    assert [one.what.split(": ")[1] for one in caught.value.problems] == [
        "sparsity is 1.0",
        "rounds is 0",
        "epochs is 0",
    ]
    linear = replace(system, model=ModuleModel(torch.nn.Linear(4, 2)))
    with pytest.raises(TreatmentError, match="cannot be taken out safely"):
        prune_and_retrain(linear)
