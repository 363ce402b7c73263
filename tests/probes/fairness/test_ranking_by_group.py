import numpy as np
import pytest

from assay.probes.fairness.ranking_by_group import ranking_by_group
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("origin", "categorical", ("a", "b", "c")))


def measure(labels, chance, codes, task=None, num_draws=20):
    draws = make_draws(b"key", "split", [labels, *codes.T], num_draws=num_draws)
    probabilities = chance if chance.ndim == 2 else np.column_stack([1 - chance, chance])
    groups = Groups(codes, COLUMNS[: codes.shape[1]])
    found = ranking_by_group(labels, probabilities, groups, task or Classification(("no", "yes")), draws)
    return {(one.metric, one.slice): one for one in found}


def area(first, second):
    return np.mean([(p > q) + (p == q) / 2 for p in first for q in second])


def test_equals_all_pairs_by_hand_ties_and_errored_included():
    rng = np.random.default_rng(0)
    chance, labels = rng.integers(6, size=90) / 8, rng.integers(2, size=90)
    codes = np.column_stack([rng.integers(-1, 2, 90), rng.integers(3, size=90)])
    told = np.where(np.arange(90) < 4, np.nan, chance)
    shown = np.where(np.isnan(told), np.where(labels == 1, -1, 2), chance)
    found = measure(labels, told, codes)
    sides = [[shown[(codes[:, 1] == o) & (labels == y)] for y in (1, 0)] for o in range(3)]
    own = [area(*one) for one in sides]
    for o, origin in enumerate("abc"):
        assert found["group_area_under_roc", f"origin={origin}"].value == pytest.approx(own[o])
    assert found["area_under_roc_difference", "origin"].value == pytest.approx(max(own) - min(own))
    across = max(
        abs(area(sides[a][0], sides[b][1]) - area(sides[b][0], sides[a][1])) for a in range(3) for b in range(a)
    )
    assert found["cross_area_under_roc_gap", "origin"].value == pytest.approx(across)


def test_replicates_are_those_of_the_rows_drawn_again():
    rng = np.random.default_rng(2)
    chance, labels, codes = rng.random(600), rng.integers(2, size=600), rng.integers(2, size=(600, 1))
    one = measure(labels, chance, codes, num_draws=400)["group_area_under_roc", "sex=f"]
    again = []
    for _ in range(400):
        rows = rng.integers(600, size=600)
        rows = rows[codes[rows, 0] == 0]
        positive, negative = chance[rows][labels[rows] == 1], np.sort(chance[rows][labels[rows] == 0])
        again.append(np.searchsorted(negative, positive).mean() / len(negative))
    assert one.replicates.std() == pytest.approx(np.std(again), rel=0.15)
    assert one.high - one.low == pytest.approx(3.92 * np.std(again), rel=0.15)


def test_equal_areas_within_groups_can_hide_a_gap_across_them():
    rng = np.random.default_rng(1)
    labels, codes = rng.integers(2, size=800), rng.integers(2, size=(800, 1))
    chance = (labels + rng.normal(size=800) + 2 * codes[:, 0] + 5) / 15
    found = measure(labels, chance, codes)
    assert found["area_under_roc_difference", "sex"].low == 0
    assert found["cross_area_under_roc_gap", "sex"].low > 0.3


def test_groups_without_both_kinds_of_rows_are_left_out():
    labels, codes = np.array([0, 1, 1, 1]), np.array([[0], [0], [1], [1]])
    found = measure(labels, np.array([0.1, 0.9, 0.5, 0.6]), codes)
    assert found["group_area_under_roc", "sex=m"].value is None
    assert found["area_under_roc_difference", "sex"].value is None
    assert "fewer than two groups" in found["cross_area_under_roc_gap", "sex"].reason


def test_more_classes_are_each_taken_against_the_rest():
    rng = np.random.default_rng(4)
    labels, codes = rng.integers(3, size=200), rng.integers(2, size=(200, 1))
    chance = rng.dirichlet([1, 1, 1], size=200)
    found = measure(labels, chance, codes, Classification(("x", "y", "z")))
    mine = codes[:, 0] == 1
    wanted = area(chance[mine & (labels == 2), 2], chance[mine & (labels != 2), 2])
    assert found["group_area_under_roc", "sex=m & class=z"].value == pytest.approx(wanted)
    assert found["area_under_roc_difference", "sex"].reason.startswith("largest for class=")


@pytest.mark.slow
@pytest.mark.parametrize("num", [40, 150, 1000])
def test_intervals_cover_and_rarely_alarm(num):
    from scipy.stats import norm

    truth, held, alarms = norm.cdf(1 / np.sqrt(2)), np.zeros(3), 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels, codes = rng.integers(2, size=num), np.column_stack([np.arange(num) % 2, np.arange(num) % 3])
        found = measure(labels, labels + rng.normal(size=num) + 0.5 * codes[:, 0], codes[:, :1], num_draws=2)
        one = found["group_area_under_roc", "sex=m"]
        held[0] += one.low <= truth <= one.high
        gap, across = (found[name, "sex"] for name in ("area_under_roc_difference", "cross_area_under_roc_gap"))
        held[1] += gap.low <= 0 <= gap.high
        wanted = norm.cdf(1.5 / np.sqrt(2)) - norm.cdf(0.5 / np.sqrt(2))
        held[2] += across.low <= wanted <= across.high
        equal = measure(labels, labels + rng.normal(size=num), codes, num_draws=2)
        alarms += equal["cross_area_under_roc_gap", "origin"].low > 0
    assert (held / 400 >= [0.925, 0.93, 0.925]).all(), held / 400
    assert alarms / 400 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
