import numpy as np
import pytest

from assay.probes.fairness.equal_opportunity_difference import equal_opportunity_difference
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("age", "categorical", ("y", "o")))
COLUMNS += (Column("origin", "categorical", ("a", "b", "c")),)


def measure(labels, predictions, codes, classes=("no", "yes"), num_draws=20):
    draws = make_draws(b"key", "split", [labels, predictions, *codes.T], num_draws=num_draws)
    groups = Groups(codes, COLUMNS[: codes.shape[1]])
    found = equal_opportunity_difference(labels, predictions, groups, Classification(classes), draws)
    return {one.slice: one for one in found}


def test_equals_counting_by_hand_in_all_columns_up_to_three():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(2, size=300), rng.integers(-1, 2, size=300)
    codes = np.column_stack([rng.integers(2, size=300), rng.integers(-1, 2, 300), rng.integers(3, size=300)])
    found = measure(labels, predictions, codes)
    assert len(found) == 7
    for name, used in (("sex", [0]), ("age & origin", [1, 2]), ("sex & age & origin", [0, 1, 2])):
        told = {}
        for y, p, row in zip(labels, predictions, codes[:, used], strict=True):
            if y == 1 and (row >= 0).all():
                told.setdefault(tuple(row), []).append(p == 1)
        rates = [np.mean(one) for one in told.values()]
        assert found[name].value == pytest.approx(max(rates) - min(rates))
        assert found[name].low <= found[name].value <= found[name].high


def test_more_than_two_classes_have_no_favourable_one():
    found = measure(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), np.array([[0], [0], [1], [1]]), ("a", "b", "c"))
    assert found["sex"].value is None
    assert "no class is the favourable one" in found["sex"].reason


def test_planted_gap_found_and_equal_groups_left_alone_whatever_the_false_positives():
    seen = alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        codes, labels = rng.integers(2, size=(600, 1)), rng.integers(2, size=600)
        chance = np.where(labels == 1, 0.8, 0.1 + 0.5 * codes[:, 0])  # false positives differ widely
        alarms += measure(labels, (rng.random(600) < chance).astype(int), codes, num_draws=2)["sex"].low > 0
        chance = np.where(labels == 1, 0.8 - 0.2 * codes[:, 0], 0.1)
        seen += measure(labels, (rng.random(600) < chance).astype(int), codes, num_draws=2)["sex"].low > 0
    assert seen >= 95
    assert alarms <= 11
