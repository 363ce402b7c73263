"""Shared draws: equal to a brute-force row bootstrap, keyed, paired, bounded; estimates and their reasons."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from assay import stats
from assay.errors import UsageError
from assay.values import plain


def table(num_rows=400, seed=0):
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(0, 2, num_rows), rng.integers(0, 5, num_rows)
    predictions = np.where(rng.random(num_rows) < 0.8, labels, 1 - labels)
    return labels, groups, predictions, rng.gamma(1.0, size=num_rows)


def draws_of(columns, num_draws=1000, key=b"key", split="split"):
    return stats.make_draws(key, split, list(columns), num_draws=num_draws)


def same_distribution(mine, other):
    """Means, deviations and quantiles of (B, C) agree within about four Monte-Carlo standard errors."""
    error = np.sqrt(other.var(axis=0) / len(other) + mine.var(axis=0) / len(mine))
    assert (np.abs(mine.mean(axis=0) - other.mean(axis=0)) <= 4 * error).all()
    np.testing.assert_allclose(mine.std(axis=0), other.std(axis=0), rtol=0.08)
    for level in (0.025, 0.5, 0.975):
        gap = np.quantile(mine, level, axis=0) - np.quantile(other, level, axis=0)
        assert (np.abs(gap) <= 0.25 * other.std(axis=0) + 1).all()


def test_counts_and_sums_are_the_row_bootstrap():
    labels, groups, predictions, loss = table()
    cells = (groups * 2 + labels) * 2 + predictions
    rng = np.random.default_rng(7)
    rows = rng.integers(0, len(labels), size=(3000, len(labels)))
    brute = np.stack([np.bincount(cells[one], minlength=20) for one in rows]).astype(float)
    brute_loss = loss[rows].sum(axis=1, keepdims=True)
    draws = draws_of([labels, groups, predictions], num_draws=3000)
    counts, sums = draws.counts(cells, 20), draws.sums(loss)
    np.testing.assert_array_equal(counts[0], np.bincount(cells, minlength=20))
    same_distribution(counts[1:], brute)
    same_distribution(sums[1:], brute_loss)
    mine, other = (np.corrcoef(a[:, 0], b[:, 3])[0, 1] for a, b in ((sums[1:], counts[1:]), (brute_loss, brute)))
    assert mine == pytest.approx(other, abs=0.08)
    # drawn row by row, because no class knows this column
    fine = (loss > 1).astype(int)
    same_distribution(draws.counts(fine, 2)[1:], np.stack([np.bincount(fine[one], minlength=2) for one in rows]))


@pytest.mark.parametrize("num_rows", [60, 400, 60_000])
def test_counts_and_sums_agree(num_rows):
    labels, groups, predictions, loss = table(num_rows)
    draws = draws_of([labels, groups, predictions], num_draws=40)
    cells = groups * 2 + predictions
    onehot = (cells[:, None] == np.arange(10)).astype(float)
    np.testing.assert_allclose(draws.counts(cells, 10), draws.sums(onehot), atol=1e-6)
    fine = (loss > 1).astype(int)
    np.testing.assert_allclose(draws.counts(fine, 2)[:, 1], draws.sums(fine)[:, 0], atol=1e-6)
    np.testing.assert_allclose(draws.counts(fine, 2).sum(axis=1), num_rows)


def test_blocks_of_many_rows_keep_the_spread_even_in_a_sorted_file():
    num_rows = 90_000
    values = np.sort(np.random.default_rng(3).gamma(0.5, size=num_rows))
    draws = draws_of([np.repeat([0, 1, 1], num_rows // 3)], num_draws=1200)
    sums = draws.sums(values)[1:, 0]
    assert sums.std() == pytest.approx(values.std() * np.sqrt(num_rows), rel=0.07)
    assert sums.mean() == pytest.approx(values.sum(), abs=4 * sums.std() / np.sqrt(1200))
    rare = (np.arange(num_rows) % 3000 == 0).astype(int)  # 30 rows
    assert draws.counts(rare, 2)[1:, 1].std() == pytest.approx(np.sqrt(30), rel=0.2)


def test_memory_is_bounded():
    num_rows, num_draws = 200_000, 1000  # (B, N) weights would be 1.6 GB as floats, 200 MB as bytes
    values = np.random.default_rng(0).random((num_rows, 2))
    draws = stats.make_draws(b"key", "split", [np.zeros(num_rows, int)], num_draws=20)
    tracemalloc.start()
    draws.sums(values)
    small = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert small < 60e6
    assert draws._multiplicity.nbytes * num_draws / 20 < 40e6


def test_key_split_and_codes_decide_the_draws():
    labels, groups, _predictions, loss = table(100)
    one, again = (draws_of([labels, groups]) for _ in range(2))
    np.testing.assert_array_equal(one.counts(labels, 2), again.counts(labels, 2))
    np.testing.assert_array_equal(one.sums(loss), again.sums(loss))
    for other in (draws_of([labels, groups], key=b"other"), draws_of([labels, groups], split="other")):
        assert not np.array_equal(one.counts(labels, 2), other.counts(labels, 2))
    order = np.random.default_rng(0).permutation(100)  # order of rows does not matter to compressed counts
    np.testing.assert_array_equal(
        one.counts(labels, 2), draws_of([labels[order], groups[order]]).counts(labels[order], 2)
    )


def test_key_and_rows_are_not_shown():
    draws = draws_of(table(50)[:2], key=b"very secret")
    shown = repr(draws) + json.dumps(plain(draws))
    assert repr(draws) == "Draws(num_rows=50, num_draws=1000, level=0.95)"
    for secret in ("secret", "seed", "classes", draws.seed.hex()):
        assert secret not in shown


def test_subset_is_keyed_by_its_rows():
    labels, _groups, predictions, loss = table(300)
    draws = draws_of([labels, predictions], num_draws=50)
    rows = np.random.default_rng(1).permutation(300)[:80]
    one, again, other = draws.of(rows), draws.of(rows.copy()), draws.of(np.sort(rows))
    np.testing.assert_array_equal(one.sums(loss[rows]), again.sums(loss[rows]))
    assert not np.array_equal(one.counts(labels[rows], 2), other.counts(labels[np.sort(rows)], 2))
    np.testing.assert_array_equal(one.counts(labels[rows], 2)[0], np.bincount(labels[rows], minlength=2))


def test_systems_stay_paired():
    """The paired difference of two systems that disagree on 4 of 400 rows has the variance of 4 rows, not of 400."""
    labels, groups, first, _ = table()
    second = first.copy()
    second[:4] = 1 - second[:4]
    draws = draws_of([labels, groups, first, second], num_draws=4000)
    hits = [draws.counts((one == labels).astype(int), 2)[1:, 1] for one in (first, second)]
    assert (hits[0] - hits[1]).std() == pytest.approx(2.0, rel=0.1)
    smooth = [draws.smooth(draws.counts((one == labels).astype(int), 2), num_outcomes=2) for one in (first, second)]
    np.testing.assert_allclose(smooth[0] - smooth[1], draws.counts((first == labels).astype(int), 2)
                               - draws.counts((second == labels).astype(int), 2), atol=1e-9)  # fmt: skip


def test_columns_too_fine_to_compress_are_drawn_row_by_row():
    num_rows = 12_000
    ids = np.arange(num_rows) * 10**9
    draws = draws_of([np.arange(num_rows) % 2, ids], num_draws=200)
    assert len(draws.sizes) == 2
    counts = draws.counts((ids < 6000 * 10**9).astype(int), 2)
    assert counts[1:, 1].std() == pytest.approx(np.sqrt(num_rows / 4), rel=0.2)


@given(st.integers(1, 60), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_compression_is_exact(num_rows, num_columns, seed):
    rng = np.random.default_rng(seed)
    dtypes = [np.int8, np.int64, np.uint16, np.bool_]
    columns = [rng.integers(0, 2 if k == 3 else 5, num_rows).astype(dtypes[k]) for k in range(num_columns)]
    columns[0] = columns[0] - np.int8(1)
    draws = draws_of(columns, num_draws=5)
    _distinct, sizes = np.unique(np.stack([c.astype(int) for c in columns]), axis=1, return_counts=True)
    assert sorted(draws.sizes) == sorted(sizes)
    for column in columns:
        codes = column.astype(int) + 1
        counts = draws.counts(codes, 8)
        np.testing.assert_array_equal(counts[0], np.bincount(codes, minlength=8))
        assert (counts.sum(axis=1) == num_rows).all()
        assert (counts[:, counts[0] == 0] == 0).all()
    values = rng.normal(size=(num_rows, 2))
    sums = draws.sums(values)
    np.testing.assert_allclose(sums[0], values.sum(axis=0), atol=1e-9)
    assert (np.abs(sums) <= num_rows * np.abs(values).max() + 1e-9).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.counts(np.array([0, 1, 2]), 2),
        lambda d: d.counts(np.array([0, -1, 0]), 2),
        lambda d: d.counts(np.array([0, 1]), 2),
        lambda d: d.counts(np.array([0.0, 1.0, 1.0]), 2),
        lambda d: d.sums(np.array([0.0, np.nan, 1.0])),
        lambda d: d.sums(np.array([0.0, np.inf, -np.inf])),
        lambda d: d.sums(np.zeros(2)),
        lambda d: d.sums(np.zeros((3, 1, 1))),
        lambda d: stats.make_draws(b"", "", []),
        lambda d: stats.make_draws(b"", "", [np.zeros(3, int), np.zeros(4, int)]),
        lambda d: stats.make_draws(b"", "", [np.zeros(3)]),
        lambda d: stats.make_draws(b"", "", [np.zeros(3, int)], level=1.0),
    ],
)
def test_wrong_use_says_what_is_allowed(call):
    with pytest.raises(UsageError) as caught:
        call(draws_of([np.array([0, 1, 1])], num_draws=3))
    assert all(problem.allowed for problem in caught.value.problems)


def test_no_rows_is_no_error():
    draws = draws_of([np.zeros(0, int)], num_draws=3)
    assert draws.counts(np.zeros(0, int), 2).tolist() == [[0, 0]] * 4
    assert draws.of(np.zeros(0, int)).sums(np.zeros((0, 2))).shape == (4, 2)
    assert stats.rate(np.zeros(4), np.zeros(4)).reason


# ------------------------------------------------------------------ estimates


@given(st.integers(0, 300), st.integers(1, 300), st.floats(0.5, 0.999))
@settings(deadline=None)
def test_intervals_of_rates_hold_the_value_and_shrink(hits, total, level):
    hits = min(hits, total)
    for found in (
        stats.rate(np.array([float(hits)]), np.array([float(total)]), level=level),
        stats.exact_rate(hits, total, level=level),
    ):
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0
    more = stats.rate(np.array([9.0 * hits]), np.array([9.0 * total]), level=level)
    less = stats.rate(np.array([float(hits)]), np.array([float(total)]), level=level)
    assert more.high - more.low < less.high - less.low


@given(st.integers(2, 6), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_bands_hold_the_value(num_groups, seed):
    rng = np.random.default_rng(seed)
    totals = rng.integers(0, 60, size=(3, num_groups)).astype(float)
    totals[0, :2] += 1
    hits = np.floor(rng.random((3, num_groups)) * (totals + 1)).clip(0, totals)
    gap = stats.largest_gap(hits, totals)
    rates = hits[0][totals[0] > 0] / totals[0][totals[0] > 0]
    assert gap.value == pytest.approx(np.ptp(rates))
    assert 0 <= gap.low <= gap.value <= gap.high <= 1
    for better, extreme in (("higher", rates.min()), ("lower", rates.max())):
        found = stats.worst(hits, totals, better=better)
        assert found.value == extreme
        assert 0 <= found.low <= found.value <= found.high <= 1
    wide = stats.largest_gap(hits, totals, level=0.999)
    assert wide.low <= gap.low
    assert wide.high >= gap.high
    assert ("no examples" in gap.reason) == (totals[0] == 0).any()


def test_undefined_says_why():
    nothing, some = np.zeros((3, 2)), np.ones((3, 2))
    for found in (
        stats.rate(nothing[:, 0], nothing[:, 0]),
        stats.exact_rate(0, 0),
        stats.mean(nothing[:, 0], nothing[:, 0]),
        stats.difference(nothing, np.array([[0.0, 3.0]] * 3)),
        stats.largest_gap(nothing, np.array([[0.0, 3.0]] * 3)),
        stats.worst(nothing, nothing, better="lower"),
        stats.statistic(np.array([np.nan, 1.0])),
    ):
        assert (found.value, found.low, found.high) == (None, None, None)
        assert found.reason
    for found in (
        stats.statistic(np.array([0.5, 0.5, 0.5])),
        stats.statistic(np.array([0.5, np.nan, np.nan, 0.4])),
        stats.mean(some[:, 0], some[:, 0]),
    ):
        assert found.value is not None
        assert (found.low, found.high) == (None, None)
        assert found.reason.startswith("no interval")
    with pytest.raises(UsageError):
        stats.worst(some, some, better="neither")


def test_statistic_shifts_by_deviations_from_the_median():
    replicates = np.random.default_rng(0).gamma(2.0, size=4001)
    found = stats.statistic(np.concatenate([[5.0], replicates]), level=0.9)
    low, middle, high = np.quantile(replicates, [0.05, 0.5, 0.95])
    assert found.low == pytest.approx(5 + low - middle)
    assert found.high == pytest.approx(5 + high - middle)
    wider = stats.statistic(np.concatenate([[5.0], replicates]), level=0.9, num=30)
    assert wider.high - 5 == pytest.approx((found.high - 5) * 1.05)
    assert stats.statistic(np.concatenate([[5.0], replicates]), bounds=(4.9, 5.1)).high == 5.1
    some = stats.statistic(np.concatenate([[5.0], replicates, [np.nan]]), level=0.9)
    assert some.low == found.low
    assert some.reason == "undefined in 1 of 4002 resamples"


def test_rule_of_three_where_no_draw_differs():
    found = stats.statistic(np.ones(100), bounds=(0, 1), num=50)
    assert (found.low, found.high) == pytest.approx((reference.beta.ppf(0.025, 50, 1), 1.0))
    signed = stats.mean(np.zeros(5), np.full(5, 50.0), bounds=(-1, 1))
    assert signed.low == pytest.approx(-signed.high)


def test_mean_of_symmetric_rows_is_students_t():
    values = reference.norm.ppf((np.arange(200) + 0.5) / 200)
    draws = draws_of([np.zeros(200, int)], num_draws=4000)
    found = stats.mean(draws.sums(values)[:, 0], np.full(4001, 200.0))
    expected = reference.t(199, values.mean(), values.std(ddof=1) / np.sqrt(200)).interval(0.95)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.015)


def test_a_skewed_mean_of_few_draws_stays_near():
    """200 draws told a skewness of -0.55, 1,000 of -0.45: the lower limits were eight and four standard errors away."""
    near = {}
    for num_draws, skewness in ((200, -0.55), (1000, -0.45)):
        replicates = reference.pearson3(skewness).ppf((np.arange(num_draws) + 0.5) / num_draws)
        found = stats.mean(np.concatenate([[0.0], replicates]) * 500, np.full(num_draws + 1, 500.0))
        near[num_draws] = found.low / replicates.std()
    assert -4.6 < near[200] < near[1000] < -3


def test_smooth_gives_a_perfect_recall_an_interval():
    labels = np.repeat([0, 1], [60, 12])
    draws = draws_of([labels])
    counts = draws.counts(labels * 2 + labels, 4)  # every answer is right
    plain_counts, smooth = counts.reshape(-1, 2, 2), draws.smooth(counts, num_outcomes=2).reshape(-1, 2, 2)
    balanced = [np.mean(c[:, [0, 1], [0, 1]] / c.sum(axis=2), axis=1) for c in (plain_counts, smooth)]
    assert stats.statistic(balanced[0], bounds=(0, 1)).low is None
    found = stats.statistic(balanced[1], bounds=(0, 1))
    assert (found.value, found.high) == (1.0, 1.0)
    assert 1 - 3 / (2 * 12) < found.low < 0.97  # the rule of three on 12 positives, which weigh one half


def test_planted_gap_is_found_and_localised():
    hits, totals = np.full((1, 5), 400.0), np.full((1, 5), 500.0)
    assert stats.largest_gap(hits, totals).low == 0
    hits[0, 3] = 300.0
    found = stats.largest_gap(hits, totals)
    assert found.low > 0.1
    assert stats.worst(hits, totals, better="higher").high < 0.7


def test_measured_counts_errored_in_the_denominator():
    one = stats.measured(stats.exact_rate(3, 10), "a", unit="share", better="higher", attempted=12, errored=2)
    assert (one.attempted, one.scored, one.errored, one.level) == (12, 10, 2, 0.95)


@pytest.mark.parametrize("num", [1, 300, 40_000])
def test_faster_ways_of_adding_give_the_same_bits(num):
    """Whole numbers in float32, and many cells row by row, against one product of float64 weights."""
    rng = np.random.default_rng(num)
    draws = stats.make_draws(b"key", "split", [rng.integers(0, 7, num)], num_draws=60)
    whole, codes = rng.integers(-3, 400, (num, 3)).astype(np.float64), rng.integers(0, 200, num)
    apart = draws.sums(whole + 0.5) - draws.sums(np.full((num, 3), 0.5))  # halves take the way of float64
    assert np.allclose(draws.sums(whole), apart, rtol=1e-12, atol=1e-6)
    if num <= 32_768:  # a unit is a row
        weights = np.empty((60, num))
        weights[:] = draws._multiplicity[:, draws._units]
        assert np.array_equal(draws.sums(whole)[1:], weights @ whole)
        hot = (codes[:, None] == np.arange(200)).astype(np.float64)
        assert np.array_equal(draws.counts(codes, 200), np.concatenate([hot.sum(axis=0)[None], weights @ hot]))


def test_a_small_sample_is_drawn_once_and_another_order_is_another_sample():
    draws = stats.make_draws(b"key", "split", [np.arange(50) % 3], num_draws=5)
    assert draws.of(np.arange(10)) is draws.of(np.arange(10))
    assert draws.of(np.arange(10)) is not draws.of(np.arange(11))
    large = stats.make_draws(b"key", "split", [np.arange(9000) % 3], num_draws=2)  # of large ones, the last is kept
    first, small = large.of(np.arange(5000)), large.of(np.arange(10))
    assert large.of(np.arange(5000)) is first
    assert large.of(np.arange(6000)) is large.of(np.arange(6000))
    assert large.of(np.arange(5000)) is not first
    assert large.of(np.arange(10)) is small


def test_true_and_false_are_codes_as_0_and_1_are():
    codes = np.random.default_rng(0).random(60) < 0.4
    draws = stats.make_draws(b"key", "split", [np.arange(60) % 3], num_draws=20)
    np.testing.assert_array_equal(draws.counts(codes, 2), draws.counts(codes.astype(np.int64), 2))
