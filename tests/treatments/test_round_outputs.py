"""Rounded answers: the digits that are told, no answer changed, and what the rest no longer gives away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import TreatmentError
from assay.models import Architecture
from assay.models.rounded import Rounded
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.group_thresholds import group_thresholds
from assay.treatments.serve.round_outputs import round_outputs


@pytest.fixture(scope="module")
def trained(small_data):
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(small_data), TrainSettings(epochs=3))
    return train_system(small_data, recipe=recipe)


@pytest.mark.parametrize("decimals", [0, 1, 2])
@pytest.mark.parametrize("top_only", [False, True])
def test_answers_stay_and_digits_go(decimals, top_only):
    logits = 3 * torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    module = Rounded(nn.Identity(), decimals=decimals, top_only=top_only)
    told = module(logits)
    assert torch.isfinite(told).all()
    assert torch.equal(told.argmax(dim=1), logits.argmax(dim=1))
    largest, top = torch.softmax(logits, dim=1).max(dim=1)
    shown = told.exp().gather(1, top[:, None])[:, 0]
    assert (shown - torch.round(largest, decimals=decimals)).abs().max() <= 10.0**-decimals  # a tie is broken
    assert len(torch.unique(torch.round(shown, decimals=decimals))) <= 10**decimals + 1
    if top_only:
        others = told.exp().scatter(1, top[:, None], -1.0)
        assert all(len(torch.unique(row[row >= 0])) == 1 for row in others[:50])


def test_a_tie_is_broken_for_the_class_that_was_ahead():
    told = Rounded(nn.Identity(), decimals=1)(torch.tensor([[0.0, 0.01], [0.01, 0.0]]))
    assert told.argmax(dim=1).tolist() == [1, 0]


def test_an_errored_row_stays_errored():
    told = Rounded(nn.Identity(), decimals=1)(torch.tensor([[torch.nan, 0.0], [1.0, 0.0]]))
    assert torch.isnan(told[0]).all()
    assert torch.isfinite(told[1]).all()


def test_accuracy_is_the_same_gradients_are_gone_and_thresholds_are_refused(trained):
    treated = round_outputs(trained)
    inputs = trained.data.splits["test"].inputs
    before, after = (one.model.outputs(inputs) for one in (trained, treated))
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))
    assert len(np.unique(after.round(4), axis=0)) <= 14 < len(np.unique(before.round(4), axis=0))
    assert treated.offers & {"gradient"} == set()
    assert treated.lineage[-1].stage == "serve"
    with pytest.raises(TreatmentError, match="thresholds of probabilities"):
        round_outputs(group_thresholds(trained))
    with pytest.raises(TreatmentError, match="0 to 6"):
        round_outputs(trained, decimals=9)
