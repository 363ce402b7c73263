"""A tree of conditions: it finds what was planted, says nothing of clean data, and its rates are honest."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from assay.probes.utility.error_tree import error_tree
from assay.stats import make_draws
from assay.values import Column, Groups

COLUMNS = (
    Column("age", "numeric"),
    Column("hours", "numeric"),
    Column("job", "categorical", ("a", "b", "c", "d")),
)
GROUPS = (Column("sex", "categorical", ("f", "m")),)


def table(seed, num):
    rng = np.random.default_rng(seed)
    inputs = np.column_stack([rng.uniform(17, 90, num), rng.normal(size=num), rng.integers(4, size=num)])
    return rng, inputs, Groups(rng.integers(2, size=(num, 1)), GROUPS)


def measure(inputs, groups, wrong, num_draws=30):
    labels, predictions = np.zeros(len(wrong), dtype=int), wrong.astype(int)
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=num_draws)
    return error_tree(inputs, labels, predictions, groups, COLUMNS, draws)


def rows_of(slice_, inputs, groups):
    """The rows a slice's words say, read by hand."""
    values = {"age": inputs[:, 0], "hours": inputs[:, 1]}
    codes = {"job": (inputs[:, 2], "abcd"), "sex": (groups.codes[:, 0], "fm")}
    inside = np.ones(len(inputs), dtype=bool)
    for part in slice_.split(" & "):
        if "<=" in part or ">" in part:
            name, bound = part.split("<=") if "<=" in part else part.split(">")
            below = values[name] <= float(bound) + 1e-4 * abs(float(bound))
            inside &= below if "<=" in part else ~below
        else:
            name, category = part.split("!=") if "!=" in part else part.split("=")
            held, known = codes[name]
            inside &= (held == known.index(category)) != ("!=" in part)
    return inside


def test_a_planted_tree_is_grown_and_its_leaves_part_the_rows():
    rng, inputs, groups = table(0, 12_000)
    bad = (inputs[:, 2] == 1) & (inputs[:, 0] <= 35)
    wrong = rng.random(12_000) < np.where(bad, 0.45, 0.10)
    gap, *leaves = measure(inputs, groups, wrong)
    assert len(leaves) >= 3
    names = {
        part.split("<")[0].split(">")[0].split("!")[0].split("=")[0]
        for one in leaves
        for part in one.slice.split(" & ")
    }
    assert {"job", "age"} <= names
    member = np.stack([rows_of(one.slice, inputs, groups) for one in leaves])
    assert (member.sum(axis=0) == 1).mean() > 0.999  # bounds are shown with six digits
    worst = member[0]
    assert (worst & bad).sum() > 0.8 * bad.sum()
    assert leaves[0].low <= 0.45
    assert leaves[0].low > 0.25
    assert gap.low > 0.2
    assert leaves[0].slice in gap.reason
    for one, inside in zip(leaves, member, strict=True):
        assert abs(one.attempted / inside.sum() - 0.5) < 0.1  # one half measures
        assert one.value == pytest.approx(wrong[inside].mean(), abs=4 * np.sqrt(0.25 / one.attempted))


def test_the_first_split_is_the_best_of_all():
    rng, inputs, groups = table(1, 4000)
    wrong = rng.random(4000) < np.where(groups.codes[:, 0] == 1, 0.3, 0.1)
    _, *leaves = measure(inputs, groups, wrong)
    assert {one.slice.split(" & ")[0] for one in leaves} <= {"sex=f", "sex!=f", "sex=m", "sex!=m"}


def test_depth_is_three_at_most_and_leaves_are_large():
    rng, inputs, groups = table(2, 20_000)
    parts = np.stack([inputs[:, 0] < 50, inputs[:, 1] < 0, inputs[:, 2] < 2, groups.codes[:, 0] == 0])
    rates = np.array(
        [0.02 + 0.05 * sum(k * bit for k, bit in enumerate(bits, start=1)) for bits in product([0, 1], repeat=4)]
    )
    wrong = rng.random(20_000) < rates[(parts.T @ np.array([8, 4, 2, 1])).astype(int)]
    _, *leaves = measure(inputs, groups, wrong)
    assert 4 <= len(leaves) <= 8
    assert max(one.slice.count(" & ") for one in leaves) == 2
    assert min(one.attempted for one in leaves) >= 60


def test_clean_data_grows_nothing():
    alarms = 0
    for seed in range(40):
        rng, inputs, groups = table(seed, 1500)
        gap, *leaves = measure(inputs, groups, rng.random(1500) < 0.2, num_draws=2)
        alarms += gap.low is not None and gap.low > 0
        assert leaves or gap.reason.startswith("no split is worth its rows")
    assert alarms <= 2


def test_errored_and_missing_rows():
    rng, inputs, groups = table(3, 3000)
    inputs[:300, 0], inputs[:200, 2] = np.nan, -1
    labels, predictions = np.zeros(3000, dtype=int), np.where(groups.codes[:, 0] == 1, -1, 0)
    predictions[rng.random(3000) < 0.5] = 0
    draws = make_draws(b"key", "split", [labels, predictions], num_draws=20)
    gap, *leaves = error_tree(inputs, labels, predictions, groups, COLUMNS, draws)
    assert gap.errored == (predictions < 0).sum()
    assert sum(one.errored for one in leaves) > 0.4 * gap.errored
    assert sum(one.attempted for one in leaves) == pytest.approx(1500, abs=120)


@pytest.mark.slow
def test_leaf_intervals_hold_together():
    """The truth of a leaf is known, because what makes errors is."""
    held = []
    for seed in range(200):
        rng, inputs, groups = table(seed, 3000)
        chance = np.where((inputs[:, 2] == 1) & (groups.codes[:, 0] == 0), 0.4, 0.15)
        _, *leaves = measure(inputs, groups, rng.random(3000) < chance, num_draws=2)
        _, many, more = table(10_000 + seed, 60_000)
        truth = np.where((many[:, 2] == 1) & (more.codes[:, 0] == 0), 0.4, 0.15)
        means = [truth[rows_of(one.slice, many, more)].mean() for one in leaves]
        held.append(all(one.low <= mean <= one.high for one, mean in zip(leaves, means, strict=True)))
    assert np.mean(held) >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / 200)
