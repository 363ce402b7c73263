"""The decision rule: who is selected, that the lottery is one draw per person, and that it survives JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.digests import canonical
from assay.errors import ModelError
from assay.tasks.group_thresholds import ALWAYS, NEVER, GroupThresholds, Mixture, group_thresholds_from_json
from assay.values import Column, Groups

SEX = Column("sex", "categorical", ("Female", "Male"))


def rule(weights=(0.25, 0.75), thresholds=(0.4, 0.6), key="k", positive=1):
    return GroupThresholds(
        ("sex",),
        positive,
        (Mixture(("Female",), thresholds, weights), Mixture(("Male",), (0.5,), (1.0,))),
        Mixture((), (NEVER,), (1.0,)),
        key,
    )


def people(codes):
    return Groups(np.array(codes).reshape(-1, 1), (SEX,))


def both(probability):
    probability = np.asarray(probability, dtype=np.float32)
    return np.stack([1 - probability, probability], axis=1)


def test_certain_answers_and_missing_groups():
    answers = rule().decide(both([0.39, 0.6, 0.49, 0.5, 0.99]), np.zeros((5, 2), np.float32), people([0, 0, 1, 1, -1]))
    assert answers.tolist() == [0, 1, 0, 1, 0]  # a missing group falls under the fallback, here: never


def test_the_lottery_has_the_promised_share_and_is_fixed_per_person():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(20_000, 3)).astype(np.float32)
    probabilities, groups = both(np.full(20_000, 0.5)), people(np.zeros(20_000, int))
    answers = rule().decide(probabilities, inputs, groups)
    assert abs(answers.mean() - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5
    order = rng.permutation(20_000)
    assert np.array_equal(rule().decide(probabilities, inputs[order], groups), answers[order])
    assert not np.array_equal(rule(key="other").decide(probabilities, inputs, groups), answers)
    halves = answers[:10_000].mean() - answers[10_000:].mean()
    assert abs(halves) < 4 * (2 * 0.25 * 0.75 / 10_000) ** 0.5


def test_equal_numbers_are_one_person_whatever_their_bits():
    other_nan = np.array([0x7FC00001], dtype=np.uint32).view(np.float32)[0]
    inputs = np.array([[0.0, np.nan], [-0.0, other_nan]], dtype=np.float32)
    for key in map(str, range(40)):
        answers = rule(key=key).decide(both([0.5, 0.5]), inputs, people([0, 0]))
        assert answers[0] == answers[1]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20), st.integers(0, 10))
def test_more_probable_is_never_less_selected(probabilities, seed):
    rng = np.random.default_rng(seed)
    mixture = Mixture(("Female",), tuple(rng.random(3)), tuple(rng.dirichlet(np.ones(3))))
    rising = np.sort(np.array(probabilities, dtype=np.float32))
    assert (np.diff(mixture.chance(rising)) >= 0).all()


def test_positive_may_be_the_first_class():
    answers = rule(positive=0).decide(both([0.1, 0.9]), np.zeros((2, 1), np.float32), people([1, 1]))
    assert answers.tolist() == [0, 1]


def test_errored_rows_stay_errored():
    answers = rule().decide(both([np.nan, 0.9]), np.zeros((2, 1), np.float32), people([0, 0]))
    assert answers.tolist() == [-1, 1]


def test_json_round_trip_keeps_the_digest():
    text = canonical(rule(thresholds=(ALWAYS, NEVER)).to_json())
    back = group_thresholds_from_json(json.loads(text))
    assert back == rule(thresholds=(ALWAYS, NEVER))
    assert back.digest == rule(thresholds=(ALWAYS, NEVER)).digest
    assert back.digest != rule().digest


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [0.5, 0.6]},
        {"weights": [-0.5, 1.5]},
        {"thresholds": [0.5]},
        {"group": []},
        {"thresholds": ["x", "y"]},
    ],
)
def test_a_damaged_rule_is_refused(change):
    value = rule().to_json()
    value["mixtures"][0].update(change)
    with pytest.raises(ValueError, match=r".") as caught:
        group_thresholds_from_json(value)
    assert isinstance(caught.value, ModelError)


def test_missing_parts_columns_and_classes_are_named():
    value = rule().to_json()
    del value["fallback"]
    with pytest.raises(ModelError, match="fallback"):
        group_thresholds_from_json(value)
    with pytest.raises(ModelError, match="no group column sex"):
        rule().decide(both([0.5]), np.zeros((1, 1), np.float32), Groups(np.zeros((1, 0)), ()))
    with pytest.raises(ModelError, match=r"\(N, 2\)"):
        rule().decide(np.zeros((1, 3)), np.zeros((1, 1), np.float32), people([0]))
