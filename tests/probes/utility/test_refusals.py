"""Whom refusals fall on: shares by hand, and a largest difference that chance alone does not make."""

from __future__ import annotations

import numpy as np
import pytest

from assay.probes.utility.refusals import _by_group
from assay.stats import make_draws
from assay.values import Column, Groups

COLUMN = Column("origin", "categorical", ("a", "b", "c", "d", "e", "nobody"))


def by_group(refused, codes, *, num_draws=20):
    groups, errored = Groups(codes[:, None], (COLUMN,)), np.zeros(len(codes), dtype=bool)
    draws = make_draws(b"key", "split", [codes, refused.astype(np.int64)], num_draws=num_draws)
    return {(one.metric, one.slice): one for one in _by_group(refused, errored, groups, draws)}


def test_shares_and_the_largest_difference_are_what_counting_gives():
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 5, 3000)  # -1 is missing, and the last category has no row
    refused = rng.random(3000) < np.where(codes == 3, 0.2, 0.05)
    found = by_group(refused, codes)
    shares = [refused[codes == code].mean() for code in range(5)]
    gap = found["refused_share_difference", "origin"]
    assert gap.value == pytest.approx(max(shares) - min(shares))
    assert gap.attempted == (codes >= 0).sum()
    assert gap.low > 0.08, "a group that is refused four times as often is seen"
    assert gap.low < gap.value < gap.high
    assert "origin" not in gap.reason or "nobody" in gap.reason
    assert [found["refused_share", f"origin={name}"].value for name in "abcde"] == pytest.approx(shares)


def test_equal_groups_are_not_called_unequal():
    """Five groups of 100 refused alike: by chance they differ by 0.08, and the band reaches 0."""
    rng, codes, alarms, gaps = np.random.default_rng(1), np.repeat(np.arange(5), 100), 0, []
    for _ in range(200):
        gap = by_group(rng.random(500) < 0.1, codes, num_draws=2)["refused_share_difference", "origin"]
        alarms, gaps = alarms + (gap.low > 0), [*gaps, gap.value]
    assert np.mean(gaps) > 0.05
    assert alarms <= 10 + 6  # 5 % of 200, and two standard deviations
