"""Interval formulas against other implementations, published tables, and coverage by exact enumeration."""

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from assay.estimation import intervals

COUNTS = [(0, 10), (1, 10), (5, 10), (10, 10), (3, 263), (81, 263), (250, 263), (7, 5000)]


@pytest.mark.parametrize(("hits", "total"), COUNTS)
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_clopper_pearson_and_wilson_agree_with_scipy(hits, total, level):
    for mine, theirs in (
        (intervals.clopper_pearson(hits, total, level=level), "exact"),
        (intervals.wilson(hits, total, critical=intervals.critical_value(level)), "wilson"),
    ):
        expected = stats.binomtest(hits, total).proportion_ci(level, theirs)
        np.testing.assert_allclose(np.array(mine), [expected.low, expected.high], atol=1e-9)


def test_beta_limits_contain_jeffreys_and_clopper_pearson():
    low, high = intervals.beta_limits(7, 50, level=0.9, shift=0.5)
    np.testing.assert_allclose([low, high], stats.beta(7.5, 43.5).ppf([0.05, 0.95]))
    inner, middle, outer = (intervals.beta_limits(7, 50, level=0.95, shift=a) for a in (0.5, 1 / 3, 0.0))
    assert outer[0] < middle[0] < inner[0] < 0.14 < inner[1] < middle[1] < outer[1]


def test_adjusted_wilson_is_wilson_widened_with_exact_ends():
    z, n = stats.norm.ppf(0.975), 40
    plain = intervals.wilson(20, n, critical=z * (1 + 1.5 / n))
    assert intervals.adjusted_wilson(20, n) == plain
    low, _ = intervals.adjusted_wilson(2, 2000)
    assert stats.binom.sf(1, 2000, float(low)) == pytest.approx(0.05, rel=1e-6)  # P(X >= 2) at the limit
    above_95, _ = intervals.adjusted_wilson(8, 2000, level=0.999)
    assert stats.binom.sf(7, 2000, float(above_95)) == pytest.approx(0.001, rel=1e-6)


@pytest.mark.parametrize(("groups", "quantile"), [(2, 2.772), (3, 3.314), (5, 3.858), (10, 4.474), (20, 5.012)])
def test_range_critical_matches_published_table(groups, quantile):
    """Upper 5 % points of the studentized range, infinite degrees of freedom (Harter, Ann. Math. Stat. 1960)."""
    assert intervals.range_critical(groups, 0.95) * math.sqrt(2) == pytest.approx(quantile, abs=6e-4)


def test_pairwise_is_mover_by_hand():
    hits, totals = np.array([56.0, 48.0]), np.array([70.0, 80.0])
    low, high = intervals.pairwise_differences(hits, totals, critical=1.959963984540054)
    (l1, u1), (l2, u2) = (
        intervals.beta_limits(x, n, level=1 - 2 * special.ndtr(-1.959963984540054 * (1 + 0.5 / n)))
        for x, n in zip(hits, totals, strict=True)
    )
    assert low[0, 1] == pytest.approx(0.2 - math.hypot(0.8 - l1, u2 - 0.6))
    assert high[0, 1] == pytest.approx(0.2 + math.hypot(u1 - 0.8, 0.6 - l2))
    np.testing.assert_allclose(low, -high.T)
    # Newcombe (1998), table II, method 10 for the same counts: 0.0524 to 0.3339. Ours is at most 0.006 wider.
    assert 0.0524 - 0.006 < low[0, 1] < 0.0524
    assert 0.3339 < high[0, 1] < 0.3339 + 0.006


@pytest.mark.parametrize("skewness", [-0.6, 0.2, 0.9])
def test_skewed_t_inverts_halls_cubic(skewness):
    low, high = intervals.skewed_t(3.0, 0.5, skewness=skewness, freedom=30, level=0.9)
    t = stats.t.ppf(0.95, 30)

    def cubic(w):  # Hall (1992): g(W) = W + a c W^2 + a^2 c^2 W^3 / 3 + b c with a = 1/3, b = 1/6 for a mean
        return w + skewness * w**2 / 3 + skewness**2 * w**3 / 27 + skewness / 6

    flat = 3 / skewness * (intervals.STEEP**-0.5 - 1)  # where the slope is 1/STEEP: beyond, the tangent

    def bent(w):
        return cubic(flat) + (w - flat) / intervals.STEEP if (w - flat) * skewness < 0 else cubic(w)

    for limit, target in ((low, t), (high, -t)):
        root = optimize.brentq(lambda w, target=target: bent(w) - target, -60, 60)
        assert (3.0 - limit) / 0.5 == pytest.approx(root, abs=1e-6)
    plain = intervals.skewed_t(3.0, 0.5, skewness=0.0, freedom=30, level=0.9)
    np.testing.assert_allclose(plain, stats.t(30, 3.0, 0.5).interval(0.9))


def test_skewed_t_does_not_jump_where_the_cubic_is_flat():
    """An estimated skewness of -0.55 put the lower limit eight standard errors away, -0.45 four."""
    for freedom in (19, 199):
        skewness = np.linspace(-1.2, 1.2, 481)
        limits = np.array([intervals.skewed_t(0.0, 1.0, skewness=g, freedom=freedom, level=0.95) for g in skewness])
        far = np.abs(limits)
        assert far.max() < 6  # 8.7 before
        assert np.abs(np.diff(far, axis=0)).max() < 0.05  # for a step of 0.005 in skewness; 2.1 before
        np.testing.assert_allclose(limits, -limits[::-1, ::-1], atol=1e-9)
        assert (limits[:, 0] < 0).all()
        assert (limits[:, 1] > 0).all()


def test_level_of_inverts_critical_value():
    assert intervals.level_of(intervals.critical_value(0.97)) == pytest.approx(0.97)


# ------------------------------------------------------------------ exact coverage


def exact_coverage(total, rates, level=0.95):
    hits = np.arange(total + 1)
    low, high = intervals.adjusted_wilson(hits, np.full(total + 1, total), level=level)
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    ends = np.concatenate([low - 1e-9, low + 1e-9, high - 1e-9, high + 1e-9])  # coverage jumps at the limits
    rates = np.concatenate([rates, ends[(ends >= rates[0]) & (ends <= rates[-1])]])
    first, last = np.searchsorted(high, rates), np.searchsorted(low, rates, side="right") - 1
    return stats.binom.cdf(last, total, rates) - stats.binom.cdf(first - 1, total, rates)


@pytest.mark.parametrize("total", [20, 26, 38, 75, 100, 203, 1000])
def test_rate_covers_93_to_98_percent_at_every_rate(total):
    coverage = exact_coverage(total, np.linspace(0.02, 0.98, 241))
    assert coverage.min() >= 0.93
    assert total < 100 or coverage.max() <= 0.98


@pytest.mark.slow
def test_rate_covers_93_to_98_percent_at_every_size():
    for total in [*range(20, 600), *range(600, 2000, 50), 2500, 3000, 4000, 5000]:
        coverage = exact_coverage(total, np.linspace(0.02, 0.98, 481))
        assert coverage.min() >= 0.93, total
        assert total < 100 or coverage.max() <= 0.98, total


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 0.9, 0.98, 0.99, 0.998, 0.9995])
def test_rate_misses_at_most_half_as_often_again_at_other_levels(level):
    for total in (20, 30, 50, 75, 100, 150, 200, 300, 500, 1000):
        assert 1 - exact_coverage(total, np.linspace(0.02, 0.98, 241), level).min() <= 1.5 * (1 - level), total


SIZES = [(20, 20), (20, 30), (25, 25), (30, 40), (20, 50), (20, 200), (50, 50), (20, 1000), (100, 100), (100, 200),
         (100, 400), (300, 300), (100, 1000), (200, 1000)]  # fmt: skip
RATES = [0.02, 0.025, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98]


def difference_coverage(sizes):
    first, second = (np.arange(n + 1) for n in sizes)
    low, high = np.empty((2, len(first), len(second)))
    totals = np.concatenate([np.full(len(own), n) for own, n in zip((first, second), sizes, strict=True)])
    down, up = intervals.pairwise_differences(np.concatenate([first, second]), totals, critical=1.959963984540054)
    low, high = down[: len(first), len(first) :], up[: len(first), len(first) :]
    found = []
    for p in RATES:
        for q in RATES:
            covered = (low <= p - q + 1e-12) & (p - q <= high + 1e-12)
            found.append(stats.binom.pmf(first, sizes[0], p) @ covered @ stats.binom.pmf(second, sizes[1], q))
    return np.array(found)


@pytest.mark.parametrize("sizes", [(20, 20), (50, 50), (100, 100)])
def test_difference_covers(sizes):
    coverage = difference_coverage(sizes)
    assert coverage.min() >= 0.93
    assert min(sizes) < 100 or coverage.max() <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
def test_difference_covers_at_every_size(sizes):
    coverage = difference_coverage(sizes)
    assert coverage.min() >= 0.93
    assert min(sizes) < 100 or coverage.max() <= 0.98
