import math

import numpy as np
import pytest

from assay.probes.utility.regression_error import regression_error
from assay.stats import make_draws


def measure(labels, predictions, num_draws=200):
    draws = make_draws(b"key", "split", [np.zeros(len(labels), dtype=int)], num_draws=num_draws)
    return {one.metric: one for one in regression_error(labels, predictions, draws)}


def test_equals_summing_by_hand():
    rng = np.random.default_rng(0)
    labels = rng.normal(1e4, 1, size=50)
    predictions = labels + rng.normal(size=50)
    found = measure(labels, predictions)
    errors = [p - y for y, p in zip(labels, predictions, strict=True)]
    assert found["mean_absolute_error"].value == pytest.approx(sum(map(abs, errors)) / 50)
    assert found["root_mean_squared_error"].value == pytest.approx(math.sqrt(sum(e * e for e in errors) / 50))
    spread = sum((y - sum(labels) / 50) ** 2 for y in labels)
    assert found["r_squared"].value == pytest.approx(1 - sum(e * e for e in errors) / spread)


def test_an_errored_example_makes_all_undefined_and_the_rest_is_told():
    found = measure(np.array([1.0, 2, 3]), np.array([1.5, np.nan, 3]))
    assert {one.value for one in found.values()} == {None}
    assert "1 of 3 examples errored" in found["mean_absolute_error"].reason
    assert "over the others it is 0.25" in found["mean_absolute_error"].reason
    assert found["mean_absolute_error"].errored == 1


def test_equal_labels_have_no_r_squared():
    found = measure(np.ones(30), np.linspace(0, 1, 30))
    assert found["r_squared"].value is None
    assert "equal" in found["r_squared"].reason
    assert found["mean_absolute_error"].value == pytest.approx(0.5)


@pytest.mark.slow
def test_limits_cover_the_truth_in_about_ninety_five_percent():
    held = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels = rng.normal(size=150)
        found = measure(labels, labels + rng.normal(size=150))["mean_absolute_error"]
        held += found.low <= math.sqrt(2 / math.pi) <= found.high
    assert 0.9 <= held / 120 <= 0.99
