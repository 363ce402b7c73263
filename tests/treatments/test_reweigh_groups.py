"""Kamiran-Calders weights: a table counted by hand, and what they promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.errors import TreatmentError
from assay.tasks import Argmax, task_of
from assay.treatments.data.reweigh_groups import balancing_factors, reweigh_groups
from assay.values import System
from support import KnownModel, Remembers, remembering


def test_a_table_by_hand():
    """Men 3 of 5 positive, women 1 of 5; 4 of 10 positive: w = n_g n_y / (n n_gy)."""
    sex = np.repeat([0, 1], 5)
    label = np.array([1, 0, 0, 0, 0, 1, 1, 1, 0, 0])
    expected = {(0, 1): 5 * 4 / (10 * 1), (0, 0): 5 * 6 / (10 * 4), (1, 1): 5 * 4 / (10 * 3), (1, 0): 5 * 6 / (10 * 2)}
    weights = balancing_factors(sex, label)
    assert weights == pytest.approx([expected[g, y] for g, y in zip(sex, label, strict=True)])
    assert sorted(set(np.round(weights, 6))) == [0.666667, 0.75, 1.5, 2.0]


@pytest.mark.parametrize("seed", range(5))
def test_group_and_label_become_independent(seed):
    rng = np.random.default_rng(seed)
    group, before = rng.integers(0, 4, 400), rng.uniform(0.1, 3, 400)
    label = (rng.random(400) < 0.2 + 0.2 * group).astype(int)
    weights = before * balancing_factors(group, label, before)
    share = (weights * label).sum() / weights.sum()
    for code in range(4):
        inside = group == code
        assert (weights * label)[inside].sum() / weights[inside].sum() == pytest.approx(share)
        assert weights[inside].sum() == pytest.approx(before[inside].sum())  # no group gains weight
    assert (before * label).sum() == pytest.approx((weights * label).sum())  # no label does


def test_independent_data_are_left_alone():
    group, label = np.tile([0, 0, 1, 1], 50), np.tile([0, 1, 0, 1], 50)
    assert np.array_equal(balancing_factors(group, label), np.ones(200))


def test_trains_once_with_weights_times_the_old_ones(small_data):
    recipe = Remembers()
    old = np.linspace(0.5, 1.5, len(small_data.splits["train"])).astype(np.float32)
    train = replace(small_data.splits["train"], weights=old)
    data = replace(small_data, splits={**small_data.splits, "train": train})
    system = System("known", KnownModel(), data, task_of(data), Argmax(), recipe, seed=7)
    treated = reweigh_groups(system, columns=["sex", "race"])
    [split] = recipe.seen
    assert recipe.seeds == [7]
    weights = split.weights
    sex, race = train.groups.codes.T
    assert weights == pytest.approx(old * balancing_factors(sex * 10 + race, train.labels, old), rel=1e-6)
    assert treated.data.splits["test"] is data.splits["test"]
    assert treated.recipe is recipe  # references are trained on halves of the weighted split
    outcome = treated.lineage[-1].outcome
    assert outcome["smallest_weight"] == pytest.approx(weights.min())
    assert outcome["effective_num_train"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-5)


@pytest.mark.parametrize("columns", [["age"], [], ["sex", "sex"]])
def test_unknown_columns_are_named(small_data, columns):
    system = remembering(small_data)
    with pytest.raises(TreatmentError, match="sex, race"):
        reweigh_groups(system, columns=columns)
