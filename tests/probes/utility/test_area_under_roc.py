import numpy as np
import pytest
from scipy.special import ndtr

from assay.probes.utility.area_under_roc import area_under_roc
from assay.stats import make_draws
from assay.tasks import Classification

BINARY = Classification(("no", "yes"), "yes")


def measure(labels, probabilities, task=BINARY, num_draws=200):
    return area_under_roc(labels, probabilities, task, make_draws(b"key", "split", [labels], num_draws=num_draws))


def two(chance):
    return np.column_stack([1 - chance, chance])


def test_equals_comparing_every_pair_ties_and_errored_examples_included():
    rng = np.random.default_rng(3)
    labels, chance = rng.integers(2, size=50), rng.random(50).round(1)
    chance[:4] = np.nan
    found = measure(labels, two(chance))[0]
    won = []
    for p, failed in ((p, np.isnan(p)) for p in chance[labels == 1]):
        won += [0.0 if failed or np.isnan(q) else (p > q) + (p == q) / 2 for q in chance[labels == 0]]
    assert found.value == pytest.approx(np.mean(won), abs=1e-12)
    assert found.errored == 4


def test_more_classes_give_the_mean_and_every_class():
    rng = np.random.default_rng(4)
    labels, probabilities = rng.integers(3, size=90), rng.dirichlet([1, 1, 1], size=90)
    found = measure(labels, probabilities, Classification(("a", "b", "c", "d")[:3]))
    assert found[0].metric == "macro_area_under_roc"
    assert found[0].value == pytest.approx(np.mean([one.value for one in found[1:]]))
    assert [one.slice for one in found[1:]] == ["class=a", "class=b", "class=c"]


def test_one_class_only_is_undefined_and_an_absent_class_is_left_out():
    assert measure(np.zeros(20, dtype=int), two(np.full(20, 0.3)))[0].value is None
    labels = np.tile([0, 1], 10)
    found = measure(labels, np.column_stack([two(labels * 0.5), labels * 0]), Classification(("a", "b", "c")))
    assert found[3].value is None
    assert found[0].value == 1.0
    assert "c" in found[0].reason


def test_perfect_ranking_keeps_an_exact_lower_limit():
    labels = np.repeat([0, 1], 10)
    found = measure(labels, two(labels * 0.8 + 0.1))[0]
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(0.025 ** (1 / 10))


@pytest.mark.parametrize(
    "distance", [pytest.param(0.0, marks=pytest.mark.slow), pytest.param(1.0, marks=pytest.mark.slow), 2.0]
)
def test_limits_cover_the_truth_in_about_ninety_five_percent(distance):
    truth, held = ndtr(distance / np.sqrt(2)), 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        labels = (rng.random(120) < 0.4).astype(int)
        found = measure(labels, two(ndtr(rng.normal(size=120) + distance * labels)))[0]
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 150 <= 0.99


def test_spread_equals_the_variance_of_delong():
    rng = np.random.default_rng(5)
    labels = (rng.random(400) < 0.3).astype(int)
    chance = ndtr(rng.normal(size=400) + labels)
    found = measure(labels, two(chance), num_draws=2000)[0]
    wins = (chance[labels == 1][:, None] > chance[labels == 0]).astype(float)
    variance = wins.mean(axis=1).var() / len(wins) + wins.mean(axis=0).var() / wins.shape[1]
    assert found.replicates.std() == pytest.approx(np.sqrt(variance), rel=0.06)
