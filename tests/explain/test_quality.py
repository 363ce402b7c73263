"""The checks of explanations, against loops over one input and one move at a time."""

from __future__ import annotations

import numpy as np
import pytest

from assay.explain.quality import infidelity, max_sensitivity
from assay.values import Array


def answer(inputs: Array) -> Array:
    score = (inputs**2).sum(axis=(1, 2))
    return np.stack([score, -score], axis=1)


def explain(inputs: Array, owner: Array) -> Array:
    return inputs**2 + 0 * owner[:, None, None]


def test_infidelity_and_sensitivity_are_means_and_maxima_over_moves() -> None:
    rng = np.random.default_rng(0)
    rows, moves = rng.normal(size=(4, 2, 3)), 0.1 * rng.normal(size=(4, 6, 2, 3))
    values, target = rows**2, np.array([0, 1, 0, 1])
    missed = infidelity(answer, rows, values, moves=moves, target=target)
    moved = max_sensitivity(explain, rows, values, moves=moves)
    for row in range(4):
        errors, changes = [], []
        for move in moves[row]:
            change = (answer(rows[[row]]) - answer((rows[row] - move)[None]))[0, target[row]]
            errors.append(((move * values[row]).sum() - change) ** 2)
            again = explain((rows[row] + move)[None], np.array([row]))[0]
            changes.append(np.linalg.norm(again - values[row]) / np.linalg.norm(values[row]))
        assert missed[row] == pytest.approx(np.mean(errors))
        assert moved[row] == pytest.approx(max(changes))


def test_an_explanation_of_zeros_is_not_divided_by_zero() -> None:
    rows = np.zeros((1, 1, 2))
    assert max_sensitivity(explain, rows, rows, moves=np.full((1, 1, 1, 2), 2.0)).tolist() == pytest.approx([32**0.5])
