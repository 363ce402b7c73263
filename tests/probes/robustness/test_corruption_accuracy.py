"""Accuracy under corruption finds a brittle system, leaves one that cannot be moved alone, and has honest intervals."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import norm

from assay.errors import BudgetError, ModelError, Problem
from assay.probes.robustness._corrupted import Answered, accuracies, copies, lowest
from assay.probes.robustness.corruption_accuracy import NUM_ROWS, corruption_accuracy
from assay.probes.robustness.corruption_accuracy_of_all_rows import corruption_accuracy_of_all_rows
from assay.registry import PROBES, Sizes
from assay.stats import make_draws
from assay.units import corrupted_pixels
from assay.values import Column, Groups

PICTURE = (Column("image", "image", low=0, high=255, shape=(1, 12, 12)),)
TABLE = (Column("x", "numeric", low=-3, high=3), Column("job", "categorical", ("a", "b", "c")))


class Fake:
    def __init__(self, inputs, answer, columns):
        self.inputs, self.answer, self.columns, self.num_rows = inputs, answer, columns, 0
        self.groups = Groups(np.zeros((len(inputs), 0), dtype=np.int64), ())
        self.system = SimpleNamespace(data=SimpleNamespace(medians={}))

    def rng(self, name):
        return np.random.default_rng(sum(map(ord, name)))

    def rows(self, num):
        return np.sort(np.random.default_rng(0).permutation(len(self.inputs))[:num])

    def predictions(self, inputs, groups):
        self.num_rows += len(inputs)
        return self.answer(inputs)


def table(num, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.normal(size=num), rng.integers(0, 3, num)], axis=1).astype(np.float32)


def measure(probe, inputs, answer, columns, labels=None):
    query = Fake(inputs, answer, columns)
    clean = answer(inputs)
    draws = make_draws(b"key", "split", [clean.astype(np.int64)], num_draws=200)
    found = probe(query, clean, clean if labels is None else labels, draws)
    return {(one.metric, one.slice): one for one in found}, query


def sign(inputs):
    return (np.nan_to_num(inputs[:, 0]) > 0).astype(np.int64)


def test_a_brittle_system_is_found_and_a_constant_one_left_alone():
    brittle, query = measure(corruption_accuracy, table(2000), sign, TABLE)
    assert query.num_rows == 25 * 1000
    assert brittle["corruption_accuracy", "corruption=shift"].high < 0.9
    assert brittle["corruption_accuracy", "corruption=category_swap"].value == 1.0
    # x ~ N(0, 1), answer x > 0: noise s flips arctan(s) / pi of the rows
    expected = 1 - np.mean(np.arctan([0.1, 0.2, 0.3, 0.5, 1.0]) / np.pi)
    noisy = brittle["corruption_accuracy", "corruption=noise"]
    assert noisy.low <= expected <= noisy.high
    worst = brittle["worst_corruption_accuracy", ""]
    assert worst.value == min(one.value for (_, where), one in brittle.items() if where.startswith("corruption="))
    assert worst.reason.startswith("lowest for ")
    still, _ = measure(corruption_accuracy, table(2000), lambda one: np.ones(len(one), dtype=np.int64), TABLE)
    assert still["corruption_accuracy", ""].value == still["relative_corruption_accuracy", ""].value == 1.0
    assert still["corruption_accuracy", ""].low > 0.99


def test_all_rows_agree_with_the_sample_and_with_brute_force():
    inputs = table(300)
    few, _ = measure(corruption_accuracy, inputs, sign, TABLE)
    every, query = measure(corruption_accuracy_of_all_rows, inputs, sign, TABLE)
    assert {key: one.value for key, one in few.items()} == {key: one.value for key, one in every.items()}
    assert query.num_rows == 25 * 300
    labels, right = sign(inputs), {}
    for name, severity, copy in copies(query, inputs):
        right[name, severity] = (sign(copy) == labels).mean()
    assert every["corruption_accuracy", ""].value == pytest.approx(np.mean(list(right.values())))
    third = [share for (_, severity), share in right.items() if severity == 3]
    assert every["corruption_accuracy", "severity=3"].value == pytest.approx(np.mean(third))


def test_pictures_meet_twelve_kinds_and_a_mean_brightness_is_moved_by_light():
    pictures = np.random.default_rng(0).integers(60, 140, (300, 1, 12, 12)).astype(np.uint8)
    found, query = measure(
        corruption_accuracy, pictures, lambda one: (one.mean(axis=(1, 2, 3)) > 120).astype(np.int64), PICTURE
    )
    assert query.num_rows == 60 * NUM_ROWS["image"]
    kinds = {where.removeprefix("corruption=") for _, where in found if where.startswith("corruption=")}
    assert kinds == set(corrupted_pixels.CORRUPTIONS)
    assert found["corruption_accuracy", "corruption=brightness"].value == 0.0
    assert found["corruption_accuracy", "corruption=contrast"].value == 1.0
    assert PROBES["corruption_accuracy"].cost(Sizes(300, 9, 16, 2, "image")) == {"corruption_accuracy": query.num_rows}


def test_a_model_that_refuses_empty_cells_is_wrong_there_and_nowhere_else():
    def refuses(inputs):
        if np.isnan(inputs).any():
            raise ModelError(Problem("a cell is empty"))
        return sign(inputs)

    found, _ = measure(corruption_accuracy, table(200), refuses, TABLE)
    empty = found["corruption_accuracy", "corruption=missing_cells"]
    assert (empty.value, empty.errored) == (0.0, 200)
    assert "refused by the model" in empty.reason
    assert found["corruption_accuracy", "corruption=noise"].value > 0.8

    def poor(inputs):
        if len(inputs) < 200:
            return sign(inputs)
        raise BudgetError(Problem("no rows are left"))

    with pytest.raises(BudgetError):
        corruption_accuracy(Fake(table(200), poor, TABLE), sign(table(200)), sign(table(200)), None)


def test_a_missing_number_is_what_the_data_declare_it_to_be():
    """A system whose data declare the median never meets an empty number: the service and the reader fill it before."""

    def answers_numbers(inputs):
        return np.where(np.isnan(inputs[:, 0]), -1, sign(inputs))

    empty = [Fake(table(1000), answers_numbers, TABLE) for _ in range(2)]
    empty[1].system.data.medians["x"] = 5.0
    clean, found = sign(table(1000)), []
    for query in empty:
        draws = make_draws(b"key", "split", [clean], num_draws=20)
        measured = corruption_accuracy(query, clean, clean, draws)
        found.append({one.slice: one for one in measured if one.metric == "corruption_accuracy"})
    missing = [one["corruption=missing_cells"] for one in found]
    assert [one.errored > 500 for one in missing] == [True, False]
    assert missing[1].errored == 0
    assert missing[1].value == pytest.approx(missing[0].value + 0.23 / 2, abs=0.03)  # 5 is right for half of the rows
    assert found[0]["corruption=noise"].value == found[1]["corruption=noise"].value


def test_a_system_that_is_never_right_has_no_relative_accuracy():
    found, _ = measure(corruption_accuracy, table(100), sign, TABLE, labels=np.full(100, 2))
    assert found["relative_corruption_accuracy", ""].value is None
    assert found["relative_corruption_accuracy", ""].reason


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """Rows are right by chance of their own; kinds and severities of a row depend on each other."""
    truth = np.linspace(0.95, 0.55, 4)[:, None] - np.linspace(0, 0.2, 5)
    covered = {"mean": 0, "relative": 0, "above": 0, "below": 0}
    rounds, num = 200, 200
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        luck = rng.normal(size=(num, 1, 1)) * 0.8 + rng.normal(size=(num, 4, 5)) * 0.6
        right = norm.cdf(luck) < truth
        clean = norm.cdf(luck[:, 0, 0]) < 0.97
        draws = make_draws(b"key", str(seed), [np.arange(num)], num_draws=300)
        found = accuracies(Answered(tuple("abcd"), right, right & False), clean, draws)
        whole, relative, worst = found[:3]
        covered["mean"] += whole.low <= truth.mean() <= whole.high
        covered["relative"] += relative.low <= truth.mean() / 0.97 <= relative.high
        covered["above"] += worst.high >= truth.mean(axis=1).min()
        covered["below"] += worst.low <= truth.mean(axis=1).min()
    assert 0.92 <= covered["mean"] / rounds <= 0.98, covered
    assert 0.92 <= covered["relative"] / rounds <= 0.985, covered
    assert covered["above"] / rounds >= 0.96, covered
    assert covered["below"] / rounds >= 0.96, covered


def test_the_worst_of_equal_kinds_is_not_faked():
    alike = np.random.default_rng(0).random((500, 20, 1)) < 0.8
    draws = make_draws(b"key", "split", [np.arange(500)], num_draws=200)
    sums = draws.sums(alike[:, :, 0].astype(np.float64))
    found = lowest(tuple(map(str, range(20))), sums, np.full(201, 500.0), level=0.95)
    assert found.low <= 0.8 <= found.high
