"""Whole rows instead of weights: cell counts by the formula, and on average what the weights say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.errors import TreatmentError
from assay.treatments.data.resample_groups import copies, resample_groups, rounded
from assay.treatments.data.reweigh_groups import balancing_factors, reweigh_groups
from support import remembering


def cells_of(group, label):
    return np.bincount(group * 2 + label, minlength=8).reshape(4, 2)


@pytest.mark.parametrize("seed", range(5))
def test_cell_counts_are_the_formula_and_the_total_stays(seed):
    rng = np.random.default_rng(seed)
    group = rng.choice(4, 997, p=[0.5, 0.3, 0.15, 0.05])
    label = (rng.random(997) < 0.1 + 0.2 * group).astype(int)
    taken = copies(group, label, rng)
    before, after = cells_of(group, label), cells_of(np.repeat(group, taken), np.repeat(label, taken))
    expected = np.outer(before.sum(axis=1), before.sum(axis=0)) / 997  # brute: n_g n_y / n
    assert np.abs(after - expected).max() < 1
    assert taken.sum() == 997
    for cell in range(8):  # a row of a cell is taken as often as any other of it, to one
        own = taken[group * 2 + label == cell]
        assert own.max() - own.min() <= 1


def test_on_average_a_row_counts_as_much_as_its_weight():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 120)
    label = (rng.random(120) < 0.2 + 0.25 * group).astype(int)
    mean = np.mean([copies(group, label, np.random.default_rng(seed)) for seed in range(600)], axis=0)
    weights = balancing_factors(group, label)
    sizes = np.bincount(group * 2 + label)[group * 2 + label]
    # Rounding moves a cell by less than a row, and 600 draws of a coin are off by 5 standard errors at the most.
    assert (np.abs(mean - weights) <= 1 / sizes + 5 * 0.5 / np.sqrt(600)).all()
    for cell in range(6):
        rows = group * 2 + label == cell
        assert mean[rows].mean() == pytest.approx(weights[rows].mean(), abs=1 / rows.sum())


def test_independent_data_and_whole_numbers_are_left_alone():
    group, label = np.tile([0, 0, 1, 1], 50), np.tile([0, 1, 0, 1], 50)
    assert copies(group, label, np.random.default_rng(0)).tolist() == [1] * 200
    assert rounded(np.array([[3.0, 2.0], [1.0, 4.0]])).tolist() == [[3, 2], [1, 4]]


def test_an_empty_cell_stays_empty():
    taken = copies(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 1]), np.random.default_rng(1))
    assert taken[2] == 1  # the only row of label 0; group 0 has none that could be repeated
    assert taken.sum() <= 4


def test_trains_on_whole_rows_by_the_seed_and_records_the_cells(small_data):
    system = remembering(small_data)
    treated = resample_groups(system, columns=["sex", "race"])
    (seen,) = system.recipe.seen
    train = small_data.splits["train"]
    assert seen.weights is None
    assert len(seen) == len(train)
    place = np.searchsorted(train.rows, seen.rows)
    assert np.array_equal(seen.inputs, train.inputs[place])  # whole rows: inputs, labels and groups together
    assert np.array_equal(seen.labels, train.labels[place])
    assert np.array_equal(seen.groups.codes, train.groups.codes[place])
    assert treated.data.splits["test"] is small_data.splits["test"]
    outcome = treated.lineage[-1].outcome
    assert outcome["num_left_out"] == len(train) - len(np.unique(seen.rows)) == outcome["num_copies"]
    inside = (seen.groups.codes[:, 0] == 1) & (seen.groups.codes[:, 1] == 0) & (seen.labels == 1)
    assert abs(outcome["cells"]["sex=Male & race=x & yes"]["after"] - inside.sum()) <= 5, "to the nearest ten"
    again, other = (resample_groups(remembering(small_data, seed=seed)) for seed in (7, 8))
    assert again.digest == resample_groups(system).digest != other.digest


def test_weights_unknown_columns_and_a_lost_class_are_refused(small_data):
    with pytest.raises(TreatmentError, match="Use reweigh_groups"):
        resample_groups(reweigh_groups(remembering(small_data)))
    with pytest.raises(TreatmentError, match="sex, race"):
        resample_groups(remembering(small_data), columns=["age"])
    train = small_data.splits["train"]
    labels = np.zeros_like(train.labels)
    labels[0] = 1  # the only row of its class, in a cell that is to have a third of a row
    data = replace(small_data, splits={**small_data.splits, "train": replace(train, labels=labels)})
    with pytest.raises(TreatmentError, match="no training row of yes"):
        resample_groups(remembering(data), columns=["sex", "race"])
