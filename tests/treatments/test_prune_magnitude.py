"""Pruning: exactly the smallest go; units that carry nothing are free to take out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import TreatmentError
from assay.models import Architecture, build
from assay.models.adapters.module import ModuleModel
from assay.models.wrapped import linear_layers
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.prune_magnitude import prune_magnitude
from assay.treatments.model.quantize_int8 import quantize_int8
from assay.values import System


@pytest.fixture(scope="module")
def trained(small_data) -> System:
    recipe = TrainRecipe(
        Architecture("mlp", {"hidden": [40, 24]}), task_of(small_data), TrainSettings(epochs=6, batch_size=128)
    )
    return train_system(small_data, name="small", recipe=recipe)


def accuracy(system):
    test = system.data.splits["test"]
    return (system.model.outputs(test.inputs).argmax(1) == test.labels).mean()


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
def test_unstructured_zeroes_the_smallest_and_nothing_else(trained, sparsity):
    treated = prune_magnitude(trained, sparsity=sparsity, structured=False)
    before = {name: layer.weight.detach() for name, layer in linear_layers(trained.model.module).items()}
    after = {name: layer.weight.detach() for name, layer in linear_layers(treated.model.module).items()}
    gone = torch.cat([(after[name] == 0).flatten() for name in before])
    sizes = torch.cat([weight.abs().flatten() for weight in before.values()])
    assert int(gone.sum()) == round(sparsity * len(sizes))
    if sparsity:
        assert sizes[gone].max() <= sizes[~gone].min()
    for name, weight in before.items():
        kept = after[name] != 0
        assert torch.equal(after[name][kept], weight[kept])
    state, other = trained.model.module.state_dict(), treated.model.module.state_dict()
    assert all(torch.equal(other[name], tensor) for name, tensor in state.items() if not name.endswith("weight"))
    assert treated.model.num_bytes == trained.model.num_bytes  # zeros are stored like any number, and it says so
    assert treated.lineage[-1].outcome["zero_share"] == pytest.approx(sparsity, abs=1e-3)


def test_structured_is_smaller_by_the_units_that_went(trained):
    treated = prune_magnitude(trained, sparsity=0.5)
    first, second = treated.lineage[-1].outcome["hidden"]
    assert first + second == (40 + 24) // 2
    width = trained.model.module.encoder.num_encoded
    count = width * first + first + first * second + second + second * 2 + 2
    assert sum(one.numel() for one in treated.model.module.parameters()) == count
    assert trained.model.num_bytes - treated.model.num_bytes == 4 * (
        sum(one.numel() for one in trained.model.module.parameters()) - count
    )
    assert treated.model.architecture.params["hidden"] == [first, second]
    assert treated.offers == trained.offers


def test_units_that_carry_nothing_are_taken_first_and_for_free(small_data):
    """Planted: 5 of 16 units have no outgoing weight, 4 of 12 always give the same; the answers must not move."""
    torch.manual_seed(0)
    params = {"hidden": [16, 12]}
    module = build("mlp", columns=small_data.columns, num_outputs=2, params=params)
    module.fit_encoding(small_data.splits["train"])
    with torch.no_grad():
        module.body[2].weight[:, 3:8] = 0
        module.body[2].weight[2:6] = 1e-6
        module.body[2].bias[2:6] = 2.0
    model = ModuleModel(module, architecture=Architecture("mlp", params))
    system = System("planted", model, small_data, task_of(small_data), Argmax())
    treated = prune_magnitude(system, sparsity=9 / 28)
    assert treated.lineage[-1].outcome["hidden"] == [11, 8]
    inputs = small_data.splits["test"].inputs
    assert np.abs(treated.model.outputs(inputs) - model.outputs(inputs)).max() < 1e-3


def test_the_refit_is_what_keeps_the_accuracy(trained):
    """Against taking out the same units and leaving the rest as it was."""
    treated = prune_magnitude(trained, sparsity=0.6)
    before, after = trained.model.module, treated.model.module
    bare = build("mlp", columns=trained.data.columns, num_outputs=2, params=treated.model.architecture.params)
    first, _ = treated.lineage[-1].outcome["hidden"]
    rows = [int((before.body[0].weight == row).all(dim=1).nonzero()[0]) for row in after.body[0].weight]
    assert len(set(rows)) == first  # the first layer's units are taken over unchanged
    inputs = trained.data.splits["test"].inputs
    error = np.abs(treated.model.outputs(inputs) - trained.model.outputs(inputs)).mean()
    state = after.state_dict()
    scores = before.body[2].weight.norm(dim=1) * before.head.weight.norm(dim=0)
    columns = torch.sort(torch.argsort(scores, descending=True)[: after.body[2].out_features]).values
    state["body.2.weight"] = before.body[2].weight[columns][:, rows]
    state["body.2.bias"] = before.body[2].bias[columns]
    state["head.weight"], state["head.bias"] = before.head.weight[:, columns], before.head.bias
    bare.load_state_dict(state)
    assert error < 0.6 * np.abs(ModuleModel(bare).outputs(inputs) - trained.model.outputs(inputs)).mean()
    assert accuracy(treated) > accuracy(trained) - 0.03


def test_almost_everything_leaves_one_unit_a_layer(trained):
    treated = prune_magnitude(trained, sparsity=0.999)
    assert treated.lineage[-1].outcome["hidden"] == [1, 1]
    assert np.isfinite(treated.model.outputs(trained.data.splits["test"].inputs)).all()


def test_nothing_taken_changes_nothing(trained):
    treated = prune_magnitude(trained, sparsity=0.0)
    inputs = trained.data.splits["test"].inputs
    assert np.abs(treated.model.outputs(inputs) - trained.model.outputs(inputs)).max() < 1e-5


def test_what_it_cannot_prune(trained, small_data):
    with pytest.raises(TreatmentError, match="0 to below 1"):
        prune_magnitude(trained, sparsity=1.0)
    with pytest.raises(TreatmentError, match="Prune before quantising"):
        prune_magnitude(quantize_int8(trained))
    other = ModuleModel(nn.Sequential(nn.Linear(4, 2)), architecture=Architecture("other"))
    with pytest.raises(TreatmentError, match="structured=False"):
        prune_magnitude(replace(trained, model=other), structured=True)
    flat = build("mlp", columns=small_data.columns, num_outputs=2, params={"hidden": []})
    model = ModuleModel(flat, architecture=Architecture("mlp", {"hidden": []}))
    with pytest.raises(TreatmentError, match="no hidden layer"):
        prune_magnitude(replace(trained, model=model), structured=True)


def test_then_eight_bits(trained):
    chain = quantize_int8(prune_magnitude(trained))
    assert [step.treatment for step in chain.lineage] == ["prune_magnitude", "quantize_int8"]
    assert chain.model.num_bytes < 0.5 * trained.model.num_bytes
