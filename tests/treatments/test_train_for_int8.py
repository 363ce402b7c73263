"""Training that feels 8 bits: what was trained is what the 8-bit model answers, and straight-through gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.errors import TreatmentError
from assay.models import Architecture, tensors
from assay.models.fake_int8 import FakeInt8, _Clipped
from assay.models.quantised_graph import grid_of, rounded_weight
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.train.train_for_int8 import Int8Recipe, train_for_int8
from support import small_images, small_texts

pytest.importorskip("onnxruntime")


def recipe_of(name: str, params: dict, data, epochs: int = 3) -> TrainRecipe:
    return TrainRecipe(Architecture(name, params), task_of(data), TrainSettings(epochs=epochs, batch_size=64))


def test_the_gradient_goes_straight_through_what_is_not_clipped():
    scale, zero = grid_of(-1.0, 3.0)
    inputs = torch.tensor([-2.0, -1.0, 0.013, 2.5, 6.9, 9.0], requires_grad=True)
    rounded = _Clipped.apply(inputs, float(scale), zero)
    codes = np.clip(np.rint(inputs.detach().numpy() / scale) + zero, 0, 255)
    np.testing.assert_allclose(rounded.detach().numpy(), (codes - zero) * scale, atol=1e-6)
    rounded.sum().backward()
    assert inputs.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_it_rounds_what_it_should_and_leaves_nothing_behind():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    before, state = module[0].weight.detach().clone(), sorted(module.state_dict())
    inputs = torch.randn(40, 6)
    fake = FakeInt8(module, frozenset({"0"}), start=1)
    assert all(parameter.requires_grad for parameter in module.parameters())
    codes, scale = rounded_weight(before.numpy(), 0)
    np.testing.assert_allclose(module[0].weight.detach().numpy(), codes * scale[:, None], atol=1e-7)
    fake.step()
    first = module(inputs)  # watched, not yet rounded
    assert fake.ranges()["0"] == pytest.approx((float(inputs.min()), float(inputs.max())))
    fake.step()
    later = module(10 * inputs)
    wider = fake.ranges()["0"]
    assert wider[1] == pytest.approx(0.95 * float(inputs.max()) + 0.05 * 10 * float(inputs.max()))
    later.sum().backward()
    assert not torch.equal(first, module.eval()(inputs))
    assert fake.ranges()["0"] == wider  # answering does not move it
    fake.remove()
    assert torch.equal(module[0].weight, before)
    assert sorted(module.state_dict()) == state
    assert not module[0]._forward_pre_hooks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "cnn_lenet", "transformer"])
def test_what_was_trained_is_what_the_8_bit_model_answers(name, small_data):
    data = {"mlp": small_data, "cnn_lenet": small_images(400), "transformer": small_texts(300)}[name]
    params = {"mlp": {"hidden": [32, 16]}, "cnn_lenet": {}, "transformer": {"dim": 16, "vocab_size": 60}}[name]
    recipe = Int8Recipe(recipe_of(name, params, data), "all", 0.3)
    split, inputs = data.splits["train"], data.splits["test"].inputs[:100]
    module, fake, _ = recipe.trained(split, data, 0)
    with torch.no_grad():
        expected = module.eval()(tensors(module, inputs)).numpy()
    fake.remove()
    plain = recipe.base.wrap(module, data.columns)
    found = recipe.rounded(plain, split, fake.ranges()).outputs(inputs)
    felt = np.abs(plain.outputs(inputs) - expected)
    # Sums in another order put a number halfway between two levels on the other one now and then.
    assert np.median(np.abs(found - expected)) < 0.02 * np.median(felt)
    assert np.quantile(np.abs(found - expected), 0.9) < 0.5 * np.quantile(felt, 0.9)


@pytest.mark.slow
def test_smaller_and_as_right_as_trained_without(tmp_path):
    data = small_images(600, size=16)
    system = train_system(data, name="bars", recipe=recipe_of("cnn_vgg", {"widths": [16, 32], "hidden": 64}, data, 2))
    treated = train_for_int8(system, epochs=2)
    outcome = treated.lineage[-1].outcome
    assert outcome["bytes_after"] == treated.model.num_bytes < 0.35 * system.model.num_bytes
    assert set(outcome["arithmetic"].values()) == {"int8", "float32"}
    test = data.splits["test"]
    right = [(one.model.outputs(test.inputs).argmax(1) == test.labels).mean() for one in (system, treated)]
    assert right[1] > right[0] - 0.03
    assert treated.recipe.digest != system.recipe.digest
    assert Int8Recipe(system.recipe, "rule", 0.5).digest != Int8Recipe(system.recipe, "rule", 0.3).digest
    assert Int8Recipe(system.recipe, ("head",), 0.3).digest != Int8Recipe(system.recipe, "all", 0.3).digest


def test_what_is_refused_before_any_work(small_data):
    system = train_system(small_data, name="small", recipe=recipe_of("mlp", {"hidden": [4]}, small_data, 1))
    with pytest.raises(TreatmentError) as caught:
        train_for_int8(system, layers="some", start=2.0, epochs=0)
    assert len(caught.value.problems) == 3
