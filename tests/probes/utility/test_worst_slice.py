import time
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import hypergeom

from assay.probes.utility import worst_slice as module
from assay.probes.utility._conditions import benjamini_yekutieli, coins, conditions_of, hypergeometric_tail
from assay.probes.utility._slices import search
from assay.probes.utility.worst_slice import worst_slice
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


def test_conditions_are_categories_and_quarters():
    _, inputs, _ = table(0, 300)
    inputs[:20, 0], inputs[:30, 2] = np.nan, -1
    conditions = conditions_of(inputs, COLUMNS, 1)
    names = conditions.names
    assert {"age=missing", "job=missing", "job=c"} <= set(names)
    slice_ = np.array([names.index("job=c"), names.index("place=y"), -1])
    assert conditions.name(slice_) == "job=c & place=y"
    assert (conditions.rows(slice_) == ((inputs[:, 2] == 2) & (inputs[:, 3] == 1))).all()
    ages = [name for name in names if name.startswith("age=") and "missing" not in name]
    assert len(ages) == 4
    sizes = []
    for name in ages:
        inside = conditions.rows(np.array([names.index(name), -1, -1]))
        low, high = (float(end) if end else np.nan for end in name.removeprefix("age=").split(".."))
        seen = inputs[inside, 0].min(), inputs[inside, 0].max()
        told = np.where(np.isnan([low, high]), [np.nanmin(inputs[:, 0]), np.nanmax(inputs[:, 0])], [low, high])
        assert seen == pytest.approx(tuple(told), rel=1e-5)
        sizes.append(inside.sum())
    assert sizes == [70, 70, 70, 70]
    ends = [name.removeprefix("age=").split("..") for name in ages]
    assert [one for one in ends if "" in one] == [["", ends[0][1]], [ends[3][0], ""]], "of one row each: not named"
    inputs[20:, 0] = 5.0
    assert {"age=known", "age=missing"} <= set(conditions_of(inputs, COLUMNS, 1).names), "one range has no end to name"
    few = conditions_of(inputs, COLUMNS, 25)
    assert "age=missing" not in few.names
    assert few.widths[0] == few.nums[0] + 1


def brute_force(conditions, outcome, least):
    """Every slice by its rows, with its z in the searching half."""
    found, count = [], 0
    halves, wrong = (outcome < 2, outcome >= 2), outcome % 2 == 1
    num, num_wrong = halves[1].sum(), (halves[1] & wrong).sum()
    for size in (1, 2, 3):
        for chosen in combinations(range(len(conditions.names)), size):
            if len({conditions.owners[one] for one in chosen}) < size:
                continue
            slice_ = np.array([*chosen, *[-1] * (3 - size)])
            inside = conditions.rows(slice_)
            if any(min((inside & half).sum(), (~inside & half).sum()) < least / 2 for half in halves):
                continue
            count += 1
            n, e = (inside & halves[1]).sum(), (inside & halves[1] & wrong).sum()
            share = num_wrong / num
            z = (e - n * share) / np.sqrt(n * share * (1 - share) * (num - n) / (num - 1))
            found.append((-round(z, 9), tuple(slice_)))
    return sorted(found), count


@pytest.mark.parametrize(("seed", "share", "kept"), [(0, 0.3, 500), (1, 0.03, 10), (2, 0.1, 40)])
def test_search_equals_brute_force_and_cuts_off_only_what_cannot_matter(seed, share, kept):
    rng, inputs, groups = table(seed, 500)
    inputs = np.column_stack([inputs, groups.codes])
    inputs[:40, 1] = np.nan
    conditions = conditions_of(inputs, [*COLUMNS, *GROUPS], 24)
    bad = (inputs[:, 2] == 1) & (groups.codes[:, 0] == 0)
    outcome = (rng.random(500) < share + 0.3 * bad) + 2 * rng.integers(2, size=500)
    found = search(conditions, outcome.astype(np.uint8), least=24, kept=kept)
    expected, count = brute_force(conditions, outcome, 24)
    assert [(-round(z, 9), tuple(one)) for z, one in zip(found.z, found.slices, strict=True)] == expected[:kept]
    assert found.num_counted <= count <= found.num_counted + found.num_cut


def test_slices_that_cannot_matter_are_cut_off():
    """Errors so rare outside one slice that three more conditions cannot gather enough of them."""
    rng = np.random.default_rng(0)
    columns = tuple(Column(f"c{k}", "categorical", ("a", "b", "c")) for k in range(6))
    inputs = rng.integers(3, size=(6000, 6)).astype(float)
    wrong = (rng.random(6000) < 0.002) | ((inputs[:, 0] == 0) & (inputs[:, 1] == 0) & (rng.random(6000) < 0.9))
    conditions = conditions_of(inputs, columns, 120)
    outcome = wrong + 2 * rng.integers(2, size=6000)
    found = search(conditions, outcome.astype(np.uint8), least=120, kept=3)
    expected, _ = brute_force(conditions, outcome, 120)
    assert found.num_cut > 0
    assert [tuple(one) for one in found.slices] == [one for _, one in expected[:3]]


def test_coins_are_fair_and_follow_the_row():
    rng = np.random.default_rng(0)
    inputs, outcome = rng.integers(3, size=(20_000, 2)).astype(float), rng.integers(3, size=20_000)
    tossed = coins(inputs, outcome)
    order = rng.permutation(20_000)
    moved = coins(inputs[order], outcome[order])
    for cell in range(27):
        member = inputs[:, 0] * 9 + inputs[:, 1] * 3 + outcome == cell
        assert tossed[member].sum() == moved[member[order]].sum()
        assert abs(tossed[member].mean() - 0.5) < 4 * 0.5 / np.sqrt(member.sum())
    unique = rng.normal(size=(20_000, 2))
    np.testing.assert_array_equal(coins(unique, outcome)[order], coins(unique[order], outcome[order]))
    assert abs(coins(unique, outcome).mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)
    assert coins(unique[:0], outcome[:0]).shape == (0,)


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
    assert abs(deficit.attempted / bad.sum() - 0.5) < 0.15  # the half that tests
    assert [one.slice for one in found if one.metric == "accuracy_deficit"] == ["job=b & sex=f"]


def test_a_planted_triple_is_found_and_what_only_contains_it_is_not():
    rng, inputs, groups = table(7, 20_000)
    bad = (inputs[:, 2] == 1) & (groups.codes[:, 0] == 0) & (inputs[:, 3] == 2)
    found = measure(inputs, groups, rng.random(20_000) < np.where(bad, 0.35, 0.1))
    shown = [one for one in found if one.metric == "accuracy_deficit"]
    assert [one.slice for one in shown] == ["job=b & place=z & sex=f"]
    assert shown[0].low <= 0.25 <= shown[0].high


def test_clean_data_is_left_alone():
    found = []
    for seed in range(30):
        rng, inputs, groups = table(seed, 800)
        found.append({one.metric: one for one in measure(inputs, groups, rng.random(800) < 0.2, num_draws=2)})
    assert sum(one["num_slices_found"].value > 0 for one in found) <= 3
    assert sum(one["worst_slice_deficit"].low > 0 for one in found) <= 3
    quiet = [one for one in found if one["num_slices_found"].value == 0]
    assert all("accuracy_deficit" not in one and "0 kept" in one["num_slices_found"].reason for one in quiet)


@pytest.mark.slow
def test_clean_data_rarely_alarms_and_the_interval_holds_the_worst():
    """No slice differs: whatever the search picked by chance has a true deficit of 0."""
    alarms, low, high = [], [], []
    for seed in range(400):
        rng, inputs, groups = table(seed, 2000)
        by_metric = {one.metric: one for one in measure(inputs, groups, rng.random(2000) < 0.2, num_draws=2)}
        alarms.append(by_metric["num_slices_found"].value > 0)
        low.append(by_metric["worst_slice_deficit"].low > 0)
        high.append(by_metric["worst_slice_deficit"].high < 0)
    assert np.mean(alarms) <= 0.05
    assert np.mean(low) <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 400)
    assert np.mean(high) <= 0.025 + 2 * np.sqrt(0.025 * 0.975 / 400)


def test_limits_hold_for_the_slice_that_was_picked():
    """Picking the worst of many makes a plain interval miss; not where picking and measuring share no row."""
    held = []
    for seed in range(30):
        rng, inputs, groups = table(seed, 1500)
        bad = inputs[:, 3] == 2
        found = measure(inputs, groups, rng.random(1500) < np.where(bad, 0.30, 0.15), num_draws=2)
        held += [
            one.low <= 0.15 <= one.high for one in found if one.metric == "accuracy_deficit" and one.slice == "place=z"
        ]
        worst = next(one for one in found if one.metric == "worst_slice_deficit")
        if worst.reason.startswith("place=z;"):
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
    assert next(one.value for one in found if one.metric == "num_slices_found") == 1
    assert 0.4 < shown[0].errored / (predictions == -1).sum() < 0.6


def test_too_few_rows_is_undefined():
    _, inputs, groups = table(0, 60)
    found = measure(inputs, groups, np.zeros(60, dtype=bool))
    assert [one.value for one in found] == [None]
    assert str(module.MIN_NUM // 2) in found[0].reason


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
