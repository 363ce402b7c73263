"""Noise is what it says, finds a planted brittle system, and leaves a flat one alone."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.stats import norm

from assay.probes.robustness.input_noise import LEVELS, input_noise, noisy
from assay.stats import make_draws
from assay.tasks import Classification, Regression
from assay.units.ranges import box, ranges
from assay.values import Column, Groups, texts

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


def test_box_of_whole_numbers():
    inputs = np.array([[0.0, 20, 1], [5.0, 89, 2], [np.nan, 30, 0]], dtype=np.float32)
    known = ranges(COLUMNS, inputs)
    low, high = box(inputs, known, 0.05)
    assert known.whole.tolist() == [True, True, False]  # x happens to hold whole numbers only here
    assert high[0, 1] - 20 == np.floor(0.05 * 73)
    assert high[1, 1] == 90
    assert (low[1, 0], high[1, 0]) == (5.0, 5.0)  # outside the range, and 0.3 rounds down to no whole step
    assert np.isnan(low[2, 0])
    assert (low[:, 2] == inputs[:, 2]).all()


# ------------------------------------------------------------------ pictures and texts


def changes_of(column: Column, inputs: np.ndarray, answer, labels=None):
    query = FakeQuery(inputs, answer, columns=(column,))
    query.rows = lambda num: np.arange(min(num, len(inputs)))
    clean = answer(inputs)
    draws = make_draws(b"key", "split", [clean.astype(np.int64)], num_draws=100)
    found = input_noise(query, clean, clean if labels is None else labels, Classification(("a", "b")), draws)
    return {(one.metric, one.slice): one for one in found}, query


def test_pictures_meet_six_changes_and_a_mean_is_moved_by_light_alone():
    pictures = np.random.default_rng(0).integers(60, 140, (300, 1, 8, 8)).astype(np.uint8)
    column = Column("image", "image", low=0, high=255, shape=(1, 8, 8))
    found, query = changes_of(column, pictures, lambda one: (one.reshape(len(one), -1).mean(axis=1) > 128).astype(int))
    slices = {where for metric, where in found if metric == "flip_rate"}
    assert slices == {"noise=0.1", "noise=0.3", "brightness=0.2", "contrast=0.5", "blur=1.0", "occlusion=0.3"}
    assert found["flip_rate", "brightness=0.2"].value == 1.0
    assert found["flip_rate", "contrast=0.5"].value == 0.0
    assert found["flip_rate", "blur=1.0"].value == 0.0
    assert query.num_rows == 6 * 300
    assert found["flip_rate", "noise=0.1"].headline


def test_flips_of_a_pixel_under_noise_agree_with_the_closed_form():
    # pixel 100, answer pixel > 127.5, noise 0.1 x 255: P(flip) = P(z > 27.5 / 25.5).
    pictures = np.full((1000, 1, 8, 8), 100, dtype=np.uint8)
    column = Column("image", "image", low=0, high=255, shape=(1, 8, 8))
    found, _ = changes_of(column, pictures, lambda one: (one[:, 0, 3, 3] > 127.5).astype(int))
    flips = found["flip_rate", "noise=0.1"]
    assert flips.low <= norm.sf(27.5 / 25.5) <= flips.high


def test_texts_meet_four_changes_and_only_lost_words_move_a_count_of_words():
    told = texts(["one wonderful story about people"] * 400)
    column = Column("text", "text", language="en")

    def count(inputs):
        return np.array([len(text.split()) == 5 for text in inputs.tolist()]).astype(int)

    found, query = changes_of(column, told, count)
    slices = {where for metric, where in found if metric == "flip_rate"}
    assert slices == {"noise=0.1", "noise=0.3", "dropped=0.1", "homoglyph=0.1"}
    assert found["flip_rate", "noise=0.3"].value == 0
    assert found["flip_rate", "homoglyph=0.1"].value == 0
    lost = found["flip_rate", "dropped=0.1"]
    assert lost.low <= 1 - 0.9**5 <= lost.high
    assert query.num_rows == 4 * 400


def test_a_vocabulary_of_whole_words_is_moved_by_slips_as_often_as_they_come():
    told = texts(["wonderful"] * 1000)

    def known(inputs):
        return np.array([text == "wonderful" for text in inputs.tolist()]).astype(int)

    found, _ = changes_of(Column("text", "text", language="en"), told, known)
    flips = found["flip_rate", "noise=0.3"]
    assert flips.low <= 0.3 <= flips.high


def in_one_go(inputs, columns, level, *, swap_rate, rng):
    """The definition on whole arrays: what the blocks must add up to, number for number."""
    known, values = ranges(columns, inputs), inputs.astype(np.float64)
    finite = np.isfinite(values)
    seen, counts = np.where(finite, values, 0.0), np.maximum(finite.sum(axis=0), 1)
    centred = np.where(finite, seen - seen.sum(axis=0) / counts, 0.0)
    spread = np.where(known.numeric, np.sqrt((centred**2).sum(axis=0) / counts), 0.0)
    moved = values + level * spread * rng.standard_normal(inputs.shape)
    moved = np.where(known.whole, np.round(moved), moved)
    moved = np.clip(moved, np.minimum(known.low, values), np.maximum(known.high, values))
    donors = np.take_along_axis(values, rng.integers(0, len(values), inputs.shape), axis=0)
    swapped = rng.random(inputs.shape) < swap_rate
    return np.where(known.numeric, moved, np.where(swapped, donors, values)).astype(np.float32)


@pytest.mark.parametrize("num_rows", [1, 50, 65_536, 70_001])
def test_blocks_give_the_same_numbers_as_one_go(num_rows):
    rng = np.random.default_rng(num_rows)
    inputs = rng.normal(size=(num_rows, 3)).astype(np.float32)
    inputs[:, 1], inputs[rng.random(num_rows) < 0.01, 2] = rng.integers(-1, 4, num_rows), np.nan
    columns = [Column("x", "numeric", low=-2, high=2), Column("job", "categorical", tuple("abcd"))]
    columns.append(Column("y", "numeric", low=-1, high=3))
    made = [
        how(inputs, columns, 0.3, swap_rate=0.2, rng=np.random.Generator(np.random.Philox(7)))
        for how in (noisy, in_one_go)
    ]
    assert np.array_equal(*made, equal_nan=True)
