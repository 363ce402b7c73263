import numpy as np
import pytest
from scipy.special import expit, log_expit

from assay.probes.fairness import _borrowed
from assay.probes.fairness._borrowed import borrow
from assay.probes.fairness.group_rates_shrunk import group_rates_shrunk
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

COLUMNS = (Column("sex", "categorical", ("f", "m")), Column("age", "categorical", ("y", "o")))
COLUMNS += (Column("town", "categorical", tuple("abcde")),)
CROSSED = [(a, b) for a in range(2) for b in range(5)]
ALONE = [(g,) for g in range(10)]
TINY, SMALL = np.arange(1.0, 11), np.array([5.0, 8, 10, 12, 15, 20, 25, 30, 40, 60])
ADULT = np.array([40.0, 120, 500, 90, 4300, 60, 200, 700, 100, 9000])  # as sex and race in its test rows


def measure(labels, predictions, codes, classes=("no", "yes"), num_draws=50):
    draws = make_draws(b"key", "split", [labels, predictions, *codes.T], num_draws=num_draws)
    groups = Groups(codes, COLUMNS[: codes.shape[1]])
    found = group_rates_shrunk(labels, predictions, groups, Classification(classes), draws)
    return {(one.metric, one.slice): one for one in found}


def by_quadrature(hits, totals):
    """Posterior means of two groups of one column: the log odds on a fine grid of two dimensions, no approximation."""
    axis = np.linspace(-9, 9, 361)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    likelihood = sum(
        x * log_expit(at) + (n - x) * log_expit(-at) for x, n, at in zip(hits, totals, (first, second), strict=True)
    )
    total, means = 0.0, np.zeros(2)
    for spread, width in zip(_borrowed.SPREADS, np.gradient(_borrowed.SPREADS), strict=True):
        inverse = np.linalg.inv(np.full((2, 2), 9.0) + spread**2 * np.eye(2))
        square = inverse[0, 0] * (first**2 + second**2) + 2 * inverse[0, 1] * first * second
        mass = np.exp(likelihood - square / 2) * np.sqrt(np.linalg.det(inverse)) * width * np.exp(-(spread**2) / 8)
        total += mass.sum()
        means += [(mass * expit(first)).sum(), (mass * expit(second)).sum()]
    return means / total


@pytest.mark.parametrize(("hits", "totals"), [((3, 1), (10, 4)), ((0, 40), (6, 100)), ((2, 2), (2, 50))])
def test_posterior_means_are_those_of_exact_integration(hits, totals):
    found = borrow(np.array(hits, dtype=float), np.array(totals, dtype=float), [(0,), (1,)], level=0.95)
    np.testing.assert_allclose(found.means, by_quadrature(hits, totals), atol=0.015)


def test_a_large_group_stays_where_it_is_and_a_small_one_moves():
    found = borrow(np.array([2000.0, 2000, 2000, 4]), np.array([10000.0, 10000, 10000, 5]), ALONE[:4], level=0.95)
    assert found.means[:3] == pytest.approx(0.2, abs=0.002)
    assert 0.2 < found.means[3] < 0.5
    assert found.highs[3] - found.lows[3] > 10 * (found.highs[0] - found.lows[0])


def test_main_effects_tell_of_a_crossing_with_few_rows():
    totals = np.array([400.0, 400, 400, 400, 4, 400, 400, 400, 400, 400])  # f & e has four rows
    rates = np.array([0.1, 0.2, 0.1, 0.2, 0.5, 0.1, 0.2, 0.1, 0.2, 0.5])  # everybody of e has 0.5
    found = borrow(np.round(totals * rates), totals, CROSSED, level=0.95)
    none = borrow(np.round(totals * rates), totals, ALONE, level=0.95)
    assert found.means[4] > 0.38 > none.means[4]


def simulate(totals, members, spreads, repeats):
    """Squared error of shrunken and of raw rates, and how often each group is covered."""
    rng, errors, held = np.random.default_rng(0), np.zeros(2), []
    for _ in range(repeats):
        first, second = rng.normal(0, spreads[0], 2), rng.normal(0, spreads[0], 5)
        main = np.array([first[a] + second[b] for a, b in CROSSED])
        truth = expit(-1.5 + main + rng.normal(0, spreads[1], len(totals)))
        hits = rng.binomial(totals.astype(int), truth).astype(float)
        found = borrow(hits, totals, members, level=0.95)
        errors += [((found.means - truth) ** 2).mean(), ((hits / totals - truth) ** 2).mean()]
        held.append((found.lows <= truth) & (truth <= found.highs))
    return errors, np.mean(held)


def test_shrunken_rates_are_nearer_and_covered():
    errors, held = simulate(SMALL, CROSSED, (0.5, 0.3), 30)
    assert errors[0] < 0.7 * errors[1]
    assert held >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("members", [CROSSED, ALONE], ids=["crossed", "alone"])
@pytest.mark.parametrize("totals", [TINY, SMALL, ADULT], ids=["tiny", "small", "adult"])
@pytest.mark.parametrize("spreads", [(0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 1.5)])
def test_coverage_is_93_percent_on_average_whatever_the_groups_are(members, totals, spreads):
    errors, held = simulate(totals, members, spreads, 200)
    assert errors[0] < errors[1]
    assert held >= 0.93


def test_a_small_group_unlike_all_others_is_missed_as_the_limits_say():
    """What shrinking cannot do, held so that nobody comes to think it can: alike groups speak for the odd one too."""
    rng, held = np.random.default_rng(7), {12: 0, 200: 0}
    for num in held:
        totals, truth = np.full(10, 300.0), np.full(10, 0.15)
        totals[3], truth[3] = num, 0.5
        for _ in range(40):
            found = borrow(rng.binomial(totals.astype(int), truth).astype(float), totals, ALONE, level=0.95)
            held[num] += found.lows[3] <= 0.5 <= found.highs[3]
    assert held[12] <= 15
    assert held[200] >= 30


def test_rates_are_of_the_right_rows_and_n_is_never_hidden():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(2, size=400), rng.integers(-1, 2, size=400)
    codes = np.column_stack([rng.integers(2, size=400), rng.integers(-1, 2, 400), rng.integers(5, size=400)])
    found = measure(labels, predictions, codes)
    for where, mine in (("sex=f", codes[:, 0] == 0), ("sex=m & town=c", (codes[:, 0] == 1) & (codes[:, 2] == 2))):
        for metric, rows in (("error_rate", mine), ("true_positive_rate", mine & (labels == 1))):
            one = found[f"shrunk_{metric}", where]
            assert (one.attempted, one.errored) == (rows.sum(), (rows & (predictions < 0)).sum())
            assert one.low < one.value < one.high
    own = (predictions != labels)[codes[:, 0] == 0].mean()
    assert found["shrunk_error_rate", "sex=f"].value == pytest.approx(own, abs=0.01)
    three = found["shrunk_error_rate", "sex=m & age=o & town=d"]
    mine = (codes == [1, 1, 3]).all(axis=1)
    raw = (predictions != labels)[mine].mean()
    assert three.attempted == mine.sum()
    overall = (predictions != labels).mean()
    assert min(raw, overall) - 0.05 < three.value < max(raw, overall) + 0.05


def test_replicates_move_as_estimates_of_other_rows_do():
    rng = np.random.default_rng(3)
    codes = np.column_stack([rng.integers(2, size=600), np.zeros(600, dtype=int), rng.integers(5, size=600)])
    labels, predictions = rng.integers(2, size=600), rng.integers(2, size=600)
    one = measure(labels, predictions, codes, num_draws=500)["shrunk_error_rate", "sex=f & age=y & town=b"]
    again = []
    for seed in range(60):
        rows = np.random.default_rng(seed).integers(600, size=600)
        wrong, town = (labels != predictions)[rows], codes[rows]
        hits = np.array([wrong[(town == [a, 0, b]).all(axis=1)].sum() for a, b in CROSSED], dtype=float)
        totals = np.array([(town == [a, 0, b]).all(axis=1).sum() for a, b in CROSSED], dtype=float)
        again.append(borrow(hits, totals, [(a, 0, b) for a, b in CROSSED], level=0.95).means[1])
    assert one.replicates.std() == pytest.approx(np.std(again), rel=0.35)


def test_more_classes_have_an_error_rate_alone():
    labels, predictions = np.array([0, 1, 2, 2] * 5), np.array([0, 1, 1, 2] * 5)
    found = measure(labels, predictions, np.array([[0], [0], [1], [1]] * 5), ("a", "b", "c"))
    assert {metric for metric, _ in found} == {"shrunk_error_rate"}
