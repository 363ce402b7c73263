"""Shapley values with a published answer, and those of a peer on the same game."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest

from assay.explain import explain
from assay.values import Array


def game(rule: object) -> object:
    """A cooperative game as a model: one row of ones explained against one row of zeros."""

    def outputs(inputs: Array) -> Array:
        return np.array([[rule(frozenset(np.flatnonzero(row)))] for row in inputs], dtype=float)

    return outputs


def solve(rule: object, num_players: int, num_coalitions: int = 10**6) -> Array:
    ones, zeros = np.ones((1, num_players)), np.zeros((1, num_players))
    return explain(game(rule), ones, zeros, num_coalitions=num_coalitions, rng=np.random.default_rng(0)).values[0]


def test_glove_market() -> None:
    # Two left gloves and one right one: 1/6, 1/6, 2/3 (Shapley 1953; Osborne and Rubinstein 1994, section 14.4).
    values = solve(lambda members: float(2 in members and len(members) > 1), 3)
    np.testing.assert_allclose(values, [1 / 6, 1 / 6, 2 / 3], atol=1e-12)


def test_airport_game() -> None:
    # Runways of 8, 11, 13 and 18: each stretch is shared by those who need it (Littlechild and Owen 1973).
    costs = [8.0, 11.0, 13.0, 18.0]
    values = solve(lambda members: max((costs[one] for one in members), default=0.0), 4)
    np.testing.assert_allclose(values, [2, 3, 4, 9], atol=1e-12)


def test_security_council_of_five() -> None:
    # Weighted majority [3; 2, 1, 1, 1]: Shapley-Shubik power 1/2, 1/6, 1/6, 1/6 (Shapley and Shubik 1954).
    weights = np.array([2, 1, 1, 1])
    values = solve(lambda members: float(weights[list(members)].sum() >= 3), 4)
    np.testing.assert_allclose(values, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=1e-12)


@pytest.mark.parametrize("num_players", [2, 3, 7])
def test_product_and_exclusive_or_are_shared_equally(num_players: int) -> None:
    product = solve(lambda members: float(len(members) == num_players), num_players)
    np.testing.assert_allclose(product, 1 / num_players, atol=1e-12)
    parity = solve(lambda members: float(len(members) % 2), num_players)
    np.testing.assert_allclose(parity, (num_players % 2) / num_players, atol=1e-12)


WIDE = np.random.default_rng(7)
WEIGHTS = WIDE.normal(size=(2, 12, 16)), WIDE.normal(size=16)
ROWS, BACKGROUND = WIDE.normal(size=(4, 12)), WIDE.normal(size=(20, 12))


def network(inputs: Array) -> Array:
    """A small network with strong interactions: two hidden products, one sigmoid."""
    first, second = inputs @ WEIGHTS[0][0], inputs @ WEIGHTS[0][1]
    hidden = np.tanh(first) * np.cos(second / 3)
    return 1 / (1 + np.exp(-(hidden @ WEIGHTS[1])))


def both(inputs: Array) -> Array:
    chance = network(inputs)
    return np.stack([1 - chance, chance], axis=1)


def enumerated(row: Array, background: Array) -> Array:
    """The definition, coalition by coalition: sum |S|! (F-|S|-1)! / F! (v(S + i) - v(S))."""
    num = len(row)
    subsets = ((np.arange(2**num)[:, None] >> np.arange(num)) & 1).astype(bool)
    game_values = np.mean([network(np.where(subsets, row, other)) for other in background], axis=0)
    size, values = subsets.sum(axis=1), np.zeros(num)
    for column in range(num):
        without = np.flatnonzero(~subsets[:, column])
        weight = np.array([factorial(s) * factorial(num - s - 1) / factorial(num) for s in size[without]])
        values[column] = weight @ (game_values[without + (1 << column)] - game_values[without])
    return values


def by_orders(row: Array, background: Array, num: int) -> Array:
    """The other definition: mean over all orders of what a column adds when it joins."""
    values = np.zeros(num)
    for order in permutations(range(num)):
        inputs = np.repeat(background[None], num + 1, axis=0)
        for step, column in enumerate(order):
            inputs[step + 1 :, :, column] = row[column]
        steps = np.diff([network(one).mean() for one in inputs])
        values[list(order)] += steps
    return values / factorial(num)


def test_enumeration_is_the_mean_over_all_orders() -> None:
    background = BACKGROUND[:3].copy()
    background[:, 5:] = ROWS[0, 5:]  # only five columns differ: 120 orders
    found = explain(both, ROWS[:1], background, num_coalitions=10**6, rng=np.random.default_rng(0), target=1)
    np.testing.assert_allclose(found.values[0, :5], by_orders(ROWS[0], background, 5), atol=1e-12)
    np.testing.assert_allclose(found.values[0, 5:], 0, atol=1e-12)
    assert (found.standard_error == 0).all()


def test_twelve_columns_against_enumeration() -> None:
    truth = np.stack([enumerated(row, BACKGROUND) for row in ROWS])
    exact = explain(both, ROWS, BACKGROUND, num_coalitions=20 * 4096, rng=np.random.default_rng(0), target=1)
    np.testing.assert_allclose(exact.values, truth, atol=1e-12)
    sampled = explain(both, ROWS, BACKGROUND, num_coalitions=6600, rng=np.random.default_rng(0), target=1)
    assert ((sampled.values - truth) ** 2).sum() < 1e-2 * (truth**2).sum()
    np.testing.assert_allclose(sampled.values.sum(axis=1), network(ROWS) - network(BACKGROUND).mean(), atol=1e-12)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_shap_gives_the_same_values() -> None:
    shap = pytest.importorskip("shap")
    ours = explain(both, ROWS, BACKGROUND, num_coalitions=20 * 4096, rng=np.random.default_rng(0), target=1)
    exact = shap.explainers.Exact(network, shap.maskers.Independent(BACKGROUND, max_samples=len(BACKGROUND)))(ROWS)
    np.testing.assert_allclose(ours.values, exact.values, atol=1e-6)
    np.testing.assert_allclose(ours.base, exact.base_values, atol=1e-6)
    kernel = shap.KernelExplainer(network, BACKGROUND).shap_values(ROWS, nsamples=4094, l1_reg=0, silent=True)
    np.testing.assert_allclose(ours.values, kernel, atol=1e-6)
