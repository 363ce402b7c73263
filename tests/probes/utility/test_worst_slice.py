import time

import numpy as np
import pytest
from scipy.stats import hypergeom

from assay.probes.utility import worst_slice as module
from assay.probes.utility._conditions import conditions_of, hypergeometric_tail
from assay.probes.utility.worst_slice import benjamini_yekutieli, worst_slice
from assay.stats import make_draws
from assay.values import Column, Groups

COLUMNS = (
    Column("age", "numeric"),
    Column("hours", "numeric"),
    Column("job", "categorical", ("a", "b", "c", "d")),
    Column("place", "categorical", ("x", "y", "z")),
)
GROUPS = (Column("sex", "categorical", ("f", "m")),)


def table(seed, num):
    rng = np.random.default_rng(seed)
    inputs = np.column_stack([rng.uniform(17, 90, num), rng.poisson(40, num), rng.integers(4, size=num)])
    return rng, np.column_stack([inputs, rng.integers(3, size=num)]), Groups(rng.integers(2, size=(num, 1)), GROUPS)


def measure(inputs, groups, wrong, num_draws=50):
    labels, predictions = np.zeros(len(wrong), dtype=int), wrong.astype(int)
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=num_draws)
    return worst_slice(inputs, labels, predictions, groups, COLUMNS, draws)


def test_pair_counts_equal_counting_rows():
    rng, inputs, _ = table(0, 300)
    inputs[:20, 0], inputs[:30, 2] = np.nan, -1
    wrong = rng.random(300) < 0.3
    conditions = conditions_of(inputs, COLUMNS, 1)
    rows, errors = conditions.pair_counts(wrong)
    names = conditions.names
    assert "age=missing" in names
    assert "job=missing" in names
    assert "job=c" in names
    for i in range(len(names)):
        for j in range(len(names)):
            both = conditions.rows(i, j)
            assert (rows[i, j], errors[i, j]) == (both.sum(), (both & wrong).sum())
    assert (
        conditions.rows(names.index("job=c"), names.index("place=y")) == ((inputs[:, 2] == 2) & (inputs[:, 3] == 1))
    ).all()
    ages = [name for name in names if name.startswith("age=") and "missing" not in name]
    assert len(ages) == 4
    low, high = map(float, ages[1].removeprefix("age=").split(".."))
    inside = conditions.rows(names.index(ages[1]), names.index(ages[1]))
    assert inputs[inside, 0].min() == pytest.approx(low, rel=1e-5)
    assert inputs[inside, 0].max() == pytest.approx(high, rel=1e-5)


def test_tail_probability_is_the_exact_one():
    rng = np.random.default_rng(1)
    draws = rng.integers(1, 400, size=200)
    hits = np.maximum(np.ceil(draws * 90 / 400), np.minimum(draws, rng.integers(0, 91, size=200))).astype(int)
    expected = hypergeom.sf(hits - 1, 400, 90, draws)
    np.testing.assert_allclose(hypergeometric_tail(hits, draws, 90, 400), expected, rtol=1e-8, atol=1e-300)


def test_benjamini_yekutieli_equals_scipy():
    from scipy.stats import false_discovery_control

    p = np.random.default_rng(2).random(60) ** 4
    np.testing.assert_array_equal(benjamini_yekutieli(p, 0.05), false_discovery_control(p, method="by") <= 0.05)
    assert not benjamini_yekutieli(np.ones(5), 0.05).any()
    assert benjamini_yekutieli(np.zeros(0), 0.05).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_pair_is_found(seed):
    rng, inputs, groups = table(seed, 3000)
    bad = (inputs[:, 2] == 1) & (groups.codes[:, 0] == 0)
    found = measure(inputs, groups, rng.random(3000) < np.where(bad, 0.45, 0.15))
    assert next(one.slice for one in found if one.metric == "accuracy_deficit") == "job=b & sex=f"
    by_metric = {one.metric: one for one in reversed(found)}
    assert by_metric["num_slices_found"].value >= 1
    assert "job=b & sex=f" in by_metric["worst_slice_deficit"].reason
    deficit = by_metric["accuracy_deficit"]
    assert deficit.low <= 0.3 <= deficit.high
    assert deficit.low > 0.1
    assert deficit.attempted == bad.sum()


def test_clean_data_is_left_alone():
    found = []
    for seed in range(100):
        rng, inputs, groups = table(seed, 800)
        found.append({one.metric: one for one in measure(inputs, groups, rng.random(800) < 0.2, num_draws=2)})
    assert sum(one["num_slices_found"].value > 0 for one in found) <= 5
    assert sum(one["worst_slice_deficit"].low > 0 for one in found) <= 5
    quiet = [one for one in found if one["num_slices_found"].value == 0]
    assert all("accuracy_deficit" not in one and "0 kept" in one["num_slices_found"].reason for one in quiet)


def test_limits_hold_for_the_slice_that_was_picked():
    """Picking the worst of many makes a plain interval miss: these hold for every searched slice at once."""
    held = []
    for seed in range(100):
        rng, inputs, groups = table(seed, 1500)
        bad = inputs[:, 3] == 2
        found = measure(inputs, groups, rng.random(1500) < np.where(bad, 0.30, 0.15), num_draws=2)
        held += [
            one.low <= 0.15 <= one.high for one in found if one.metric == "accuracy_deficit" and one.slice == "place=z"
        ]
        worst = next(one for one in found if one.metric == "worst_slice_deficit")
        held.append(worst.low <= 0.15 <= worst.high)
    assert np.mean(held) >= 0.95


def test_overlapping_slices_are_shown_once_and_errored_rows_are_errors():
    rng, inputs, groups = table(9, 3000)
    bad = inputs[:, 2] == 3
    labels, predictions = np.zeros(3000, dtype=int), np.where(bad & (rng.random(3000) < 0.5), -1, 0)
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=20)
    found = worst_slice(inputs, labels, predictions, groups, COLUMNS, draws)
    shown = [one for one in found if one.metric == "accuracy_deficit"]
    assert [one.slice for one in shown] == ["job=d"]
    assert next(one.value for one in found if one.metric == "num_slices_found") > 1
    assert shown[0].errored == (predictions == -1).sum()


def test_too_few_rows_is_undefined():
    _, inputs, groups = table(0, 60)
    found = measure(inputs, groups, np.zeros(60, dtype=bool))
    assert [one.value for one in found] == [None]
    assert str(module.MIN_NUM) in found[0].reason


def test_sixteen_thousand_rows_and_thirteen_columns_take_less_than_a_second():
    rng = np.random.default_rng(0)
    sizes = [9, 16, 7, 15, 6, 5, 2, 42]
    columns = tuple(Column(f"c{k}", "categorical", tuple(map(str, range(size)))) for k, size in enumerate(sizes))
    columns += tuple(Column(f"n{k}", "numeric") for k in range(5))
    inputs = np.column_stack([*(rng.integers(size, size=16_281) for size in sizes), rng.normal(size=(16_281, 5))])
    labels, predictions = np.zeros(16_281, dtype=int), (rng.random(16_281) < 0.15).astype(int)
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=200)
    started = time.process_time()
    found = worst_slice(inputs, labels, predictions, Groups(np.zeros((16_281, 0)), ()), columns, draws)
    assert time.process_time() - started < 1.0
    assert "slices searched" in found[0].reason
