"""Bands of many metrics at once leave out limits that cannot be extreme: what is left out never changes a number."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from scipy import special

from assay import stats
from assay.errors import UsageError
from assay.estimation import extremes
from assay.estimation.estimate import Estimate, estimates


def tables(seed, num):
    """Counts of 1 to 6 metrics and 1 to 13 groups: sizes from 0 to a million, rates from 0 to 1, equal and unequal."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        shape = (rng.integers(1, 7), rng.integers(1, 14))
        sizes = rng.integers(rng.integers(2), rng.choice([3, 20, 60, 1000, 10**6]) + 1, size=shape)
        rates = rng.choice([0, 0.001, 0.02, 0.1, 0.5, 0.9, 1], size=shape if rng.random() < 0.5 else ())
        totals = np.stack([sizes, sizes + rng.integers(0, 3, size=shape)]).astype(float)
        hits = np.stack([rng.binomial(sizes, rates), rng.binomial(sizes, 0.5)]).astype(float)
        yield hits, totals, float(rng.choice([0.5, 0.9, 0.95, 0.95, 0.99, 0.9999])), rng.choice(["higher", "lower"])


def same(mine, other):
    assert mine == [replace(one, low=own.low, high=own.high) for own, one in zip(mine, other, strict=True)]
    for own, one in zip(mine, other, strict=True):
        assert (own.low, own.high) == pytest.approx((one.low, one.high), abs=1e-12, nan_ok=True)
        np.testing.assert_array_equal(own.replicates, one.replicates)


def test_limits_left_out_change_no_band(monkeypatch):
    for hits, totals, level, better in tables(0, 160):
        found = stats.largest_gaps(hits, totals, level=level), stats.worsts(hits, totals, better=better, level=level)
        with monkeypatch.context() as patch:
            patch.setattr(extremes, "MANY", np.inf)
            same(found[0], stats.largest_gaps(hits, totals, level=level))
            same(found[1], stats.worsts(hits, totals, better=better, level=level))
    with pytest.raises(UsageError):
        stats.worsts(hits, totals, better="neither")


@pytest.mark.parametrize("shift", [0.0, 1 / 3])
def test_rough_distance_is_as_near_as_it_is_taken_to_be(shift):
    for critical in np.linspace(*extremes.CRITICAL, 9):
        for total in (*range(1, 40), 100, 1000, 10**5, 10**7):
            few = np.unique(np.geomspace(1, total, 60).astype(int))
            own = np.unique(np.concatenate([few, total - few, [total]])).astype(float)
            own = own[own > 0]
            wide = critical * (1 + 0.5 / total) if shift else critical
            limit = special.betaincinv(own + shift, total - own + 1 - shift, special.ndtr(-wide))
            near = extremes.rough_distance(own, total - own, wide, shift=shift)
            share = (own / total - limit) / near
            assert share.min() > extremes.LEAST, (critical, total)
            assert share.max() < extremes.MOST, (critical, total)
    nothing = extremes.rough_distance(np.zeros(3), np.array([1.0, 50, 10**6]), 1.96, shift=shift)
    assert not nothing.any()


def test_estimates_made_together_are_estimates():
    drawn = np.arange(6.0).reshape(3, 2)
    found = estimates(([1.0, 2.0], [0.0, 1.0], [2.0, 3.0]), drawn, ["", "why"], method="exact", level=0.9)
    assert found == [
        Estimate(1.0, 0.0, 2.0, "exact", None, "", 0.9),
        Estimate(2.0, 1.0, 3.0, "exact", None, "why", 0.9),
    ]
    assert found[1].replicates.tolist() == [1.0, 3.0, 5.0]
    assert replace(found[0], low=0.5).low == 0.5
    with pytest.raises(FrozenInstanceError):
        found[0].low = 0.5
