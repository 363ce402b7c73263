"""Shapley sampling as an instrument: known answers, no statistical bias, an error that is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from assay.errors import UsageError
from assay.explain import explain, masked_passes, num_model_rows, shapley
from assay.explain.masked import _TABLE_CHUNK
from assay.values import Array
from support import columns_over

RNG = np.random.default_rng(3)


@pytest.fixture(autouse=True)
def own_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test draws the same numbers, whichever ran before it in this process."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(3))


BACKGROUND = RNG.normal(size=(30, 6))
ROWS = RNG.normal(size=(12, 6))
SLOPES = np.array([2.0, -1.0, 0.5, 0.0, 3.0, -0.2])


def linear(inputs: Array) -> Array:
    return inputs @ SLOPES[:, None]


def curved(inputs: Array) -> Array:
    """Interactions, a threshold, a column that does nothing (5), two that do the same (0 and 1)."""
    score = inputs[:, 0] * inputs[:, 2] + inputs[:, 1] * inputs[:, 2] + 2 * (inputs[:, 3] > 0.5) + np.sin(inputs[:, 4])
    chance = 1 / (1 + np.exp(-score))
    return np.stack([1 - chance, chance], axis=1)


def run(function: object, *, num_coalitions: int, seed: int = 0, rows: Array = ROWS) -> object:
    rng = np.random.default_rng(seed)
    return explain(function, rows, BACKGROUND, num_coalitions=num_coalitions, rng=rng, target=-1)


TRUTH = run(curved, num_coalitions=30 * 64).values


def test_a_linear_model_is_exact_once_each_background_row_was_met() -> None:
    found = run(linear, num_coalitions=300)  # 30 blocks of 10
    np.testing.assert_allclose(found.values, SLOPES * (ROWS - BACKGROUND.mean(axis=0)), atol=1e-12)


def test_sharing_background_effects_makes_an_additive_model_exact_before_that() -> None:
    found = run(linear, num_coalitions=100)  # 10 of 30 background rows a row, 4 visits to each over 12 rows
    np.testing.assert_allclose(found.values, SLOPES * (ROWS - BACKGROUND.mean(axis=0)), atol=1e-9)
    alone = run(linear, num_coalitions=100, rows=ROWS[:1])
    assert np.abs(alone.values - found.values[:1]).max() > 1e-3  # one row alone has nothing to share with


@pytest.mark.parametrize("num_coalitions", [100, 600])
def test_values_add_up_to_what_is_explained(num_coalitions: int) -> None:
    found = run(curved, num_coalitions=num_coalitions)
    np.testing.assert_allclose(found.values.sum(axis=1) + found.base, curved(ROWS)[:, 1], atol=1e-12)
    np.testing.assert_allclose(found.base, curved(BACKGROUND)[:, 1].mean(), atol=1e-12)


def test_a_column_that_does_nothing_gets_nothing() -> None:
    found = run(curved, num_coalitions=600)
    assert np.abs(found.values[:, 5]).max() < 1e-12
    assert np.abs(found.values[:, 0]).max() > 0.02


def test_columns_that_do_the_same_get_the_same() -> None:
    rows, background = ROWS.copy(), BACKGROUND.copy()
    rows[:, 1], background[:, 1] = rows[:, 0], background[:, 0]
    found = explain(curved, rows, background, num_coalitions=30 * 64, rng=np.random.default_rng(0), target=1)
    np.testing.assert_allclose(found.values[:, 0], found.values[:, 1], atol=1e-12)
    sampled = explain(curved, rows, background, num_coalitions=1500, rng=np.random.default_rng(0), target=1)
    apart = sampled.values[:, 0] - sampled.values[:, 1]
    assert (np.abs(apart) <= 5 * np.hypot(sampled.standard_error[:, 0], sampled.standard_error[:, 1])).all()


def test_no_statistical_bias() -> None:
    values = np.stack([run(curved, num_coalitions=100, seed=seed).values for seed in range(300)])
    apart = (values.mean(axis=0) - TRUTH) / np.maximum(values.std(axis=0) / np.sqrt(len(values)), 1e-12)
    assert np.abs(apart[:, :5]).max() < 4.5  # 60 normal numbers: beyond 4.5 once in 2,500 runs
    assert 0.7 < np.sqrt((apart[:, :5] ** 2).mean()) < 1.3


def test_error_falls_as_one_over_the_budget() -> None:
    def error(num_coalitions: int) -> float:
        found = [run(curved, num_coalitions=num_coalitions, seed=seed).values for seed in range(12)]
        return float(((np.stack(found) - TRUTH) ** 2).mean())

    ratio = error(300) / error(1200)  # both meet every background row equally often
    assert 2.5 < ratio < 6.5


@pytest.mark.parametrize(("num_coalitions", "num_rows"), [(250, 12), (250, 1), (300, 12), (1200, 1), (1500, 12)])
def test_the_standard_error_is_honest(num_coalitions: int, num_rows: int) -> None:
    inside, ratio = [], []
    for seed in range(40):
        first = seed % 12 if num_rows == 1 else 0
        rows = slice(first, first + num_rows)
        found = run(curved, num_coalitions=num_coalitions, seed=seed, rows=ROWS[rows])
        off = np.abs(found.values - TRUTH[rows])[:, :5]
        inside.append((off <= 1.96 * found.standard_error[:, :5]).mean())
        ratio.append(((found.standard_error[:, :5] ** 2).sum(), (off**2).sum()))
    said, was = np.sum(ratio, axis=0)
    assert np.mean(inside) >= 0.9
    assert 0.7 < np.sqrt(said / was) < 3  # an error bar as wide as the page would be covered too


def test_equal_seeds_ask_for_equal_inputs_and_the_count_is_what_was_said() -> None:
    asked: list[list[Array]] = [[], []]
    for record in asked:

        def counting(inputs: Array, record: list[Array] = record) -> Array:
            record.append(inputs)
            return curved(inputs)

        run(counting, num_coalitions=110)
    assert [one.tobytes() for one in asked[0]] == [one.tobytes() for one in asked[1]]
    said = num_model_rows(6, 30, num_rows=12, num_coalitions=110)
    assert sum(len(one) for one in asked[0]) == said == 12 * 11 * 10 + 12 + 30


def test_coalitions_come_in_complements_with_every_size_equally_often() -> None:
    masked = masked_passes(curved, ROWS, columns_over(BACKGROUND), num_coalitions=100, rng=np.random.default_rng(0))
    coalitions = masked.coalitions(slice(None))
    sizes = np.bincount(coalitions.sum(axis=3).ravel(), minlength=7)
    assert (sizes == [0, 240, 240, 240, 240, 240, 0]).all()
    assert (coalitions[:, :, :5] == ~coalitions[:, :, 5:]).all()
    assert all(len(set(row)) == 10 for row in masked.source.tolist())


def test_batches_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(curved, num_coalitions=100)
    monkeypatch.setattr("assay.explain.masked._TABLE_CHUNK", _TABLE_CHUNK // 10**5)
    np.testing.assert_array_equal(run(curved, num_coalitions=100).values, whole.values)


def test_a_row_that_errors_is_missing_and_the_others_are_not() -> None:
    def failing(inputs: Array) -> Array:
        return np.where(inputs[:, :1] == ROWS[3, 0], np.nan, curved(inputs))

    found = run(failing, num_coalitions=600)
    assert np.isnan(found.values[3]).all()
    assert np.isnan(found.standard_error[3]).all()
    assert np.isfinite(np.delete(found.values, 3, axis=0)).all()
    assert np.isnan(run(lambda inputs: np.full((len(inputs), 2), np.nan), num_coalitions=100).values).all()


def test_the_most_probable_class_is_explained_where_none_is_named() -> None:
    rng = np.random.default_rng
    found = explain(curved, ROWS, BACKGROUND, num_coalitions=30 * 64, rng=rng(0))
    sign = np.where(curved(ROWS)[:, 1] > 0.5, 1, -1)[:, None]
    assert set(sign.ravel()) == {1, -1}
    np.testing.assert_allclose(found.values, sign * TRUTH, atol=1e-12)


def test_one_column_takes_all() -> None:
    found = explain(np.exp, ROWS[:, :1], BACKGROUND[:, :1], num_coalitions=0, rng=np.random.default_rng(0))
    np.testing.assert_allclose(found.values, np.exp(ROWS[:, :1]) - np.exp(BACKGROUND[:, 0]).mean(), atol=1e-12)


def test_inputs_are_not_changed() -> None:
    rows, background = ROWS.copy(), BACKGROUND.copy()
    shapley(masked_passes(curved, rows, columns_over(background), num_coalitions=100, rng=np.random.default_rng(0)))
    assert (rows == ROWS).all()
    assert (background == BACKGROUND).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match=r"rows \(12, 6\) and background \(30, 5\)"):
        explain(curved, ROWS, BACKGROUND[:, :5], num_coalitions=100, rng=np.random.default_rng(0))
    with pytest.raises(UsageError, match="background"):
        explain(curved, ROWS, BACKGROUND[:0], num_coalitions=100, rng=np.random.default_rng(0))
