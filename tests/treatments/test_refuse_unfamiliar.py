"""No answer for what is far from training: the share asked for, by formula, told apart from what failed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from torch import nn

from assay import engine
from assay.access.references import reference_models
from assay.errors import TreatmentError
from assay.matrix import compare
from assay.models import Architecture, tensors
from assay.models.adapters.module import ModuleModel
from assay.models.guarded import Guarded, class_shape
from assay.models.store import load_system, save_system
from assay.observe import Ledger, Workspace
from assay.story import system_of
from assay.tasks import task_of
from assay.tasks.decisions import REFUSED
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.group_thresholds import group_thresholds
from assay.treatments.serve.refuse_unfamiliar import refuse_unfamiliar
from assay.treatments.serve.round_outputs import round_outputs
from support import small_images, small_texts

NETS = {"cnn_lenet": {"widths": [2, 3], "hidden": [8]}, "ngrams": {"dim": 6, "vocab_size": 60, "num_grams": 100}}


@pytest.fixture(scope="module")
def trained(small_data):
    settings = TrainSettings(epochs=6, batch_size=64, learning_rate=1e-2)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(small_data), settings)
    return train_system(small_data, recipe=recipe)


def answers(system, inputs):
    split = system.data.splits["test"]
    probabilities = system.task.probabilities(system.model.outputs(inputs))
    return system.decision.decide(probabilities, inputs, split.groups), probabilities


def test_the_distance_is_that_of_mahalanobis():
    """To the nearest class mean, by scipy, with the covariance within classes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    seen = rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4)) + 5 * labels[:, None]
    means, whitener = class_shape(seen, labels, 3)
    inside = np.concatenate([seen[labels == k] - seen[labels == k].mean(axis=0) for k in range(3)])
    covariance = inside.T @ inside / 400
    covariance += 1e-3 * np.trace(covariance) / 4 * np.eye(4)
    module = Guarded(nn.Linear(4, 3), score="distance", num_outputs=3)
    module.means.copy_(torch.from_numpy(means))
    module.whitener.copy_(torch.from_numpy(whitener))
    rows = rng.normal(size=(20, 4)) * 5
    with torch.no_grad():
        ours = module.scores(*module.look(torch.from_numpy(rows).float())).numpy()
    precision = np.linalg.inv(covariance)
    theirs = [min(mahalanobis(row, mean, precision) ** 2 for mean in means) for row in rows]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


@pytest.mark.parametrize("score", ["distance", "energy"])
@pytest.mark.parametrize("refused", [0.02, 0.2])
def test_at_most_the_share_asked_for_and_nothing_else_changes(trained, score, refused):
    treated = refuse_unfamiliar(trained, refused=refused, score=score)
    validation = trained.data.splits["validation"].inputs
    told = trained.task.probabilities(treated.model.outputs(validation))
    share = (told[:, 0] == told[:, 1]).mean()
    assert refused - 2 / len(validation) <= share <= refused
    assert treated.lineage[-1].outcome["refused_of_validation"] == pytest.approx(share)
    test = trained.data.splits["test"].inputs
    found, probabilities = answers(treated, test)
    before = trained.task.probabilities(trained.model.outputs(test))
    kept = found != REFUSED
    assert np.array_equal(probabilities[kept], before[kept])
    assert (probabilities[~kept] == 0.5).all()
    assert np.abs((~kept).mean() - refused) < 0.06


def test_far_rows_are_refused_failed_ones_are_not_and_the_probe_tells_them_apart(trained, tmp_path):
    treated = refuse_unfamiliar(trained)
    far = trained.data.splits["test"].inputs.copy()
    far[:50, 0] = 900  # ten times the oldest
    far[50, 0] = np.nan
    found, _ = answers(treated, far)
    assert (found[:50] == REFUSED).mean() > 0.9
    assert found[50] == -1
    assert (found[51:] == REFUSED).mean() < 0.12
    loaded = load_system(save_system(treated, tmp_path / "one"), treated.data)
    assert np.array_equal(answers(loaded, far)[0], found)
    split = trained.data.splits["test"]
    workspace = Workspace(key=b"owner", num_draws=20)
    audit = engine.audit(treated, probes=["refusals", "accuracy"], workspace=workspace)
    mine, _ = answers(treated, split.inputs)
    kept = mine != REFUSED
    assert audit.find("refused_share").value == pytest.approx((~kept).mean())
    assert audit.find("answered_accuracy").value == pytest.approx((mine == split.labels)[kept].mean())
    assert audit.find("accuracy").value == pytest.approx((mine == split.labels).mean())
    assert audit.find("accuracy").attempted == len(split)  # refused rows stay in the denominator
    assert audit.find("refused_share").errored == 0
    for code, name in enumerate(split.groups.columns[0].categories):
        member = split.groups.codes[:, 0] == code
        of_group = audit.find("refused_share", f"{split.groups.columns[0].name}={name}")
        assert of_group.value == pytest.approx((~kept)[member].mean())
        assert of_group.attempted == member.sum()
    plain = engine.audit(trained, probes=["refusals"], workspace=workspace)
    assert plain.find("refused_share").value == plain.find("foreign_refused_share").value == 0
    assert "refusals" not in plain.ledger
    (effect,) = [one for one in compare([plain, audit], workspace=workspace).details[treated.name]
                 if one.key[1] == "answered_accuracy"]  # fmt: skip
    gain = audit.find("answered_accuracy").value - plain.find("answered_accuracy").value
    assert effect.value == pytest.approx(gain)
    assert effect.low < gain < effect.high


@pytest.mark.parametrize("kind", ["cnn_lenet", "ngrams"])
def test_foreign_pictures_and_texts_are_refused_more_often(kind):
    data = small_images(2000, num_classes=2) if kind == "cnn_lenet" else small_texts(1200)
    settings = TrainSettings(epochs=3, batch_size=64, learning_rate=5e-3)
    system = train_system(data, recipe=TrainRecipe(Architecture(kind, NETS[kind]), task_of(data), settings))
    treated = refuse_unfamiliar(system, refused=0.1)
    audit = engine.audit(treated, probes=["refusals"], workspace=Workspace(key=b"owner", num_draws=20))
    own, foreign = audit.find("refused_share"), audit.find("foreign_refused_share")
    assert own.value < 0.2
    if kind == "cnn_lenet":  # patches in another order; a bag of words is as it was
        assert foreign.low > own.high


def test_what_does_not_fit_is_said(trained):
    for options, words in (({"refused": 0.0}, "at most 0.5"), ({"score": "depth"}, "distance, energy")):
        with pytest.raises(TreatmentError, match=words):
            refuse_unfamiliar(trained, **options)
    with pytest.raises(TreatmentError, match="thresholds of probabilities"):
        refuse_unfamiliar(group_thresholds(trained))
    assert refuse_unfamiliar(round_outputs(trained), score="energy").lineage[-1].stage == "serve"


def test_what_a_reference_model_finds_familiar_is_its_own_half(trained):
    """A guard fitted on all training rows would have met the rows that the reference must not know."""
    treated = refuse_unfamiliar(trained)
    for one in reference_models(treated, Workspace(key=b"k", num_references=2), Ledger(10**9)):
        own, module = trained.data.splits["train"].take(np.flatnonzero(one.members)), one.system.model.module
        with torch.no_grad():
            _, seen = module.look(tensors(module, own.inputs))
        means, _ = class_shape(seen.double().numpy(), own.labels, 2)
        np.testing.assert_allclose(module.means.numpy(), means, atol=1e-5)
        assert one.system.data.digest == trained.data.digest, "its answers to all training rows are asked for"


class Spare(nn.Module):
    """A network of one's own with a last linear layer that nothing goes through."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 2)
        self.spare = nn.Linear(3, 2)

    def forward(self, rows):
        return self.out(rows / 50 - 1)


def test_a_layer_that_is_never_run_has_no_embedding(small_data):
    system = system_of(ModuleModel(Spare().eval()), small_data, name="own")
    with pytest.raises(TreatmentError, match=r"not one embedding a row.*score=\"energy\""):
        refuse_unfamiliar(system)
    assert refuse_unfamiliar(system, score="energy").lineage[-1].outcome["num_validation"] == 300
