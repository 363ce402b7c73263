import numpy as np
import pytest

from assay.probes.utility.calibration_error import calibration_error
from assay.stats import make_draws
from assay.tasks import Classification

BINARY = Classification(("no", "yes"), "yes")


def two(chance):
    return np.column_stack([1 - chance, chance])


def measure(labels, probabilities, task=BINARY, num_draws=200):
    answers = np.where(np.isnan(probabilities).any(axis=1), -1, np.nan_to_num(probabilities).argmax(axis=1))
    draws = make_draws(b"key", "split", [labels, answers], num_draws=num_draws)
    found = calibration_error(labels, probabilities, answers, task, draws)
    return {(one.metric, one.slice): one for one in found}


def drawn(seed, num, shift):
    """Says c, happens with probability c - shift: every bin is off by the shift exactly."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.15, 0.95, num)
    return (rng.random(num) < chance - shift).astype(int), two(chance)


def test_equals_a_loop_over_bins():
    labels, probabilities = drawn(1, 200, 0.14)
    found = measure(labels, probabilities)
    chance = probabilities[:, 1]
    edges = np.quantile(chance, np.arange(1, 10) / 10)
    rng, average, square = np.random.default_rng(0), 0.0, 0.0
    for b, rows in enumerate(np.split(np.argsort(chance), np.searchsorted(np.sort(chance), edges, side="right"))):
        happened, gap = labels[rows].mean(), abs(chance[rows].mean() - labels[rows].mean())
        assert found["mean_confidence", f"bin={b:02d}"].value == pytest.approx(chance[rows].mean())
        assert found["observed_frequency", f"bin={b:02d}"].value == pytest.approx(happened)
        assert found["observed_frequency", f"bin={b:02d}"].attempted == len(rows)
        variance = happened * (1 - happened) / (len(rows) - 1)
        noisy = np.abs(gap + np.sqrt(variance) * rng.normal(size=200_000)).mean()  # what chance adds, by simulation
        average += len(rows) / 200 * (2 * gap - noisy)
        square += len(rows) / 200 * (gap**2 - variance)
    assert found["expected_calibration_error", ""].value == pytest.approx(average, abs=1e-3)
    assert found["calibration_error", ""].value == pytest.approx(np.sqrt(square), abs=1e-9)


@pytest.mark.parametrize("num", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_calibrated_system_is_left_alone(num):
    found = [measure(*drawn(seed, num, 0.0)) for seed in range(40)]
    average = [one["expected_calibration_error", ""] for one in found]
    plain = [
        sum(
            abs(one["mean_confidence", where].value - one["observed_frequency", where].value)
            * one["mean_confidence", where].attempted
            for metric, where in one
            if metric == "mean_confidence"
        )
        / num
        for one in found
    ]
    assert np.mean([one.value for one in average]) < 0.65 * np.mean(plain)
    for metric in ("calibration_error", "expected_calibration_error"):
        assert sum(one[metric, ""].low > 0.01 for one in found) <= 3


@pytest.mark.parametrize(
    ("num", "shift"),
    [(300, 0.15), pytest.param(2000, 0.05, marks=pytest.mark.slow), pytest.param(2000, 0.15, marks=pytest.mark.slow)],
)
def test_a_planted_error_is_found_and_covered(num, shift):
    found = [measure(*drawn(seed, num, shift)) for seed in range(40)]
    for metric in ("calibration_error", "expected_calibration_error"):
        ones = [one[metric, ""] for one in found]
        assert np.mean([one.value for one in ones]) == pytest.approx(shift, abs=0.015)
        assert np.mean([one.low <= shift <= one.high for one in ones]) >= 0.9
        if shift * num**0.5 > 2.5:
            assert np.mean([one.low > 0 for one in ones]) > 0.9


def test_more_classes_look_at_the_answer_given():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet([1, 1, 1], size=600)
    found = measure(probabilities.argmax(axis=1), probabilities, Classification(("a", "b", "c")))
    wanted = 1 - probabilities.max(axis=1).mean()  # always right, so the gap is the confidence that was missing
    assert found["expected_calibration_error", ""].value == pytest.approx(wanted, abs=1e-9)


def test_equal_probabilities_share_a_bin_and_errored_examples_count_as_a_whole_gap():
    probabilities = two(np.full(100, 0.5))
    labels = np.tile([0, 1], 50)
    assert measure(labels, probabilities)["calibration_error", ""].value == 0
    probabilities[:10] = np.nan
    found = measure(labels, probabilities)
    assert found["calibration_error", ""].value == pytest.approx(np.sqrt(0.1))
    assert found["expected_calibration_error", ""].value == pytest.approx(0.1)
    assert found["calibration_error", ""].errored == 10
    assert [where for metric, where in found if metric == "mean_confidence"] == ["bin=00"]
