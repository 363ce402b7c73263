"""An adversary's gradient reversed: the loss is the formula, a planted proxy is forgotten, no group is asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from assay.errors import TreatmentError
from assay.models import Architecture
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.train.reverse_gradient import (
    ReversalRecipe,
    ReversalSettings,
    ReversedLoss,
    known_codes,
    reverse_gradient,
)
from assay.values import Column, Data, Groups, Split

SEX = Column("sex", "categorical", ("f", "m"))


def proxied(num: int = 4000, *, seed: int = 0) -> Data:
    """Skill is the same in both groups; labels favour one, and a column that is no group column tells which."""
    rng = np.random.default_rng(seed)
    sex = rng.integers(2, size=num)
    skill = rng.normal(size=num)
    labels = (skill + 1.2 * (sex - 0.5) + rng.normal(0, 0.7, num) > 0).astype(np.int64)
    proxy = sex * 2 - 1 + rng.normal(0, 0.5, num)
    inputs = np.stack([skill, proxy], axis=1).astype(np.float32)
    whole = Split(inputs, labels, Groups(sex[:, None].astype(np.int16), (SEX,)), np.arange(1, num + 1))
    ends = {"train": (0, num // 2), "validation": (num // 2, num * 6 // 10), "test": (num * 6 // 10, num)}
    splits = {name: whole.take(np.arange(*where)) for name, where in ends.items()}
    columns = (Column("skill", "numeric", low=-4, high=4), Column("proxy", "numeric", low=-3, high=3))
    return Data("proxied", columns, "label", (SEX,), splits, ("no", "yes"), "yes")


@pytest.fixture(scope="module")
def plain():
    data = proxied()
    settings = TrainSettings(epochs=8, batch_size=100)
    return train_system(data, recipe=TrainRecipe(Architecture("mlp", {"hidden": [16]}), task_of(data), settings))


def rates(system):
    """Test accuracy, selection gap, and larger gap of the two error rates, between the sexes."""
    test = system.data.splits["test"]
    chosen, sex = system.model.outputs(test.inputs).argmax(axis=1), test.groups.codes[:, 0]
    gap = abs(float(np.diff([chosen[sex == one].mean() for one in (0, 1)])[0]))
    odds = [[chosen[(sex == one) & (test.labels == given)].mean() for one in (0, 1)] for given in (0, 1)]
    return float((chosen == test.labels).mean()), gap, float(np.abs(np.diff(odds)).max())


def test_a_planted_proxy_is_forgotten(plain):
    before, treated = rates(plain), reverse_gradient(plain, strength=2.0)
    after = rates(treated)
    assert before[1] > 0.3
    assert after[1] < before[1] / 3
    assert after[0] > 0.7, "skill still counts"
    told = treated.lineage[-1].outcome
    assert told["loss_without_the_answer"] == pytest.approx(np.log(2), abs=0.01)
    assert told["loss"] > told["loss_without_the_answer"] - 0.03
    assert not treated.decision.needs_groups
    assert treated.model.architecture == plain.model.architecture, "the adversary is not kept"


def test_given_the_label_error_rates_come_together(plain):
    before, after = rates(plain), rates(reverse_gradient(plain, given="label", strength=2.0))
    assert before[2] > 0.15
    assert after[2] < before[2] / 2
    assert after[1] > 0.08, "labels still differ between the groups, and so may selection"


@pytest.mark.parametrize("given", ["nothing", "label"])
def test_loss_is_the_formula_and_looking_trains_nobody(given):
    data = proxied(200)
    split = data.splits["train"]
    codes = split.groups.codes.copy()
    codes[:4] = -1
    split = replace(split, groups=Groups(codes, (SEX,)))
    recipe = TrainRecipe(Architecture("mlp"), task_of(data), TrainSettings(epochs=1, batch_size=100))
    loss = ReversedLoss(split, recipe, ReversalSettings(("sex",), given, 0.7, 0.0), seed=3)
    rows = torch.arange(30)
    outputs = torch.randn(30, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain_losses = functional.cross_entropy(outputs, torch.from_numpy(split.labels[:30]), reduction="none")
    with torch.no_grad():
        assert torch.equal(loss(outputs, rows), plain_losses.detach())
    loss.entropy = 9.0  # the gate stays open
    found = loss(outputs, rows)
    told = functional.cross_entropy(loss.adversary(loss.shown(outputs, rows)[4:]), loss.codes[4:30], reduction="none")
    expected = plain_losses - 0.7 * torch.cat([torch.zeros(4), told])
    torch.testing.assert_close(found, expected)
    gradient = torch.autograd.grad(found.sum(), outputs)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), outputs)[0])
    loss.entropy = 0.0  # an adversary that knows nothing
    torch.testing.assert_close(loss(outputs, rows), plain_losses)


def test_entropy_is_that_of_groups_given_the_label():
    data = proxied(2000)
    split, recipe = data.splits["train"], TrainRecipe(Architecture("mlp"), task_of(data))
    loss = ReversedLoss(split, recipe, ReversalSettings(("sex",), "label"), seed=0)
    codes, num = known_codes(split, ["sex"])
    told = 0.0
    for label in (0, 1):
        for sex in range(num):
            share = (codes[split.labels == label] == sex).mean()
            told -= ((codes == sex) & (split.labels == label)).mean() * np.log(share)
    assert loss.entropy == pytest.approx(told)


def test_the_adversary_does_not_begin_as_a_copy_of_the_model(plain):
    split, recipe = plain.data.splits["train"], plain.recipe
    adversary = ReversedLoss(split, recipe, ReversalSettings(("sex",)), seed=3).adversary
    module = recipe.make_module(split, plain.data, 3)
    own, other = (next(p for p in one.parameters() if p.ndim == 2).detach().reshape(-1) for one in (adversary, module))
    num = min(len(own), len(other))
    assert num >= 64
    assert abs(np.corrcoef(own[:num], other[:num])[0, 1]) < 4 / num**0.5


def test_digest_covers_what_changes_it(plain):
    base = ReversalSettings(("sex",))
    changes = ({"columns": ("race",)}, {"given": "label"}, {"strength": 2.0}, {"warmup": 0.5})
    recipes = [ReversalRecipe(plain.recipe, one) for one in (base, *(replace(base, **one) for one in changes))]
    assert len({one.digest for one in recipes}) == 5


def test_what_it_refuses(plain):
    with pytest.raises(TreatmentError) as caught:
        reverse_gradient(plain, given="luck", strength=0, warmup=2)
    assert len(caught.value.problems) == 3
    train = plain.data.splits["train"]
    alone = replace(train, groups=Groups(np.zeros_like(train.groups.codes), (SEX,)))
    data = replace(plain.data, splits={**plain.data.splits, "train": alone})
    with pytest.raises(TreatmentError, match="have 1 group"):
        reverse_gradient(replace(plain, data=data))
    with pytest.raises(TreatmentError, match="its recipe is a ReversalRecipe"):
        reverse_gradient(replace(plain, recipe=ReversalRecipe(plain.recipe, ReversalSettings(("sex",)))))
