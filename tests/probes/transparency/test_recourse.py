"""What would have to change: against trying everything, and planted gaps between groups."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from assay.access.handles import Query
from assay.explain.contrast import candidates, contrast
from assay.observe import Ledger, Workspace
from assay.probes.transparency.recourse import recourse
from assay.stats import Draws, make_draws
from assay.tasks import Argmax, Classification
from assay.values import Array, Column, Data, Groups, Split, System

SEX = Column("sex", "categorical", ("F", "M"))
COLUMNS = (*(Column(name, "numeric") for name in "abcd"), SEX)


class Rule:
    offers = frozenset({"query"})
    outputs_are = "logits"
    num_bytes = None

    def __init__(self, name: str, score) -> None:
        self.score, self.digest, self.num_rows = score, name, 0

    def outputs(self, inputs: Array) -> Array:
        self.num_rows += len(inputs)
        score = np.asarray(self.score(inputs), dtype=np.float32)
        return np.stack([-score, score], axis=1)


def split(num: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    sex = rng.integers(0, 2, num)
    inputs = np.column_stack([rng.normal(size=(num, 4)), sex]).astype(np.float32)
    return Split(inputs, np.zeros(num, np.int64), Groups(sex[:, None].astype(np.int16), (SEX,)), np.arange(num))


def setting(name: str, score) -> tuple[Query, Draws]:
    splits = {"train": split(300, 1), "test": split(200, 2)}
    data = Data("planted", COLUMNS, "label", (SEX,), splits, ("no", "yes"), "yes")
    system = System(name, Rule(name, score), data, Classification(("no", "yes"), "yes"), Argmax())
    query = Query(system, Workspace(), Ledger(10**7), "test")
    return query, make_draws(b"k", "s", [splits["test"].groups.codes[:, 0].astype(int)], num_draws=200)


def measured(name: str, score) -> dict[tuple[str, str], object]:
    query, draws = setting(name, score)
    return {(one.metric, one.slice): one for one in recourse(query, query.system.task, draws)}


def cheapest(score, row: Array, values: list[tuple[int, float]], most: int) -> int:
    """The fewest changes that bring a positive score, out of all of them; -1 if none."""
    for num in range(1, most + 1):
        for chosen in combinations(values, num):
            changed = row.copy()
            for place, value in chosen:
                changed[place] = value
            if len({place for place, _ in chosen}) == num and score(changed[None])[0] > 0:
                return num
    return -1


def test_costs_are_those_of_trying_everything() -> None:
    rows = split(60, 3).inputs
    values = [(place, float(value)) for place in range(4) for value in (-1.2, 0.3, 1.1)]

    def additive(x: Array) -> Array:
        return x[:, :4] @ np.array([1.0, 0.8, 0.6, 0.4]) - 1.7

    refused = rows[additive(rows) <= 0]
    found = contrast(lambda x, _: (additive(x) > 0, additive(x)), refused, values, most=3)
    truth = [cheapest(additive, row, values, 3) for row in refused]
    assert found.cost.tolist() == truth
    assert {1, 2} <= set(truth)
    reached = found.cost > 0
    assert (additive(found.changed[reached]) > 0).all()
    assert ((found.changed != refused).sum(axis=1) == np.where(reached, found.cost, 0)).all()


def test_whom_it_takes_more_is_told() -> None:
    found = measured("harder for F", lambda x: np.where(x[:, 4] == 0, x[:, :2].sum(axis=1) - 2.2, x[:, 0] + 0.5))
    women, men = found["recourse_cost", "sex=F"], found["recourse_cost", "sex=M"]
    assert women.low > men.high
    assert men.value == 1
    assert found["recourse_share", ""].value == 1


def test_a_sensitive_column_is_never_changed() -> None:
    found = measured("only sex", lambda x: x[:, 4] - 0.5)
    assert found["recourse_share", "sex=F"].value == 0
    assert found["recourse_cost", ""].value is None
    assert found["recourse_share", "sex=M"].value is None  # nobody of them was refused
    assert not [place for place, _ in candidates(split(50, 1).inputs, COLUMNS, fixed=["sex"]) if place == 4]


@pytest.mark.parametrize("most", [1, 2])
def test_nothing_to_try_is_nothing_found(most: int) -> None:
    found = contrast(lambda x, _: (x[:, 0] > 9, x[:, 0]), np.zeros((2, 1), np.float32), [], most=most)
    assert found.cost.tolist() == [-1, -1]


def test_errored_rows_stay_in_the_denominator() -> None:
    found = measured("failing", lambda x: np.where(x[:, 1] > 1, np.nan, x[:, 0]))
    assert found["recourse_share", ""].errored > 0
    assert (
        found["recourse_share", ""].attempted
        == found["recourse_share", ""].scored + found["recourse_share", ""].errored
    )
