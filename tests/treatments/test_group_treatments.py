"""Treatments for the group or class that is worst off: against closed forms, and on planted cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from assay.engine import audit
from assay.errors import TreatmentError
from assay.models import Architecture
from assay.observe import Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.retrain_last_layer import cell_weights, features, last_linear, retrain_last_layer
from assay.treatments.train.group_dro import GroupLoss, cells_of, group_dro
from assay.treatments.train.weigh_classes import weigh_classes
from assay.values import Column, Data, Groups, Split


def spurious(num: int = 3000, *, share: float = 0.95, seed: int = 0) -> Data:
    """A label that one column tells weakly and truly, and another strongly, but only in `share` of rows."""
    rng = np.random.default_rng(seed)
    splits = {}
    for place, (name, agreement) in enumerate((("train", share), ("validation", share), ("test", 0.5))):
        size = num if name == "train" else num // 2
        labels = rng.integers(2, size=size)
        shown = np.where(rng.random(size) < agreement, labels, 1 - labels)
        core = labels * 2 - 1 + rng.normal(0, 0.8, size)
        inputs = np.stack([core, (shown * 2 - 1) + rng.normal(0, 0.2, size)], axis=1).astype(np.float32)
        groups = Groups(shown[:, None].astype(np.int16), (Column("shown", "categorical", ("a", "b")),))
        splits[name] = Split(inputs, labels, groups, np.arange(1, size + 1) + place * num)
    columns = (Column("core", "numeric", low=-4, high=4), Column("easy", "numeric", low=-2, high=2))
    group = (Column("shown", "categorical", ("a", "b")),)
    return Data("spurious", columns, "label", group, splits, ("no", "yes"), "yes")


def worst(system) -> float:
    """Accuracy of the worst cell of group and label on test rows."""
    test = system.data.splits["test"]
    right = system.model.outputs(test.inputs).argmax(axis=1) == test.labels
    cells = cells_of(test, ["shown"])
    return min(float(right[cells == one].mean()) for one in np.unique(cells))


def balanced(system) -> float:
    """Mean over labels of the share of their test rows that is found."""
    test = system.data.splits["test"]
    right = system.model.outputs(test.inputs).argmax(axis=1) == test.labels
    return float(np.mean([right[test.labels == one].mean() for one in np.unique(test.labels)]))


@pytest.fixture(scope="module")
def plain():
    data = spurious()
    settings = TrainSettings(epochs=6, batch_size=100)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(data), settings)
    return train_system(data, name="plain", recipe=recipe)


@pytest.mark.parametrize("treat", [group_dro, retrain_last_layer], ids=lambda one: one.__name__)
def test_the_worst_cell_gains_where_a_shortcut_was_learnt(plain, treat):
    treated = treat(plain)
    assert worst(treated) > worst(plain) + 0.1
    assert balanced(treated) > balanced(plain), "what it declares"
    told = [audit(one, probes=["group_error_rates"], workspace=Workspace(key=b"k")) for one in (plain, treated)]
    values = [one.find("worst_cell_accuracy", "shown").value for one in told]
    assert values == [pytest.approx(worst(plain)), pytest.approx(worst(treated))]


def test_nothing_is_lost_where_there_is_no_shortcut():
    data = spurious(share=0.5)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(data), TrainSettings(epochs=6, batch_size=100))
    system = train_system(data, recipe=recipe)
    for treat in (group_dro, retrain_last_layer):
        assert worst(treat(system)) > worst(system) - 0.04


def test_group_weights_follow_the_exponentiated_gradient():
    data = spurious(40)
    split, task = data.splits["train"], task_of(data)
    recipe = TrainRecipe(Architecture("mlp"), task, TrainSettings())
    codes = cells_of(split, ["shown"])
    loss = GroupLoss(split, recipe, codes=codes, step_size=0.5)
    outputs = torch.randn(30, 2, requires_grad=True, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(30)
    found = loss(outputs, rows)
    plain_losses = nn.functional.cross_entropy(outputs, torch.from_numpy(split.labels[:30]), reduction="none").detach()
    inside = codes[:30]
    present = np.unique(inside)
    means = {one: plain_losses.numpy()[inside == one].mean() for one in present}
    num = codes.max() + 1
    weights = np.array([np.exp(0.5 * means[one]) if one in means else 1.0 for one in range(num)]) / num
    weights /= weights.sum()
    np.testing.assert_allclose(loss.weights.numpy(), weights, rtol=1e-5)
    assert float(found.detach().mean()) == pytest.approx(sum(weights[one] * means[one] for one in present), rel=1e-5)
    with torch.no_grad():
        loss(outputs, rows)
    np.testing.assert_allclose(loss.weights.numpy(), weights, rtol=1e-5)  # looking does not train


def test_the_last_layer_is_what_scikit_learn_finds_on_the_same_features(plain):
    """Two classes, penalty on the distance from 0 after the old layer is set to 0: a weighted logistic regression."""
    bare = replace(plain)
    layer = last_linear(bare.model.module)
    kept = [one.detach().clone() for one in (layer.weight, layer.bias)]
    try:
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
        split, penalty = plain.data.splits["validation"], 0.05
        treated = retrain_last_layer(bare, penalty=penalty)
        seen, _ = features(bare.model.module, layer, split.inputs)
    finally:
        with torch.no_grad():
            layer.weight.copy_(kept[0])
            layer.bias.copy_(kept[1])
    weights = cell_weights(split.groups.codes[:, 0], split.labels, seen).numpy()
    wide = np.column_stack([seen.numpy(), np.ones(len(seen))])  # the bias is held near 0 too
    # Two outputs of opposite weights: |w|^2 of each is a quarter of |difference|^2, twice.
    peer = LogisticRegression(C=1 / (penalty / 2 * len(seen)), fit_intercept=False, tol=1e-8, max_iter=2000)
    peer.fit(wide, split.labels, sample_weight=weights)
    found = last_linear(treated.model.module)
    difference = torch.cat([found.weight, found.bias[:, None]], dim=1).detach().numpy()
    np.testing.assert_allclose(difference[1] - difference[0], peer.coef_[0], rtol=2e-3, atol=2e-3)


def test_a_network_that_does_not_end_in_a_linear_layer_is_refused(plain):
    from assay.treatments.model.quantize_int8 import quantize_int8

    with pytest.raises(TreatmentError, match="not that of a last linear layer"):
        retrain_last_layer(quantize_int8(plain))


def test_a_rare_class_counts_as_much_as_a_common_one():
    data = spurious(share=0.5)
    rare = {}
    for name, split in data.splits.items():
        kept = np.flatnonzero((split.labels == 0) | (np.arange(len(split)) % 12 == 0))
        rare[name] = split.take(kept)
    data = replace(data, splits=rare)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(data), TrainSettings(epochs=6, batch_size=100))
    before = train_system(data, recipe=recipe)
    after = weigh_classes(before)
    test = data.splits["test"]

    def found(system, label):
        return float((system.model.outputs(test.inputs).argmax(axis=1) == label)[test.labels == label].mean())

    assert found(after, 1) > found(before, 1) + 0.1
    assert after.recipe.settings.class_weights == "balanced"
    assert abs(after.lineage[-1].outcome["class_rows"]["yes"] - (data.splits["train"].labels == 1).sum()) <= 5
