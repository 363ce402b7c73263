"""The few numbers by which a service notices that rows have changed: what they hold, and what they do not tell."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import hypergeom

from assay.data.quality.drift import chi_square_of
from assay.data.quality.reference import described, reference_from_json, reference_of
from assay.evidence.openpart import leaks
from assay.values import Column, Data, Groups, Split, texts
from support import make_split


def of_text(words: list[str]) -> Data:
    split = Split(
        texts(words), np.zeros(len(words), np.int64), Groups(np.zeros((len(words), 0)), ()), np.arange(len(words))
    )
    return Data("t", (Column("text", "text", language="en"),), "y", (), {"test": split}, ("a", "b"), "b")


def test_shares_are_those_of_the_test_rows(small_data: Data) -> None:
    answers = np.arange(800) % 4 - 2  # -2 and -1: refused and failed
    found = reference_of(small_data, answers)
    assert found is not None
    assert [one.name for one in found.columns] == ["age", "hours", "job", "sex", "(answers)"]
    inputs = small_data.splits["test"].inputs
    age, _, job, _, told = found.columns
    assert job.shares.tolist() == [*np.round(np.bincount(inputs[:, 2].astype(int)) / 800, 3), 0]
    assert told.shares.tolist() == [0.25, 0.25, 0.5]
    assert age.edges is not None
    np.testing.assert_allclose(age.edges, np.quantile(inputs[:, 0], np.arange(1, 10) / 10), atol=0.5)
    assert (age.edges == np.round(age.edges)).all()  # rounded, so that no edge is the cell of somebody
    brute = [((inputs[:, 0] > low) & (inputs[:, 0] <= high)).mean() for low, high in itertools.pairwise(age.edges)]
    np.testing.assert_allclose(age.shares[1:-2], brute, atol=0.0006)
    again = reference_from_json(found.to_json())
    assert again.to_json() == found.to_json()
    assert not leaks({"reference": found.to_json()}, small_data)


def test_few_rows_tell_nothing_and_a_rare_cell_is_not_shown(small_data: Data) -> None:
    few = replace(small_data, splits={"test": make_split(99, 1, 1)})
    assert reference_of(few, None) is None
    split = small_data.splits["test"]
    inputs = split.inputs.copy()
    inputs[:4, 2], inputs[4:, 2] = 2, 0
    found = reference_of(replace(small_data, splits={"test": replace(split, inputs=inputs)}), None)
    assert found is not None
    assert found.columns[2].shares.tolist() == [1, 0, 0, 0]  # told with the smallest other cell
    inputs[:] = 7
    same = reference_of(replace(small_data, splits={"test": replace(split, inputs=inputs)}), None)
    assert same is not None
    assert [one.edges.tolist() for one in same.columns[:2] if one.edges is not None] == [[], []]


def test_texts_and_pictures_are_told_by_length_and_light() -> None:
    data = of_text(["so good", "so very dull"] * 60)
    found = reference_of(data, None)
    assert found is not None
    assert [one.name for one in found.columns] == ["num_words", "num_letters"]
    split = data.splits["test"]
    assert described(data.columns, split.inputs)[:2].tolist() == [[2, 7], [3, 12]]
    pictures = np.zeros((2, 1, 8, 8), np.uint8)
    column = Column("image", "image", low=0, high=255, shape=(1, 8, 8))
    assert described([column], pictures).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("broken", [{"schema": "other"}, {"columns": [{"name": "a", "edges": [1], "shares": [1]}]}])
def test_anything_else_is_refused(small_data: Data, broken: dict[str, object]) -> None:
    found = reference_of(small_data, None)
    assert found is not None
    with pytest.raises(ValueError, match=r"schema|do not fit"):
        reference_from_json({**found.to_json(), **broken})


def test_two_cells_with_few_rows_are_tested_exactly() -> None:
    """Far out in the tail chi-square calls 10 times too much: on Adult in ten of 1,000 windows of 200 rows, not one."""
    table = np.array([[400.0, 9600.0], [22.0, 178.0]])
    chances = hypergeom(10_200, 422, 200).pmf(np.arange(201))
    brute = chances[chances <= chances[22] * (1 + 1e-9)].sum()
    found = chi_square_of(table, fewest=20)
    assert found == pytest.approx(brute, rel=1e-6)
    assert chi_square_of(table) < found / 3
    rare = np.array([[30.0, 40.0, 4930.0, 5000.0], [4.0, 6.0, 90.0, 100.0]])
    pooled = np.array([[5000.0, 5000.0], [100.0, 100.0]])
    assert chi_square_of(rare, fewest=20) == chi_square_of(pooled, fewest=20) == 1


def test_many_rare_categories_show_their_mean_and_are_no_drift() -> None:
    rng = np.random.default_rng(3)
    column = Column("work", "categorical", tuple(f"w{place}" for place in range(65)))
    chances = np.r_[np.full(5, 0.17), np.full(60, 0.15 / 60)]

    def drawn(num: int) -> np.ndarray:
        return rng.choice(65, num, p=chances).astype(np.float32)[:, None]

    split = Split(drawn(800), np.zeros(800, np.int64), Groups(np.zeros((800, 0)), ()), np.arange(800))
    found = reference_of(Data("d", (column,), "y", (), {"test": split}, ("a", "b"), "b"), None)
    assert found is not None
    shares = found.columns[0].shares
    assert shares.sum() == pytest.approx(1, abs=0.01)
    assert len({*shares[np.bincount(split.inputs[:, 0].astype(int), minlength=66) < 5].tolist()}) == 1
    p_values = [found.compare([found.columns[0].counts(drawn(1000)[:, 0])])[0][0] for _ in range(40)]
    assert min(p_values) > 0.001
