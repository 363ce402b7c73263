import numpy as np
import pytest

from assay.probes.utility.balanced_accuracy import balanced_accuracy
from assay.stats import make_draws
from assay.tasks import Classification

TASK = Classification(("a", "b", "c"))


def measure(labels, predictions, task=TASK, num_draws=200):
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=num_draws)
    return balanced_accuracy(labels, predictions, task, draws)[0]


def test_equals_counting_by_hand():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(3, size=50), rng.integers(-1, 3, size=50)
    by_class = [
        sum(p == k for y, p in zip(labels, predictions, strict=True) if y == k) / sum(y == k for y in labels)
        for k in range(3)
    ]
    assert measure(labels, predictions).value == pytest.approx(sum(by_class) / 3, abs=1e-12)


def test_a_class_without_rows_is_left_out_and_named():
    found = measure(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    assert found.value == 0.75
    assert "c" in found.reason


def test_one_class_only_is_undefined():
    found = measure(np.zeros(9, dtype=int), np.zeros(9, dtype=int))
    assert found.value is None
    assert "two classes" in found.reason


def test_a_perfect_system_on_ten_rows_is_not_certain():
    labels = np.tile([0, 1], 5)
    found = measure(labels, labels)
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.6 < found.low < 0.8


def test_limits_cover_the_truth_in_about_ninety_five_percent():
    task, held = Classification(("no", "yes")), 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels = (rng.random(80) < 0.3).astype(int)
        right = rng.random(80) < np.where(labels == 1, 0.7, 0.9)
        found = measure(labels, np.where(right, labels, 1 - labels), task, num_draws=2)
        held += found.low <= 0.8 <= found.high
    assert 0.93 <= held / 400 <= 0.99
