"""Many Shapley values from few rows: exact where that is promised, unbiased else, against all coalitions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import factorial

import numpy as np
import pytest

from assay.explain.multilinear import LARGEST, design, multilinear, num_rows
from assay.values import Array

Game = Callable[[Array], Array]


def game_of(num: int, order: int, seed: int) -> Game:
    """A sum of products of up to `order` units."""
    rng = np.random.default_rng(seed)
    terms = [(one, rng.normal()) for size in range(order + 1) for one in combinations(range(num), size)]
    return lambda masks: sum(weight * masks[:, list(one)].all(axis=1) for one, weight in terms)


def exact(game: Game, num: int) -> Array:
    """Shapley 1953, every coalition."""
    masks = (np.arange(2**num)[:, None] >> np.arange(num) & 1).astype(bool)
    outputs, sizes, found = game(masks), masks.sum(axis=1), np.zeros(num)
    for one in range(num):
        without = np.flatnonzero(~masks[:, one])
        weights = [factorial(s) * factorial(num - s - 1) / factorial(num) for s in sizes[without].tolist()]
        found[one] = weights @ (outputs[without + 2**one] - outputs[without])
    return found


@pytest.mark.parametrize("num", [1, 2, 3, 6, 9])
def test_products_of_two_are_exact(num: int) -> None:
    game = game_of(num, 2, seed=num)
    found = multilinear(game, num, rng=np.random.default_rng(1))
    np.testing.assert_allclose(found, exact(game, num), atol=1e-9)
    np.testing.assert_allclose(multilinear(game, num, rng=None), exact(game, num), atol=1e-9)


def test_products_of_four_are_right_on_average_and_always_sum_to_the_change() -> None:
    game, num = game_of(7, 4, seed=0), 7
    truth = exact(game, num)
    found = np.array([multilinear(game, num, rng=np.random.default_rng(seed)) for seed in range(300)])
    change = float(game(np.ones((1, num), bool))[0] - game(np.zeros((1, num), bool))[0])
    np.testing.assert_allclose(found.sum(axis=1), change, atol=1e-9)
    assert (np.abs(found.mean(axis=0) - truth) < 4.5 * found.std(axis=0) / np.sqrt(300) + 1e-9).all()
    assert found.std(axis=0).max() > 0


def test_a_product_of_five_is_off_by_what_simpsons_rule_is_off() -> None:
    """The integral of q^4 is 1/5 and Simpson's rule gives 5/24; equal shares of the rest mend a game of five."""
    game, num = (lambda masks: masks[:, :5].all(axis=1).astype(float)), 6
    found = np.mean([multilinear(game, num, rng=np.random.default_rng(seed)) for seed in range(400)], axis=0)
    left = (1 - 5 * 5 / 24) / 6
    np.testing.assert_allclose(found, [5 / 24 + left] * 5 + [left], atol=0.004)


def test_rows_asked_are_the_rows_promised_and_equal_seeds_ask_alike() -> None:
    for num in (0, 1, 5, 50, LARGEST):
        asked: list[Array] = []

        def game(masks: Array, asked: list[Array] = asked) -> Array:
            asked.append(masks)
            return masks.sum(axis=1).astype(float)

        for _ in range(2):
            found = multilinear(game, num, rng=np.random.default_rng(3))
            np.testing.assert_allclose(found, np.ones(num), atol=1e-9)
        assert sum(map(len, asked)) == 2 * num_rows(num)
        assert not asked or (asked[0] == asked[1]).all()


def test_designs_are_orthogonal_and_balanced() -> None:
    for num in range(1, LARGEST + 1):
        signs = 2 * design(num).astype(int) - 1
        assert signs.shape[1] >= num
        assert (signs.T @ signs == len(signs) * np.eye(signs.shape[1])).all()
        assert (signs.sum(axis=0) == 0).all()


def test_designs_are_the_published_ones() -> None:
    """Plackett and Burman 1946, section 4: the generating row of 12 and of 20 runs, up to a shift."""
    for size, row in ((12, "++-+++---+-"), (20, "++--++++-+-+----++-")):
        first = "".join("+" if high else "-" for high in design(size - 1)[0])
        assert row in first + first or row[::-1] in first + first


def test_a_model_that_errs_gives_nothing() -> None:
    found = multilinear(lambda masks: np.where(masks.all(axis=1), np.nan, 0.0), 5, rng=np.random.default_rng(0))
    assert np.isnan(found).all()
