"""Group thresholds against exhaustive programmes over every raw threshold, and the rule they become."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linprog

from assay.errors import TreatmentError
from assay.tasks import Argmax, task_of
from assay.treatments.model._relaxed_odds import mixture_at, roc_hull
from assay.treatments.model.group_thresholds import fit_thresholds, group_thresholds
from assay.values import System
from support import KnownModel


def every_threshold(probabilities, labels):
    """False and true positive rate of every threshold there is, by counting."""
    thresholds = [2.0, *sorted(set(probabilities.tolist()), reverse=True)]
    return [[float((probabilities[labels == y] >= t).mean()) for y in (0, 1)] for t in thresholds]


def brute_force(probabilities, labels, groups, tolerance, costs):
    """The least cost over all mixtures of all raw thresholds: one variable per group and threshold, no hull."""
    num = int(groups.max()) + 1
    points = [every_threshold(probabilities[groups == g], labels[groups == g]) for g in range(num)]
    start = np.cumsum([0, *map(len, points)])
    objective, equal, unequal = [], np.zeros((num, start[-1])), []
    for g, found in enumerate(points):
        sizes = [((groups == g) & (labels == y)).sum() for y in (0, 1)]
        objective += [costs[0] * sizes[0] * f + costs[1] * sizes[1] * (1 - t) for f, t in found]
        equal[g, start[g] : start[g + 1]] = 1
    for first, second in permutations(range(num), 2):
        for rate in (0, 1):
            row = np.zeros(start[-1])
            row[start[first] : start[first + 1]] = [point[rate] for point in points[first]]
            row[start[second] : start[second + 1]] -= [point[rate] for point in points[second]]
            unequal.append(row)
    limits = np.full(len(unequal), tolerance)
    return linprog(objective, A_ub=unequal, b_ub=limits, A_eq=equal, b_eq=np.ones(num), method="highs").fun


def cost_and_gap(fit, probabilities, labels, groups, costs):
    total, rates = 0.0, []
    for mixture in fit.mixtures:
        inside = groups == int(mixture.group[0])
        chance = mixture.chance(probabilities[inside])
        negative, positive = chance[labels[inside] == 0], chance[labels[inside] == 1]
        total += costs[0] * negative.sum() + costs[1] * (1 - positive).sum()
        rates.append((negative.mean(), positive.mean()))
    return total, np.ptp(np.array(rates), axis=0).max()


def made_up(seed):
    rng = np.random.default_rng(seed)
    num, num_groups = int(rng.integers(20, 80)), int(rng.integers(2, 4))
    groups, labels = rng.integers(0, num_groups, num), rng.integers(0, 2, num)
    labels[:6], groups[:6] = [0, 1] * 3, np.arange(6) // 2 % num_groups  # every group has both labels
    signal = rng.uniform(0, 1)  # from useless to good
    probabilities = np.clip(rng.random(num) * (1 - signal) + signal * labels * rng.random(num), 0, 1)
    return probabilities.round(int(rng.integers(1, 4))), labels, groups  # rounding makes ties


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_the_least_cost_there_is(seed, tolerance):
    probabilities, labels, groups = made_up(seed)
    costs = [(1.0, 1.0), (0.5, 3.0), (4.0, 1.0)][seed % 3]
    names = [(str(g),) for g in range(int(groups.max()) + 1)]
    fit = fit_thresholds(probabilities, labels, (groups, names), tolerance=tolerance, costs=costs, min_num=1)
    cost, gap = cost_and_gap(fit, probabilities, labels, groups, costs)
    assert gap <= tolerance + 1e-6
    assert cost == pytest.approx(brute_force(probabilities, labels, groups, tolerance, costs), abs=1e-5)
    for mixture in (*fit.mixtures, fit.fallback):
        assert 1 <= len(mixture.thresholds) <= 3
        assert sum(mixture.weights) == pytest.approx(1)
        assert list(mixture.thresholds) == sorted(mixture.thresholds, reverse=True)


def test_any_tolerance_is_the_best_threshold_of_each_group():
    probabilities, labels, groups = made_up(3)
    names = [(str(g),) for g in range(int(groups.max()) + 1)]
    fit = fit_thresholds(probabilities, labels, (groups, names), tolerance=1.0, costs=(1, 1), min_num=1)
    for mixture in fit.mixtures:
        inside = groups == int(mixture.group[0])
        p, y = probabilities[inside], labels[inside]
        best = max(((p >= t) == y).mean() for t in [2.0, *p])
        chance = mixture.chance(p)
        assert np.where(y == 1, chance, 1 - chance).mean() == pytest.approx(best)


@pytest.mark.parametrize("seed", range(6))
def test_hull_is_above_every_threshold_and_touches_it(seed):
    probabilities, labels, _ = made_up(seed)
    hull = roc_hull(probabilities, labels)
    points = np.array(every_threshold(probabilities, labels))
    height = np.interp(points[:, 0], hull.false_positive_rates, hull.true_positive_rates)
    assert (points[:, 1] <= height + 1e-12).all()
    for x, y, threshold in zip(hull.false_positive_rates, hull.true_positive_rates, hull.thresholds, strict=True):
        found = [float((probabilities[labels == label] >= threshold).mean()) for label in (0, 1)]
        assert found == pytest.approx([x, y])
    run, rise = np.diff(hull.false_positive_rates), np.diff(hull.true_positive_rates)
    assert (rise[1:] * run[:-1] < rise[:-1] * run[1:]).all()  # strictly concave


def test_mixture_reaches_any_point_between_diagonal_and_hull():
    probabilities, labels, _ = made_up(7)
    hull = roc_hull(probabilities, labels)
    rng = np.random.default_rng(0)
    for _ in range(200):
        f = rng.random()
        t = f + rng.random() * max(np.interp(f, hull.false_positive_rates, hull.true_positive_rates) - f, 0)
        thresholds, weights = mixture_at(hull, np.array([f, t]))
        reached = probabilities[:, None] >= np.array(thresholds)
        chance = reached @ np.array(weights)
        assert chance[labels == 0].mean() == pytest.approx(f, abs=1e-6)
        assert chance[labels == 1].mean() == pytest.approx(t, abs=1e-6)
    for outside in ([0.9, 0.1], [0.05, 0.999]):  # below the diagonal, above the hull
        with pytest.raises(TreatmentError, match="no mixture"):
            mixture_at(hull, np.array(outside))


def test_small_and_missing_groups_share_one_mixture(small_data, known_system):
    treated = group_thresholds(known_system, columns=["race"], min_num=25)
    outcome = treated.lineage[-1].outcome
    assert outcome["pooled_groups"] == ["z"]
    assert {mixture.group for mixture in treated.decision.mixtures} == {("x",), ("y",)}
    test = small_data.splits["test"]
    probabilities = treated.task.probabilities(treated.model.outputs(test.inputs))
    chance = treated.decision.chances(probabilities, test.groups)
    pooled = test.groups.codes[:, 1] == 2
    assert np.array_equal(chance[pooled], treated.decision.fallback.chance(probabilities[pooled, 1]))


def test_planned_gap_holds_on_the_rows_fitted_on(small_data, known_system):
    for splits in (("validation",), ("validation", "train")):
        treated = group_thresholds(known_system, tolerance=0.03, splits=splits)
        labels = np.concatenate([small_data.splits[name].labels for name in splits])
        codes = np.concatenate([small_data.splits[name].groups.codes[:, 0] for name in splits])
        chance = np.concatenate(
            [
                treated.decision.chances(
                    treated.task.probabilities(treated.model.outputs(small_data.splits[name].inputs)),
                    small_data.splits[name].groups,
                )
                for name in splits
            ]
        )
        rates = [[chance[(codes == g) & (labels == y)].mean() for y in (0, 1)] for g in (0, 1)]
        gap = np.ptp(np.array(rates), axis=0).max()
        outcome = treated.lineage[-1].outcome
        assert gap == pytest.approx(outcome["planned_equalized_odds_difference"], abs=1e-6)
        assert gap <= 0.03 + 1e-6
        assert outcome["num_fitted"] == len(labels)


def test_never_reads_the_test_split(small_data, known_system):
    changed = replace(small_data.splits["test"], labels=1 - small_data.splits["test"].labels)
    other = replace(known_system, data=replace(small_data, splits={**small_data.splits, "test": changed}))
    first, second = group_thresholds(known_system).decision, group_thresholds(other).decision
    assert (first.mixtures, first.fallback) == (second.mixtures, second.fallback)
    with pytest.raises(TreatmentError, match="could not be judged"):
        group_thresholds(known_system, splits=["test"])


def test_all_that_is_wrong_is_said_at_once(known_system):
    with pytest.raises(TreatmentError) as caught:
        group_thresholds(known_system, columns=["age"], tolerance=1.5, costs=(1, 0), min_num=0, splits=())
    assert len(caught.value.problems) == 5


def test_groups_too_small_are_counted_in_the_message(small_data):
    system = System("known", KnownModel(), small_data, task_of(small_data), Argmax())
    with pytest.raises(TreatmentError, match=r"only 0 group\(s\) of sex have enough rows .*Female: \d+ and \d+"):
        group_thresholds(system, min_num=10_000)
    assert system.model.num_rows == 0
