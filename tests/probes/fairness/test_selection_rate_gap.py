import numpy as np
import pytest

from assay.probes.fairness.selection_rate_gap import selection_rate_gap
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("origin", "categorical", ("a", "b", "c")))
BINARY = Classification(("no", "yes"), "yes")


def measure(predictions, codes, task=BINARY, num_draws=100):
    groups = Groups(codes, COLUMNS[: codes.shape[1]])
    draws = make_draws(b"key", "split", [predictions, *codes.T], num_draws=num_draws)
    return {(one.metric, one.slice): one for one in selection_rate_gap(predictions, groups, task, draws)}


def test_equals_counting_by_hand_missing_and_errored_included():
    rng = np.random.default_rng(0)
    predictions, codes = (
        rng.integers(-1, 2, size=50),
        np.column_stack([rng.integers(-1, 2, 50), rng.integers(3, size=50)]),
    )
    found = measure(predictions, codes)
    rates = {}
    for s, sex in enumerate("fm"):
        mine = [p for p, c in zip(predictions, codes[:, 0], strict=True) if c == s]
        rates[sex] = mine.count(1) / len(mine)
        one = found["selection_rate", f"sex={sex}"]
        assert one.value == pytest.approx(rates[sex])
        assert (one.attempted, one.errored) == (len(mine), mine.count(-1))
        for o, origin in enumerate("abc"):
            both = predictions[(codes[:, 0] == s) & (codes[:, 1] == o)]
            one = found["selection_rate", f"sex={sex} & origin={origin}"]
            assert one.value == pytest.approx((both == 1).mean())
    gap = found["demographic_parity_difference", "sex"]
    assert gap.value == pytest.approx(abs(rates["f"] - rates["m"]))
    assert gap.attempted == (codes[:, 0] >= 0).sum()
    assert gap.headline
    assert not found["demographic_parity_difference", "sex & origin"].headline


def test_the_first_declared_class_can_be_the_selected_one():
    found = measure(
        np.array([0, 0, 1, 0]), np.array([[0], [0], [1], [1]]), Classification(("grant", "refuse"), "grant")
    )
    assert found["selection_rate", "sex=f"].value == 1.0
    assert found["demographic_parity_difference", "sex"].value == 0.5


def test_more_classes_take_the_largest_gap_over_classes():
    predictions, codes = np.array([0, 0, 1, 2, 1, 1, 2, 2]), np.repeat([0, 1], 4)[:, None]
    found = measure(predictions, codes, Classification(("a", "b", "c")))
    gap = found["demographic_parity_difference", "sex"]
    assert gap.value == 0.5
    assert "class=a" in gap.reason
    assert found["selection_rate", "sex=m & class=c"].value == 0.5


def test_one_group_has_no_gap_and_an_empty_one_no_rate():
    found = measure(np.array([0, 1, 1]), np.zeros((3, 1), dtype=int))
    assert found["demographic_parity_difference", "sex"].value is None
    assert found["selection_rate", "sex=m"].value is None
    assert found["selection_rate", "sex=m"].reason


def test_planted_gap_found_and_covered_and_equal_groups_left_alone():
    held = alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        codes = rng.integers(3, size=(300, 1)) % 2
        found = measure((rng.random(300) < 0.3 + 0.2 * codes[:, 0]).astype(int), codes, num_draws=2)
        gap = found["demographic_parity_difference", "sex"]
        held += gap.low <= 0.2 <= gap.high
        null = measure((rng.random(300) < 0.4).astype(int), codes, num_draws=2)
        alarms += null["demographic_parity_difference", "sex"].low > 0
    assert held >= 184
    assert alarms <= 18  # P(more than 18 of 200 at 5 %) = 0.005
