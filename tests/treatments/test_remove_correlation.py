"""No linear part of a group is left in numbers, as fairlearn takes it out; the model still reads raw rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from assay import engine
from assay.data import load_adult
from assay.errors import ModelError, TreatmentError
from assay.models import BUILDERS, Architecture, build
from assay.models.adapters.module import ModuleModel
from assay.models.mlp import TableEncoder
from assay.models.store import load_system, save_system
from assay.observe import Workspace, loss_gradients
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.data.remove_correlation import remove_correlation
from assay.values import System
from support import KnownModel, small_images


def tilted(data, *, missing=False):
    """Age and hours depend on sex and job."""
    splits = {}
    for name, split in data.splits.items():
        inputs = split.inputs.copy()
        inputs[:, 0] += 9 * inputs[:, 3] - 4 * (inputs[:, 2] == 1)
        inputs[:, 1] -= 20 * inputs[:, 3]
        if missing:
            inputs[::7, 1] = np.nan
        splits[name] = replace(split, inputs=inputs)
    return replace(data, splits=splits)


def fitted(data, hidden, alpha=1.0):
    base = {"name": "mlp", "params": {"hidden": [8], "num_bins": 3}}
    params = {"base": base, "hidden": hidden, "alpha": alpha}
    module = build("uncorrelated", columns=data.columns, num_outputs=2, params=params)
    module.fit_encoding(data.splits["train"])
    return module


def given(encoder, inputs):
    with torch.no_grad():
        return encoder(torch.from_numpy(inputs.copy())).double().numpy()


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("hidden", [["sex"], ["sex", "job"]])
def test_nothing_linear_is_left_on_training_rows_and_the_group_is_not_seen(small_data, hidden, missing):
    data = tilted(small_data, missing=missing)
    inputs = data.splits["train"].inputs
    encoder = fitted(data, hidden).encoder
    before, after = given(encoder.inner, inputs), given(encoder, inputs)
    of_column, places = encoder.columns_of_slots().numpy(), [3, 2][: len(hidden)]
    assert (after[:, np.isin(of_column, places)] == 0).all()
    for slot in np.flatnonzero(~np.isin(of_column, places)):
        assert after[:, slot].mean() == pytest.approx(before[:, slot].mean(), abs=1e-5)
        for column in places:  # by brute force, one category at a time
            means = [after[inputs[:, column] == code, slot].mean() for code in np.unique(inputs[:, column])]
            assert np.ptp(means) < 2e-5
    if hidden == ["sex"]:  # of one column it is the group's mean less the mean of all
        for code in (0, 1):
            inside = inputs[:, 3] == code
            np.testing.assert_allclose(
                (before - after)[inside][:, of_column != 3],
                np.tile((before[inside].mean(axis=0) - before.mean(axis=0))[of_column != 3], (inside.sum(), 1)),
                atol=1e-5,
            )


def test_a_share_of_it_an_unknown_group_and_a_row_that_cannot_be_read(small_data):
    data = tilted(small_data)
    inputs = data.splits["test"].inputs[:50]
    whole, half = (fitted(data, ["sex"], alpha).encoder for alpha in (1.0, 0.5))
    kept = whole.kept.numpy() > 0
    middle = (given(whole, inputs) + given(whole.inner, inputs)) / 2
    np.testing.assert_allclose(given(half, inputs)[:, kept], middle[:, kept], atol=1e-5)
    odd = inputs.copy()
    odd[0, 3], odd[1, 0] = -1, np.nan
    assert np.array_equal(given(whole, odd)[0, kept], given(whole.inner, odd)[0, kept])  # nobody's group: no shift
    assert np.isnan(given(whole, odd)[1]).any()
    assert np.array_equal(given(whole, odd)[2:], given(whole, inputs)[2:])


@pytest.mark.peer
@pytest.mark.parametrize("hidden", [["sex"], ["sex", "job"]])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_equal_to_fairlearn_on_the_encoded_table(small_data, hidden, alpha):
    preprocessing = pytest.importorskip("fairlearn.preprocessing")
    data = tilted(small_data)
    encoder = fitted(data, hidden, alpha).encoder
    train, test = (given(encoder.inner, data.splits[name].inputs) for name in ("train", "test"))
    peer = preprocessing.CorrelationRemover(sensitive_feature_ids=encoder.slots.tolist(), alpha=alpha).fit(train)
    kept = encoder.kept.numpy() > 0
    np.testing.assert_allclose(given(encoder, data.splits["test"].inputs)[:, kept], peer.transform(test), atol=1e-6)


@pytest.fixture(scope="module")
def trained(small_data):
    data = tilted(small_data)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(data), TrainSettings(epochs=3))
    return train_system(data, recipe=recipe)


def test_the_model_takes_raw_rows_is_kept_and_trained_again_alike(trained, tmp_path):
    treated = remove_correlation(trained)
    test = trained.data.splits["test"]
    outcome = treated.lineage[-1].outcome
    assert outcome["largest_correlation"]["before"] > 0.15
    assert outcome["largest_correlation"]["after"] < 0.001
    assert treated.recipe.digest != trained.recipe.digest
    assert treated.data is trained.data
    loaded = load_system(save_system(treated, tmp_path / "one"), treated.data)
    assert np.array_equal(loaded.model.outputs(test.inputs), treated.model.outputs(test.inputs))
    again = treated.recipe.fit(treated.data.splits["train"], treated.data, treated.seed)
    assert again.model.digest == treated.model.digest
    half = trained.data.splits["train"].take(np.arange(200))
    reference = treated.recipe.fit(half, treated.data, 1)  # fitted on its own rows
    assert not torch.equal(reference.model.module.encoder.weights, treated.model.module.encoder.weights)
    assert treated.offers == trained.offers
    _, losses, gradients = loss_gradients(treated.model.module, test.inputs[:50], test.labels[:50])
    moved = test.inputs[:50].copy()
    moved[:, 0] += 0.05
    after = loss_gradients(treated.model.module, moved, test.labels[:50])[1]
    assert np.corrcoef((after - losses) / 0.05, gradients[:, 0])[0, 1] > 0.99  # gradients reach the raw numbers


def test_what_does_not_fit_is_said(trained, small_data):
    with pytest.raises(TreatmentError, match=r"does not read race.*features too: sex"):
        remove_correlation(trained, columns=["sex", "race"])
    with pytest.raises(TreatmentError, match="alpha is 0"):
        remove_correlation(trained, alpha=0.0)
    data = small_images(60)
    with pytest.raises(TreatmentError, match="its inputs are images"):
        remove_correlation(System("known", KnownModel(), data, task_of(data), Argmax(), trained.recipe))
    with pytest.raises(ModelError, match="cannot take age out"):
        build(
            "uncorrelated",
            columns=small_data.columns[:2],
            num_outputs=2,
            params={"base": {"name": "mlp", "params": {}}, "hidden": ["age"], "alpha": 1.0},
        )


@pytest.mark.slow
def test_selection_rates_of_a_linear_model_of_adult_come_closer():
    """Measured: 0.1736 before, 0.0607 after (women and men), accuracy 0.851 and 0.841; a network's do not move."""
    data = load_adult()
    recipe = TrainRecipe(Architecture("mlp", {"hidden": []}), task_of(data), TrainSettings())
    system = train_system(data, recipe=recipe)
    workspace, found = Workspace(key=b"owner", num_draws=100), []
    for one in (system, remove_correlation(system)):
        audit = engine.audit(one, probes=["selection_rate_gap", "accuracy"], workspace=workspace)
        found.append((audit.find("demographic_parity_difference", "sex"), audit.find("accuracy").value))
    (before, right), (after, right_after) = found
    assert after.high < before.low
    assert after.value < 0.08
    assert right_after > right - 0.015
    assert audit.system.lineage[-1].outcome["largest_correlation"]["after"] < 0.001


class Reads(nn.Module):
    """A network of one's own that begins with our encoding of rows."""

    def __init__(self, columns):
        super().__init__()
        self.encoder = TableEncoder(columns)
        self.out = nn.Linear(self.encoder.num_encoded, 2)

    def fit_encoding(self, split):
        self.encoder.fit(split.inputs)

    def forward(self, rows):
        return self.out(self.encoder(rows))


def test_a_network_of_ones_own_needs_our_encoding(small_data, monkeypatch):
    monkeypatch.setitem(BUILDERS, "reads", lambda columns, num_outputs, params: Reads(columns))
    recipe = TrainRecipe(Architecture("reads"), task_of(small_data), TrainSettings(epochs=1))
    system = train_system(small_data, recipe=recipe)
    found = remove_correlation(system).lineage[-1].outcome["largest_correlation"]
    assert found["after"] < 1e-3 < found["before"]
    bare = replace(system, model=ModuleModel(nn.Linear(4, 2)))
    with pytest.raises(TreatmentError, match=r"its module \(Linear\) encodes rows in a way of its own.*TableEncoder"):
        remove_correlation(bare)
