import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data import Declaration, Splits, from_frame
from assay.data._problems import Problems
from assay.data._times import times_of
from assay.data.splits import TEST, TRAIN, VALIDATION, assign, carve, keyed_hash
from assay.errors import DataError


def splitmix64(seed, count):
    """The published generator, one output at a time, in Python integers (Steele, Lea, Flood 2014, figure 17)."""
    mask, state, outputs = 2**64 - 1, seed, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        outputs.append(z ^ (z >> 31))
    return outputs


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**64 - 1), st.integers(0, 50))
def test_keyed_hash_is_the_published_generator(key, count):
    assert keyed_hash(np.arange(1, count + 1), key).tolist() == splitmix64(key, count)


def test_golden_split_does_not_move():
    hashes = splitmix64(2 * 7, 20)
    smallest = sorted(sorted(range(20), key=hashes.__getitem__)[:5])
    assigned = assign(np.zeros(20, int), test=0.25, validation=0.2, seed=7)
    assert np.flatnonzero(assigned == TEST).tolist() == smallest == [1, 2, 6, 10, 12]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.floats(0.01, 0.99),
    st.floats(0, 0.99),
    st.integers(0, 2**63 - 1),
)
def test_every_stratum_gives_its_share(strata, test, validation, seed):
    strata = np.array(strata)
    assigned = assign(strata, test=test, validation=validation, seed=seed)
    for value in np.unique(strata):
        inside = assigned[strata == value]
        num_test = int(np.floor(test * len(inside) + 0.5))
        assert (inside == TEST).sum() == num_test
        assert (inside == VALIDATION).sum() == int(np.floor(validation * (len(inside) - num_test) + 0.5))
    assert set(np.unique(assigned)) <= {TRAIN, VALIDATION, TEST}


def test_rows_are_taken_evenly_whatever_their_place():
    """Over many seeds each row lands in test about as often: 500 draws at 0.2, each within 6 standard errors."""
    counts = sum(carve(np.arange(1, 41), np.zeros(40, int), share=0.2, key=2 * seed) for seed in range(500))
    assert np.abs(counts - 100).max() < 6 * np.sqrt(500 * 0.2 * 0.8)


def test_a_rare_class_stays_in_train():
    assigned = assign(np.array([0] * 50 + [1]), test=0.3, validation=0.3, seed=3)
    assert assigned[-1] == TRAIN


def frame(split):
    size = len(split)
    return pl.DataFrame({"x": np.arange(size) * 1.5, "y": ["a", "b"] * (size // 2), "split": split})


def test_a_split_column_is_followed_and_is_no_feature():
    split = ["train"] * 10 + ["validation"] * 4 + ["test"] * 6
    data = from_frame(frame(split), Declaration("y", splits=Splits(column="split")))
    assert [len(part) for part in data.splits.values()] == [10, 4, 6]
    assert [column.name for column in data.columns] == ["x"]
    assert data.splits["test"].rows.tolist() == list(range(15, 21))


def test_validation_is_carved_when_the_column_has_none():
    split = ["train"] * 20 + ["test"] * 6
    data = from_frame(frame(split), Declaration("y", splits=Splits(column="split", validation=0.2)))
    assert [len(part) for part in data.splits.values()] == [16, 4, 6]
    assert data.splits["validation"].rows.max() <= 20


def test_wrong_split_values_and_empty_splits():
    with pytest.raises(DataError, match=r"2 rows \(1, 3\) hold None, dev. Allowed: train, validation, test"):
        from_frame(frame(["dev", "train", None, *["test"] * 5]), Declaration("y", splits=Splits(column="split")))
    with pytest.raises(DataError, match="the test split has 0 of 8 rows"):
        from_frame(frame(["train"] * 8), Declaration("y", splits=Splits(column="split")))
    with pytest.raises(DataError, match="the test split has 0 of 2 rows"):
        from_frame(frame(["train"] * 2).drop("split"), Declaration("y", splits=Splits(test=0.1)))


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [({"test": 0}, "test is 0"), ({"test": float("nan")}, "test is nan"), ({"validation": -0.1}, "validation is -0.1"),
     ({"seed": -1}, "seed is -1")],
)  # fmt: skip
def test_shares_are_bounded(wrong, problem):
    with pytest.raises(DataError, match=problem):
        Splits(**wrong)


@pytest.mark.parametrize("days", [["05-03-24", "06-03-24"], ["1/2/24", "2/2/24"], ["24.1.2"], ["99-12-31 10:00"]])
def test_a_year_of_two_digits_is_told_and_not_taken_for_the_first_century(days):
    problems = Problems()
    assert times_of(pl.Series("day", days), problems) is None
    assert "holds no time" in str(problems.errors[0])


@pytest.mark.parametrize("cell", [datetime.time(1), datetime.timedelta(days=1), ["2024-01-01"]])
def test_a_column_of_another_type_than_time_is_told(cell):
    problems = Problems()
    assert times_of(pl.Series("day", [cell]), problems) is None
    assert "is of type" in str(problems.errors[0])
