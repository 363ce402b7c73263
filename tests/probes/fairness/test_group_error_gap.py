import numpy as np
import pytest

from assay.probes.fairness.group_error_gap import group_error_gap
from assay.stats import make_draws
from assay.values import Column, Groups

COLUMN = (Column("origin", "categorical", ("a", "b", "c")),)


def measure(labels, predictions, codes, num_draws=200):
    draws = make_draws(b"key", "split", [codes], num_draws=num_draws)
    found = group_error_gap(labels, predictions, Groups(codes[:, None], COLUMN), draws)
    return {(one.metric, one.slice): one for one in found}


def test_equals_averaging_by_hand():
    rng = np.random.default_rng(0)
    labels, codes = rng.normal(size=50), rng.integers(3, size=50)
    predictions = labels + rng.normal(size=50)
    found = measure(labels, predictions, codes)
    means = []
    for g, name in enumerate("abc"):
        errors = [p - y for y, p, c in zip(labels, predictions, codes, strict=True) if c == g]
        means.append(sum(map(abs, errors)) / len(errors))
        assert found["group_mean_absolute_error", f"origin={name}"].value == pytest.approx(means[-1])
        assert found["mean_residual", f"origin={name}"].value == pytest.approx(sum(errors) / len(errors))
    assert found["mean_absolute_error_difference", "origin"].value == pytest.approx(max(means) - min(means))


def test_errored_examples_make_their_group_and_the_difference_undefined():
    predictions = np.array([np.nan, 1, 1, 1, 2, 2])
    found = measure(np.zeros(6), predictions, np.array([0, 0, 1, 1, 2, 2]))
    assert found["group_mean_absolute_error", "origin=a"].value is None
    assert found["group_mean_absolute_error", "origin=a"].errored == 1
    assert found["group_mean_absolute_error", "origin=b"].value == 1
    assert found["mean_absolute_error_difference", "origin"].value is None
    assert "1 of 2 examples errored" in found["mean_absolute_error_difference", "origin"].reason


def test_planted_gap_found_and_covered_and_equal_groups_left_alone():
    held = seen = alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        codes, noise = rng.integers(3, size=300), rng.normal(size=300)
        gap = measure(np.zeros(300), noise * (1 + (codes == 2)), codes)["mean_absolute_error_difference", "origin"]
        held += gap.low <= np.sqrt(2 / np.pi) <= gap.high
        seen += gap.low > 0
        alarms += measure(np.zeros(300), noise, codes)["mean_absolute_error_difference", "origin"].low > 0
    assert held >= 55
    assert seen >= 56
    assert alarms <= 4
