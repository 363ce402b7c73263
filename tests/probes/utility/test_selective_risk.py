"""Risk over coverage: brute force over orders, the best order, ties, coverage of the intervals."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from assay.probes.utility.selective_risk import selective_risk
from assay.stats import make_draws
from assay.values import Column, Groups

SEX = Column("sex", "categorical", ("f", "m", "x"))


def measure(labels, chance, num_draws=50, seed="split", sex=None):
    answers = np.where(np.isnan(chance), -1, chance > 0.5).astype(int)
    groups = Groups(np.zeros((len(labels), 0)), ()) if sex is None else Groups(sex[:, None], (SEX,))
    draws = make_draws(b"key", seed, [labels, answers], num_draws=num_draws)
    found = selective_risk(labels, np.column_stack([1 - chance, chance]), answers, groups, draws)
    return {(one.metric, one.slice): one for one in found}


def area(wrong):
    return np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1))


def rows(seed, num, sharp=True):
    rng = np.random.default_rng(seed)
    chance = rng.random(num)
    return (rng.random(num) < (chance if sharp else 0.5)).astype(int), chance


def test_area_is_the_mean_of_risks_and_the_best_order_has_no_excess():
    labels, chance = rows(0, 500)
    wrong = (chance > 0.5) != labels
    confidence = np.maximum(chance, 1 - chance)
    found = measure(labels, chance)
    expected = area(wrong[np.argsort(-confidence)])
    assert found["area_under_risk_coverage", ""].value == pytest.approx(expected, rel=1e-12)
    assert found["excess_area_under_risk_coverage", ""].value == pytest.approx(expected - area(np.sort(wrong)))
    perfect = np.where(wrong, 0.4 + 0.2 * (chance > 0.5), np.where(chance > 0.5, 0.9, 0.1))
    assert measure(labels, perfect)["excess_area_under_risk_coverage", ""].value == pytest.approx(0, abs=1e-12)


def test_ties_count_as_every_order():
    chance, labels = np.array([0.9, 0.8, 0.8, 0.8, 0.6, 0.6]), np.array([1, 0, 1, 1, 0, 1])
    wrong = np.array([0, 1, 0, 0, 1, 0])
    orders = [[0, *middle, *last] for middle in permutations([1, 2, 3]) for last in permutations([4, 5])]
    expected = np.mean([area(wrong[order]) for order in orders])
    found = measure(labels, chance)
    assert found["area_under_risk_coverage", ""].value == pytest.approx(expected, rel=1e-12)
    half = found["selective_risk", "coverage=0.50"]
    assert (half.value, half.attempted) == (0.25, 4)
    alike = measure(np.arange(40) % 2, np.full(40, 0.7))
    assert alike["area_under_risk_coverage", ""].value == pytest.approx(0.5)
    assert alike["selective_risk", "coverage=0.80"].reason == "ties keep 40 of 40 rows"


def test_risk_at_a_coverage_is_of_the_surest_rows():
    labels, chance = rows(1, 1000)
    order = np.argsort(-np.maximum(chance, 1 - chance))
    wrong = ((chance > 0.5) != labels)[order]
    found = measure(labels, chance)
    for coverage, num in ((0.5, 500), (0.8, 800), (0.9, 900), (1.0, 1000)):
        one = found["selective_risk", f"coverage={coverage:.2f}"]
        assert one.value == pytest.approx(wrong[:num].mean())
        assert one.attempted == num
        assert one.low < one.value < one.high


def test_a_system_that_knows_when_it_is_wrong_has_a_smaller_excess_and_one_that_does_not_has_none_to_win():
    knows, blind = measure(*rows(2, 4000)), measure(*rows(2, 4000, sharp=False))
    name = ("excess_area_under_risk_coverage", "")
    assert knows[name].high < blind[name].low
    flat = blind["selective_risk", "coverage=0.50"]
    assert flat.low <= 0.5 <= flat.high


def test_errored_rows_are_wrong_and_last():
    labels, chance = rows(3, 1000)
    chance[:100] = np.nan
    found = measure(labels, chance)
    assert found["selective_risk", "coverage=0.90"].errored == 0
    assert found["selective_risk", "coverage=1.00"].errored == 100
    assert found["area_under_risk_coverage", ""].errored == 100
    right = measure(np.ones(50, dtype=int), np.linspace(0.6, 0.9, 50))["area_under_risk_coverage", ""]
    assert (right.value, right.low) == (0, 0)
    assert 0 < right.high < 0.1


@pytest.mark.slow
def test_intervals_cover():
    """Chance uniform, calibrated: confidence c is right with chance c, so risk_k is known in closed form."""
    grid = np.linspace(1, 0.5, 200_001)
    risk = np.cumsum(1 - grid) / np.arange(1, len(grid) + 1)
    error = risk[-1]
    truth = risk.mean(), risk.mean() - (error + (1 - error) * np.log(1 - error))
    covered = []
    for seed in range(200):
        labels, chance = rows(seed, 600)
        found = measure(labels, chance, num_draws=500, seed=str(seed))
        one, two = (found[f"{kind}area_under_risk_coverage", ""] for kind in ("", "excess_"))
        covered.append([one.low <= truth[0] <= one.high, two.low <= truth[1] <= two.high])
    assert (np.abs(np.mean(covered, axis=0) - 0.95) <= 0.035).all(), np.mean(covered, axis=0)


def test_by_group_it_is_counted_among_the_surest_of_all():
    labels, chance = rows(5, 300)
    chance[::50] = np.nan
    sex = np.random.default_rng(1).integers(-1, 2, 300)
    found = measure(labels, chance, sex=sex)
    answers, sure = chance > 0.5, np.where(np.isnan(chance), -1.0, np.maximum(chance, 1 - chance))
    wrong = np.isnan(chance) | (answers != labels)
    for coverage in (0.5, 0.8, 0.95):
        limit = np.sort(sure)[::-1][int(np.ceil(coverage * 300)) - 1]
        for code, name in enumerate("fm"):
            one = found["selective_risk", f"coverage={coverage:.2f} & sex={name}"]
            kept = (sure >= limit) & (sex == code)
            assert one.value == pytest.approx(wrong[kept].mean())
            assert (one.attempted, one.errored) == (kept.sum(), np.isnan(chance[kept]).sum())
            assert one.reason.startswith(f"{kept.sum()} of {(sex == code).sum()} rows of the group are answered")
            assert one.low <= one.value <= one.high
        assert found["selective_risk", f"coverage={coverage:.2f} & sex=x"].value is None
    assert not [name for _, name in measure(labels, chance) if "sex" in name]
