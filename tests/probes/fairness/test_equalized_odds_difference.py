import numpy as np
import pytest

from assay.probes.fairness.equalized_odds_difference import equalized_odds_difference
from assay.stats import make_draws
from assay.tasks import Classification
from assay.values import Column, Groups

COLUMN = (Column("origin", "categorical", ("a", "b", "c")),)
BINARY = Classification(("no", "yes"), "yes")


def measure(labels, predictions, codes, task=BINARY, num_draws=50):
    draws = make_draws(b"key", "split", [labels, predictions, codes], num_draws=num_draws)
    return equalized_odds_difference(labels, predictions, Groups(codes[:, None], COLUMN), task, draws)[0]


def by_hand(labels, predictions, codes, given, wanted):
    rates = []
    for g in range(3):
        mine = [p for y, p, c in zip(labels, predictions, codes, strict=True) if c == g and y == given]
        rates.append(mine.count(wanted) / len(mine))
    return max(rates) - min(rates)


def test_equals_counting_by_hand():
    rng = np.random.default_rng(0)
    labels, predictions, codes = rng.integers(2, size=50), rng.integers(-1, 2, size=50), rng.integers(3, size=50)
    found = measure(labels, predictions, codes)
    assert found.value == pytest.approx(max(by_hand(labels, predictions, codes, given, 1) for given in (0, 1)))
    assert found.errored == (predictions == -1).sum()


def test_more_classes_compare_true_positive_rates():
    rng = np.random.default_rng(1)
    labels, predictions, codes = (rng.integers(3, size=90) for _ in range(3))
    found = measure(labels, predictions, codes, Classification(("x", "y", "z")))
    assert found.value == pytest.approx(max(by_hand(labels, predictions, codes, k, k) for k in range(3)))


def test_no_positive_row_anywhere_is_undefined():
    found = measure(np.zeros(30, dtype=int), np.tile([0, 1], 15), np.arange(30) % 3)
    assert found.value is None
    assert "true positive rate" in found.reason


def test_a_group_without_positive_rows_is_left_out_and_said():
    codes = np.repeat([0, 1, 2], 20)
    labels = np.where(codes == 2, 0, np.tile([0, 1], 30))
    found = measure(labels, labels, codes)
    assert found.value == 0
    assert "no examples" in found.reason


def test_planted_gap_found_and_covered_and_equal_groups_left_alone():
    held = alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        codes, labels = rng.integers(2, size=400), rng.integers(2, size=400)
        chance = np.where(labels == 1, 0.8 - 0.3 * codes, 0.2)
        found = measure(labels, (rng.random(400) < chance).astype(int), codes, num_draws=2)
        held += found.low <= 0.3 <= found.high
        null = measure(labels, (rng.random(400) < np.where(labels == 1, 0.8, 0.2)).astype(int), codes, num_draws=2)
        alarms += null.low > 0
    assert held >= 184
    assert alarms <= 18


def test_replicates_are_those_of_the_larger_of_two_close_rates():
    """The rate that is largest on these rows need not be so on others: brute force over resampled rows."""
    sizes = {(0, 0): (4000, 400), (1, 0): (4000, 520), (0, 1): (150, 90), (1, 1): (600, 377)}  # rows, selected
    sex, labels = (np.repeat([cell[k] for cell in sizes], [rows for rows, _ in sizes.values()]) for k in range(2))
    predictions = np.concatenate([np.arange(rows) < selected for rows, selected in sizes.values()]).astype(np.int64)
    groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    draws = make_draws(b"key", "split", [sex, labels, predictions])
    task = Classification(("no", "yes"), "yes")
    found = equalized_odds_difference(labels, predictions, groups, task, draws)[0]

    def gap(rows: np.ndarray) -> float:
        means = [[predictions[rows][(sex[rows] == g) & (labels[rows] == y)].mean() for g in (0, 1)] for y in (0, 1)]
        return max(abs(first - second) for first, second in means)

    assert found.value == pytest.approx(gap(np.arange(len(labels))))
    rng = np.random.default_rng(0)
    brute = np.std([gap(rng.integers(len(labels), size=len(labels))) for _ in range(400)])
    assert found.replicates is not None
    assert found.replicates.std() == pytest.approx(brute, rel=0.2)
