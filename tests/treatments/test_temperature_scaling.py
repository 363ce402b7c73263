"""Temperature scaling: the least log loss, no answer changed, and calibration better where it was bad."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from assay import engine
from assay.access.gradients import embed, pull_back, pull_back_embedded
from assay.access.references import reference_models
from assay.errors import TreatmentError
from assay.models import Architecture
from assay.models.adapters.module import ModuleModel
from assay.models.store import load_system, save_system
from assay.models.temperature import Temperature
from assay.observe import Ledger, Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.group_thresholds import group_thresholds
from assay.treatments.model.prune_magnitude import prune_magnitude
from assay.treatments.model.quantize_int8 import quantize_int8
from assay.treatments.model.temperature_scaling import COLDEST, HOTTEST, best_temperature, log_loss, temperature_scaling
from support import small_images, small_texts


def trained_on(data, name="mlp", params=None, epochs=2):
    recipe = TrainRecipe(Architecture(name, params or {"hidden": [16]}), task_of(data), TrainSettings(epochs=epochs))
    return train_system(data, name="small", recipe=recipe)


@pytest.fixture(scope="module")
def trained(small_data):
    return trained_on(small_data)


def too_sure(system, factor=4.0):
    """The same system with its last layer's weights multiplied: same answers, far too sure of them."""
    module = Temperature(system.model.module, temperature=1 / factor).eval()
    architecture = Architecture("temperature", {"base": {"name": "mlp", "params": {"hidden": [16]}}})
    return replace(system, model=ModuleModel(module, architecture=architecture))


@pytest.mark.parametrize(("num_classes", "wanted"), [(2, 3.0), (5, 0.5), (3, 1.0)])
def test_newton_finds_the_temperature_that_made_the_labels_and_the_minimum_of_scipy(num_classes, wanted):
    rng = np.random.default_rng(num_classes)
    logits = rng.normal(size=(20_000, num_classes)) * 3
    chance = softmax(logits / wanted, axis=1)
    labels = (rng.random((20_000, 1)) > chance.cumsum(axis=1)).sum(axis=1)
    found = best_temperature(logits, labels)
    assert found == pytest.approx(wanted, rel=0.06)
    least = minimize_scalar(lambda log: log_loss(logits, labels, np.exp(log)), bounds=(-4, 4), method="bounded")
    assert np.log(found) == pytest.approx(least.x, abs=1e-4)
    assert log_loss(logits, labels, found) <= least.fun + 1e-12


def test_temperatures_without_a_minimum_stop_at_the_ends():
    logits = np.array([[0.0, 1.0], [2.0, 0.0]])
    assert best_temperature(logits, np.array([1, 0])) == pytest.approx(COLDEST, rel=1e-6)
    assert best_temperature(logits, np.array([0, 1])) == pytest.approx(HOTTEST, rel=1e-6)
    assert best_temperature(np.zeros((3, 2)), np.array([0, 1, 1])) > 0


def test_a_system_that_is_too_sure_is_mended_and_answers_the_same(trained):
    spoilt = too_sure(trained)
    treated = temperature_scaling(spoilt)
    outcome = treated.lineage[-1].outcome
    own = temperature_scaling(trained).lineage[-1].outcome["temperature"]
    assert outcome["temperature"] == pytest.approx(4 * own, rel=1e-3)
    assert outcome["log_loss_after"] < outcome["log_loss_before"]
    workspace = Workspace(key=b"k", num_draws=50)
    names = ["calibration_error", "accuracy"]
    before, after = (engine.audit(one, probes=names, workspace=workspace) for one in (spoilt, treated))
    assert after.find("calibration_error").value < before.find("calibration_error").value - 0.02
    test = trained.data.splits["test"]
    np.testing.assert_array_equal(*(one.model.outputs(test.inputs).argmax(axis=1) for one in (spoilt, treated)))


def test_it_is_not_fitted_on_test_or_training_rows(trained):
    first = temperature_scaling(trained).model.digest
    changed = dict(trained.data.splits)
    for name in ("train", "test"):
        changed[name] = replace(changed[name], labels=1 - changed[name].labels)
    assert temperature_scaling(replace(trained, data=replace(trained.data, splits=changed))).model.digest == first


def test_gradients_are_those_of_the_module_over_the_temperature(trained):
    treated = temperature_scaling(trained)
    temperature = treated.lineage[-1].outcome["temperature"]
    inputs = trained.data.splits["test"].inputs[:20].astype(np.float32)
    pulled = [
        pull_back(one.model.module, inputs, lambda f, _: np.ones_like(f) * [1, -1], batch_size=8)
        for one in (trained, treated)
    ]
    np.testing.assert_allclose(pulled[0][0] / temperature, pulled[1][0], rtol=1e-5)
    np.testing.assert_allclose(pulled[0][1] / temperature, pulled[1][1], rtol=1e-4, atol=1e-7)
    assert treated.model.offers == trained.model.offers


def test_reference_models_get_temperatures_of_their_own(trained):
    found = reference_models(temperature_scaling(trained), Workspace(key=b"k", num_references=2), Ledger(10**9))
    temperatures = [one.system.lineage[-1].outcome["temperature"] for one in found]
    assert all(one.system.lineage[-1].treatment == "temperature_scaling" for one in found)
    assert len(set(temperatures)) == 2
    for one in found:
        assert float(one.system.model.module.temperature) == pytest.approx(
            one.system.lineage[-1].outcome["temperature"]
        )


def test_it_goes_before_and_after_other_treatments(trained, tmp_path):
    chain = quantize_int8(prune_magnitude(temperature_scaling(trained), sparsity=0.2))
    loaded = load_system(save_system(chain, tmp_path / "one"), trained.data)
    inputs = trained.data.splits["test"].inputs[:50]
    np.testing.assert_array_equal(loaded.model.outputs(inputs), chain.model.outputs(inputs))
    other = temperature_scaling(quantize_int8(trained))
    assert "gradient" not in other.model.offers
    assert load_system(save_system(other, tmp_path / "two"), trained.data).digest == other.digest
    with pytest.raises(TreatmentError, match="depend on thresholds"):
        temperature_scaling(group_thresholds(trained))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "text"])
def test_pictures_and_texts(kind, tmp_path):
    data = small_images(300) if kind == "image" else small_texts(300)
    name, params = {
        "image": ("cnn_lenet", {"widths": [2, 3], "hidden": [8]}),
        "text": ("gru", {"dim": 8, "num_hidden": 8, "vocab_size": 40}),
    }[kind]
    system = trained_on(data, name, params, epochs=2)
    treated = temperature_scaling(system)
    temperature = treated.lineage[-1].outcome["temperature"]
    inputs = data.splits["test"].inputs[:20]
    np.testing.assert_allclose(treated.model.outputs(inputs), system.model.outputs(inputs) / temperature, rtol=1e-5)
    assert load_system(save_system(treated, tmp_path / "system"), data).digest == treated.digest
    if kind == "text":
        at = embed(treated.model.module, inputs)
        logits, _ = pull_back_embedded(treated.model.module, at, lambda f, _: np.ones_like(f), batch_size=8)
        np.testing.assert_allclose(logits, treated.model.outputs(inputs), rtol=1e-4, atol=1e-6)


def test_what_it_does_not_fit(trained):
    model = ModuleModel(trained.model.module, outputs_are="probabilities", architecture=trained.model.architecture)
    with pytest.raises(TreatmentError, match="answers with probabilities"):
        temperature_scaling(replace(trained, model=model))
    nobody = replace(
        trained.data.splits["validation"], inputs=np.full_like(trained.data.splits["validation"].inputs, np.nan)
    )
    data = replace(trained.data, splits={**trained.data.splits, "validation": nobody})
    with pytest.raises(TreatmentError, match="no validation row is scored"):
        temperature_scaling(replace(trained, data=data))
    assert torch.isfinite(temperature_scaling(trained).model.module.temperature)
