"""Noise is what it says, finds a planted brittle system, and leaves a flat one alone."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from assay.probes.robustness._columns import box, ranges, settle
from assay.probes.robustness.input_noise import LEVELS, input_noise, noisy
from assay.stats import make_draws
from assay.tasks import Classification, Regression
from assay.values import Column, Groups

COLUMNS = (
    Column("x", "numeric", low=-3.0, high=3.0),
    Column("age", "numeric", low=17, high=90),
    Column("job", "categorical", categories=("a", "b", "c")),
)


def rows(num: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = [np.clip(rng.normal(size=num), -3, 3), rng.integers(17, 91, num), rng.choice(3, num, p=[0.7, 0.2, 0.1])]
    return np.stack(parts, axis=1).astype(np.float32)


@dataclass
class FakeQuery:
    inputs: np.ndarray
    answer: object
    columns: tuple = COLUMNS
    num_rows: int = 0
    seen: list = field(default_factory=list)

    @property
    def groups(self) -> Groups:
        return Groups(np.zeros((len(self.inputs), 0), dtype=np.int64), ())

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng(sum(map(ord, name)))

    def predictions(self, inputs, groups):
        self.num_rows += len(inputs)
        self.seen.append(inputs)
        return self.answer(inputs)


def measure(answer, *, num=2000, labels=None, task=None):
    query = FakeQuery(rows(num), answer)
    clean = answer(query.inputs)
    labels = clean if labels is None else labels(query.inputs)
    codes = [clean.astype(np.int64)] if clean.dtype.kind == "i" else [np.zeros(num, dtype=np.int64)]
    draws = make_draws(b"key", "split", codes, num_draws=200)
    found = input_noise(query, clean, labels, task or Classification(("a", "b")), draws)
    return {(one.metric, one.slice): one for one in found}, query


def threshold(inputs):
    return (inputs[:, 0] > 0).astype(np.int64)


def test_flip_rate_of_a_threshold_agrees_with_the_closed_form():
    # x ~ N(0, 1), answer x > 0, noise s: P(flip) = arctan(s) / pi (orthant probability of a bivariate normal).
    found, _ = measure(threshold, num=40_000)
    for level in LEVELS:
        flips = found["flip_rate", f"noise={level}"]
        assert flips.low <= np.arctan(level) / np.pi <= flips.high
        assert flips.high - flips.low < 0.01
        drop = found["accuracy_drop_under_noise", f"noise={level}"]
        assert drop.value == pytest.approx(flips.value)  # labels are the clean answers: each flip is a loss
        assert found["accuracy_under_noise", f"noise={level}"].value == pytest.approx(1 - flips.value)


def test_a_planted_brittle_system_is_told_from_a_flat_one():
    brittle, _ = measure(lambda inputs: (np.floor(inputs[:, 0] * 50) % 2).astype(np.int64))
    flat, _ = measure(lambda inputs: np.zeros(len(inputs), dtype=np.int64))
    assert brittle["flip_rate", "noise=0.1"].low > 0.4
    assert flat["flip_rate", "noise=0.3"].value == 0
    assert flat["flip_rate", "noise=0.3"].high < 0.01


def test_only_the_swap_moves_a_system_that_reads_categories_alone():
    found, _ = measure(lambda inputs: (inputs[:, 2] == 0).astype(np.int64), num=20_000)
    flips = found["flip_rate", "noise=0.3"]
    assert flips.low <= 0.02 * 2 * 0.7 * 0.3 <= flips.high


def test_systems_meet_the_same_noise():
    _, first = measure(threshold)
    _, second = measure(lambda inputs: np.ones(len(inputs), dtype=np.int64))
    for one, other in zip(first.seen, second.seen, strict=True):
        assert np.array_equal(one, other)


def test_declared_cost_is_what_runs():
    from assay.registry import PROBES, Sizes

    _, query = measure(threshold, num=333)
    assert PROBES["input_noise"].cost(Sizes(333, 10, 3, 2)) == {"input_noise": query.num_rows}


def test_noise_stays_plausible_and_inputs_are_not_touched():
    inputs = rows(500)
    inputs[0, 0], inputs[1, 0], inputs[2, 2] = np.nan, 9.0, -1  # missing, outside the range, unseen category
    kept = inputs.copy()
    shaken = noisy(inputs, COLUMNS, 2.0, swap_rate=0.5, rng=np.random.default_rng(0))
    assert np.array_equal(inputs, kept, equal_nan=True)
    assert np.isnan(shaken[0, 0])
    assert np.isnan(shaken[:, 0]).sum() == 1
    assert shaken[1, 0] <= 9.0
    assert (np.abs(shaken[2:, 0]) <= 3).all()
    assert (shaken[:, 1] == np.round(shaken[:, 1])).all()
    assert set(np.unique(shaken[:, 2])) <= {-1.0, 0.0, 1.0, 2.0}
    spread = (shaken[3:, 1] - inputs[3:, 1]).std()
    assert spread > 10  # 2 sd of a uniform 17..90, clipped


def test_a_column_without_any_value_is_left_alone():
    inputs = rows(50)
    inputs[:, 0] = np.nan
    assert np.isnan(noisy(inputs, COLUMNS, 0.3, swap_rate=0.0, rng=np.random.default_rng(0))[:, 0]).all()


def test_errored_examples_count_as_flipped_and_stay_in_the_denominator():
    def half_broken(inputs):
        return np.where(np.arange(len(inputs)) % 2 == 0, -1, 1)

    found, _ = measure(half_broken, num=100, labels=lambda inputs: np.ones(len(inputs), dtype=np.int64))
    flips = found["flip_rate", "noise=0.1"]
    assert (flips.attempted, flips.scored, flips.errored) == (100, 50, 50)
    assert flips.value == pytest.approx(0.5)
    assert found["accuracy_under_noise", "noise=0.1"].value == pytest.approx(0.5)


def test_regression_measures_the_change_in_target_units():
    # answer 10 x: mean |change| = 10 s sqrt(2/pi) * sd
    found, query = measure(lambda inputs: 10 * inputs[:, 0], num=20_000, task=Regression())
    expected = 10 * 0.1 * query.inputs[:, 0].std() * np.sqrt(2 / np.pi)
    change = found["mean_change", "noise=0.1"]
    assert change.value == pytest.approx(expected, rel=0.03)
    assert change.low < change.value < change.high
    assert found["absolute_error_rise_under_noise", "noise=0.1"].value == pytest.approx(change.value)


def test_regression_errors_are_said():
    def some_nan(inputs):
        return np.where(np.arange(len(inputs)) < 10, np.nan, inputs[:, 0])

    found, _ = measure(some_nan, num=100, task=Regression(), labels=lambda inputs: inputs[:, 0])
    change = found["mean_change", "noise=0.1"]
    assert change.errored == 10
    assert "10 errored" in change.reason


def test_box_and_settle_on_whole_numbers():
    inputs = np.array([[0.0, 20, 1], [5.0, 89, 2], [np.nan, 30, 0]], dtype=np.float32)
    known = ranges(COLUMNS, inputs)
    low, high = box(inputs, known, 0.05)
    assert known.whole.tolist() == [True, True, False]  # x happens to hold whole numbers only here
    assert high[0, 1] - 20 == np.floor(0.05 * 73)
    assert high[1, 1] == 90
    assert (low[1, 0], high[1, 0]) == (5.0, 5.0)  # outside the range, and 0.3 rounds down to no whole step
    assert np.isnan(low[2, 0])
    assert (low[:, 2] == inputs[:, 2]).all()
    points = settle(np.array([[0.2, 22.6, 1]]), low[:1], high[:1], known)
    assert points.tolist() == [[0.0, 23.0, 1.0]]
