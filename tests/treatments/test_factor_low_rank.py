"""Thinner layers: the least rank that keeps the share asked for, and no better factors of that rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import TreatmentError
from assay.models import Architecture
from assay.models.low_rank import factored
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.factor_low_rank import factor_low_rank, second_moments
from assay.treatments.model.quantize_int8 import quantize_int8


@pytest.fixture(scope="module")
def trained(small_data):
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [64, 64]}), task_of(small_data), TrainSettings(epochs=4))
    return train_system(small_data, recipe=recipe)


def test_a_planted_rank_is_found_and_nothing_is_lost():
    torch.manual_seed(0)
    layer = nn.Linear(20, 16)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(16, 3) @ torch.randn(3, 20))
    inputs = torch.randn(500, 20)
    made, kept = factored(layer, inputs.T @ inputs / 500, share=0.999999)
    assert made.first.out_features == 3
    assert kept == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(made(inputs), layer(inputs), rtol=1e-4, atol=1e-4)


def test_directions_that_inputs_never_take_cost_nothing():
    torch.manual_seed(1)
    layer = nn.Linear(20, 16)  # full rank
    inputs = torch.randn(500, 2) @ torch.randn(2, 20)  # of two dimensions
    made, _ = factored(layer, inputs.T @ inputs / 500, share=0.9999)
    assert made.first.out_features == 2
    torch.testing.assert_close(made(inputs), layer(inputs), rtol=1e-3, atol=1e-3)


def test_no_factors_of_that_rank_change_the_outputs_less():
    torch.manual_seed(2)
    layer, inputs = nn.Linear(8, 6), torch.randn(400, 8) * torch.arange(1, 9)
    made, kept = factored(layer, inputs.T @ inputs / 400, share=0.9)
    rank = made.first.out_features
    with torch.no_grad():
        plain, wanted = layer(inputs) - layer.bias, made(inputs) - layer.bias
    error = float((plain - wanted).square().sum())
    assert error / float(plain.square().sum()) == pytest.approx(1 - kept, rel=1e-3)
    left, values, right = torch.linalg.svd(plain, full_matrices=False)  # the best of that rank, on the outputs
    best = float((plain - left[:, :rank] * values[:rank] @ right[:rank]).square().sum())
    assert error == pytest.approx(best, rel=1e-3)


def test_moments_are_those_of_what_layers_are_given(trained):
    module, inputs = trained.model.module, trained.data.splits["test"].inputs[:700]
    found = second_moments(module, inputs)
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
    seen = []
    handle = last.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    trained.model.outputs(inputs)
    handle.remove()
    given = torch.cat(seen).double().numpy()
    name = next(name for name, layer in module.named_modules() if layer is last)
    np.testing.assert_allclose(found[name].numpy(), given.T @ given / len(given), rtol=1e-6, atol=1e-9)


def test_a_system_gets_smaller_stays_close_and_can_be_rounded(trained):
    treated = factor_low_rank(trained, share=0.95)
    inputs = trained.data.splits["test"].inputs
    assert treated.model.num_bytes < 0.8 * trained.model.num_bytes
    before, after = (one.model.outputs(inputs).argmax(axis=1) for one in (trained, treated))
    assert (before == after).mean() > 0.95
    assert "gradient" in treated.offers
    assert quantize_int8(treated).model.num_bytes < treated.model.num_bytes
    with pytest.raises(TreatmentError, match="above 0, below 1"):
        factor_low_rank(trained, share=1.0)
