import numpy as np
import pytest

from assay.probes.fairness.predictive_parity_difference import predictive_parity_difference
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("origin", "categorical", ("a", "b", "c")))
BINARY = Classification(("no", "yes"), "yes")


def measure(labels, predictions, codes, task=BINARY, num_draws=20):
    draws = make_draws(b"key", "split", [labels, predictions, *codes.T], num_draws=num_draws)
    groups = Groups(codes, COLUMNS[: codes.shape[1]])
    found = predictive_parity_difference(labels, predictions, groups, task, draws)
    return {(one.metric, one.slice): one for one in found}


def test_equals_counting_by_hand_missing_and_errored_included():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(2, size=80), rng.integers(-1, 2, size=80)
    codes = np.column_stack([rng.integers(-1, 2, 80), rng.integers(3, size=80)])
    found = measure(labels, predictions, codes)
    shares = {}
    for o, origin in enumerate("abc"):
        chosen = [y for y, p, c in zip(labels, predictions, codes[:, 1], strict=True) if c == o and p == 1]
        shares[origin] = sum(chosen) / len(chosen)
        one = found["precision", f"origin={origin}"]
        assert one.value == pytest.approx(shares[origin])
        assert one.attempted == len(chosen)
        both = labels[(codes[:, 0] == 1) & (codes[:, 1] == o) & (predictions == 1)]
        assert found["precision", f"sex=m & origin={origin}"].value == pytest.approx(both.mean())
    gap = found["predictive_parity_difference", "origin"]
    assert gap.value == pytest.approx(max(shares.values()) - min(shares.values()))


def test_a_group_of_which_nobody_is_selected_has_no_precision():
    codes = np.array([[0], [0], [0], [1]])
    found = measure(np.array([1, 0, 1, 1]), np.array([1, 1, 1, 0]), codes)
    assert found["precision", "sex=m"].value is None
    assert found["precision", "sex=m"].reason == "nobody of the group is selected"
    assert found["predictive_parity_difference", "sex"].value is None


def test_more_classes_take_the_largest_gap_over_classes():
    labels, predictions = np.array([0, 0, 1, 2, 1, 2, 2, 2]), np.array([0, 0, 1, 2, 0, 1, 2, 2])
    found = measure(labels, predictions, np.repeat([0, 1], 4)[:, None], Classification(("a", "b", "c")))
    assert found["predictive_parity_difference", "sex"].value == 1.0
    assert found["precision", "sex=m & class=c"].value == 1.0


def test_planted_gap_found_and_covered_and_equal_groups_left_alone():
    held = seen = alarms = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        codes, ones = rng.integers(2, size=(400, 1)), np.ones(400, dtype=int)
        right = (rng.random(400) < 0.8 - 0.2 * codes[:, 0]).astype(int)
        gap = measure(right, ones, codes, num_draws=2)["predictive_parity_difference", "sex"]
        held, seen = held + (gap.low <= 0.2 <= gap.high), seen + (gap.low > 0)
        null = measure((rng.random(400) < 0.7).astype(int), ones, codes, num_draws=2)
        alarms += null["predictive_parity_difference", "sex"].low > 0
    assert held >= 137
    assert seen >= 140
    assert alarms <= 15
