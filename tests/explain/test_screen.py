"""Columns that move the answers are found among very many, in as many rows as are said."""

import numpy as np
import pytest

from assay.explain import screen

FEW = [3, 4, 611, 1200, 1299]  # two of them neighbours, of opposite signs


def pairs(num_columns, seed=0, num=64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, num_columns)).astype(np.float32), rng.normal(size=(num, num_columns)).astype(
        np.float32
    )


def planted(inputs):
    score = inputs[:, FEW] @ np.array([2.0, -2.0, 1.5, 1.0, 1.0]) + inputs[:, 611] * (inputs[:, 1200] > 0)
    return np.stack([np.tanh(score), 0.01 * inputs.sum(axis=1)], axis=1)  # and every column moves something a little


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_planted_columns_are_found_among_many(seed):
    found = screen.movers(planted, *pairs(1300, seed), num=12)
    assert set(FEW) <= set(found.tolist())
    assert len(set(found.tolist())) == 12
    assert (np.diff(found) > 0).all()


def test_a_column_that_is_seldom_one_is_found():
    rows, others = (np.float32(one > 1.3) for one in pairs(1500))  # a tenth of the rows have each
    found = screen.movers(lambda inputs: inputs[:, [17, 1400]].sum(axis=1, keepdims=True), rows, others, num=2)
    assert found.tolist() == [17, 1400]


def test_the_largest_are_those_that_asking_every_column_finds():
    weights = np.zeros(400)
    weights[np.random.default_rng(5).permutation(400)[:20]] = np.linspace(3, 1, 20)
    rows, others = pairs(400)
    moved = ((weights * (rows - others)) ** 2).mean(axis=0)
    found = screen.movers(lambda inputs: (inputs @ weights)[:, None], rows, others, num=20)
    assert set(found.tolist()) == set(np.argsort(-moved)[:20].tolist())


@pytest.mark.parametrize("num_columns", [257, 512, 513, 3001])
def test_as_many_rows_are_asked_as_are_said(num_columns):
    asked = []

    def count(inputs):
        asked.append(len(inputs))
        return inputs[:, :1]

    found = screen.movers(count, *pairs(num_columns, num=3), num=24)
    assert sum(asked) == screen.num_rows(3, num_columns)
    assert found[0] == 0
    assert len(set(found.tolist())) == 24
    assert screen.num_rows(64, 10**6) < 2 * screen.num_rows(64, 10**4)


def test_pairs_that_errored_are_left_out():
    rows, others = pairs(300)
    rows[0] = np.nan
    assert 150 in screen.movers(lambda inputs: inputs[:, [150]], rows, others, num=1)
