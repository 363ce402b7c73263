"""Stopping early keeps the promised error, and needs hardly more votes than the least possible."""

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import binom

from assay.estimation.votes import log_wealth, vote

ALPHA = 0.001


def always(rows, num):
    return np.full(len(rows), num)


def voters(chances, seed=0):
    """Votes of rows with known chances."""
    rng, chances = np.random.default_rng(seed), np.asarray(chances)
    return lambda rows, num: rng.binomial(num, chances[rows])


@pytest.mark.parametrize("bound", [0.5, 0.8413, 0.99])
@pytest.mark.parametrize("chance", [1.0, 0.7])
def test_wealth_is_one_on_average_at_the_bound_and_less_below(bound, chance):
    # The expectation over all outcomes, by enumeration: a fair bet at p0, a losing one below.
    wins = np.arange(41)
    wealth = np.exp(log_wealth(wins, 40 - wins, bound))
    expected = (binom.pmf(wins, 40, bound * chance) * wealth).sum()
    assert expected == pytest.approx(1, abs=1e-9) if chance == 1 else expected <= 1


@pytest.mark.parametrize(("share", "floor"), [(1, 40), (2, 301), (3, 5114)])
def test_votes_that_are_always_won_end_within_twice_the_floor(share, floor):
    assert np.ceil(np.log(ALPHA) / np.log(ndtr(share)) - 0.5) in (floor, floor - 1)
    found = vote(always, 1, np.array([ndtr(share)]), alpha=ALPHA, most=100_000)
    assert found.num_shown[0] == 1
    assert floor <= found.num_votes[0] <= 1.5 * floor


@pytest.mark.slow
def test_claims_at_the_bound_err_at_most_as_promised_however_often_one_looks():
    # Every row's chance is the bound itself: any claim is false. Looks at every stop, up to 4,096 votes.
    alpha, num = 0.05, 20_000
    for bound in (0.5, 0.9):
        found = vote(voters(np.full(num, bound)), num, np.array([bound]), alpha=alpha, most=4096)
        wrong = (found.num_shown > 0).mean()
        assert wrong <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / num)
        assert found.is_below.mean() <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / num)


@pytest.mark.slow
def test_a_false_bound_among_true_ones_errs_no_more():
    alpha, num = 0.05, 20_000
    bounds = np.array([0.5, 0.7, 0.9, 0.95])
    found = vote(voters(np.full(num, 0.9)), num, bounds, alpha=alpha, most=4096)
    assert (found.num_shown > 2).mean() <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / num)
    assert (found.num_shown == 2).mean() > 0.9  # and those that are true are shown


def test_claims_at_the_bound_err_at_most_as_promised_in_few_rows():
    found = vote(voters(np.full(1000, 0.9)), 1000, np.array([0.9]), alpha=0.05, most=300)
    assert (found.num_shown > 0).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)


def test_hopeless_rows_are_given_up_early_and_both_sides_are_told():
    bounds = ndtr(np.array([0.0, 1.0, 2.0]))
    chances = np.array([0.1, 0.5, 0.7, 0.93, 0.999])
    found = vote(voters(chances), 5, bounds, alpha=ALPHA, most=4096)
    assert found.num_shown.tolist() == [0, 0, 1, 2, 3]
    assert found.is_below.tolist() == [True, False, False, False, False]
    assert found.num_votes[0] < 64
    assert found.num_votes[1] == 4096
    assert (found.num_votes[[2, 3, 4]] < 1500).all()
