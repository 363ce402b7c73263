"""Tables of very many columns: what moves the answers is found, and the others are told in groups."""

from dataclasses import replace

import numpy as np
import pytest

from assay import engine, registry
from assay.access.handles import Query
from assay.digests import digest_of
from assay.explain import shapley
from assay.models import Architecture
from assay.observe import Ledger, Workspace
from assay.probes.data.data_drift import data_drift
from assay.probes.transparency import _masked
from assay.probes.transparency.feature_effects import feature_effects
from assay.probes.transparency.shapley_attributions import shapley_attributions
from assay.registry import PROBES
from assay.stats import make_draws
from assay.tasks import Argmax, Classification, Identity, Regression
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.units import SomeColumns
from assay.values import Column, Data, Groups, Split, System

registry.load()
WIDE = 600
PLANTED = {5: 2.0, 6: -2.0, 300: 1.5, 599: 1.0}
WEIGHTS = np.zeros(WIDE)
WEIGHTS[list(PLANTED)] = list(PLANTED.values())
WEIGHTS[100:200] = 0.02
SEX = Column("sex", "categorical", ("f", "m"))
QUICK = ("gradient_sensitivity", "shapley_attributions")
EXPLAINING = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name, one in sorted(PROBES.items())
    if one.family == "transparency" and one.access and "table" in one.modalities
]


class Formula:
    """A model that is one line of numpy."""

    offers = frozenset({"query"})
    outputs_are = "logits"
    num_bytes = None
    digest = digest_of(["formula of a wide table"])

    def __init__(self, rule):
        self.rule = rule

    def outputs(self, inputs):
        return np.asarray(self.rule(inputs), dtype=np.float32)


def pair(score):
    return np.stack([-score / 2, score / 2], axis=1)


def values_of(found):
    return {(one.metric, one.slice): one.value for one in found}


def wide_data(num_columns=WIDE, classes=("no", "yes"), num_test=24):
    def rows(num, seed):
        rng = np.random.default_rng(seed)
        inputs = rng.normal(size=(num, num_columns)).astype(np.float32)
        groups = Groups(rng.integers(0, 2, (num, 1)).astype(np.int16), (SEX,))
        return Split(inputs, (inputs[:, 5] > inputs[:, 6]).astype(np.int64), groups, np.arange(num) + 1000 * seed)

    columns = tuple(Column(f"c{place}", "numeric", low=-5, high=5) for place in range(num_columns))
    splits = {"train": rows(120, 1), "validation": rows(20, 2), "test": rows(num_test, 3)}
    return Data("wide", columns, "label", (SEX,), splits, classes, classes[-1] if classes else None)


def setting(rule, classes=("no", "yes")):
    data = wide_data(classes=classes)
    task = Classification(classes, "yes") if classes else Regression()
    system = System("wide", Formula(rule), data, task, Argmax() if classes else Identity())
    num = len(data.splits["test"])
    return Query(system, Workspace(), Ledger(10**7)), make_draws(
        b"k", data.digest, [np.zeros(num, dtype=np.int64)], num_draws=50
    )


def test_planted_columns_are_found_and_the_others_are_told_in_groups():
    query, draws = setting(lambda inputs: pair(inputs @ WEIGHTS))
    found = shapley_attributions(query, query.system.task, draws)
    told = {where: value for (metric, where), value in values_of(found).items() if metric == "attribution"}
    assert len(told) == 24 + 8
    largest = sorted(told, key=lambda where: -told[where])[:4]
    assert set(largest) == {f"feature=c{place}" for place in PLANTED}
    groups = {where: value for where, value in told.items() if where.startswith("others=")}
    assert list(groups) == [f"others={first}..{first + 74}" for first in range(1, 600, 75)]
    assert min(groups["others=76..150"], groups["others=151..225"]) > 5 * groups["others=301..375"]
    assert all(one.reason.startswith("partial: 24 of 600 columns by themselves") for one in found)
    assert values_of(found)["attribution_error", ""] < 0.3


def test_values_are_those_of_the_game_of_columns_and_groups():
    query, _ = setting(lambda inputs: (inputs @ WEIGHTS)[:, None], classes=())
    units = _masked.ground(query).units
    assert isinstance(units, SomeColumns)
    assert set(PLANTED) <= set(units.alone)
    masked = _masked.passes(query, query.system.task)
    found, rows = shapley(masked), query.inputs[_masked.sample(query)].astype(np.float64)
    by_column = WEIGHTS * (rows - query.background.mean(axis=0))  # a straight line's Shapley values are known
    truth = np.stack([by_column[:, units.owner == unit].sum(axis=1) for unit in range(units.count)], axis=1)
    apart = np.abs(found.values - truth)
    np.testing.assert_allclose(found.values.sum(axis=1), truth.sum(axis=1), atol=1e-5)
    assert (apart <= 5 * found.standard_error + 1e-6).mean() > 0.99


def test_effects_are_of_the_columns_that_were_found():
    query, draws = setting(lambda inputs: pair(inputs @ WEIGHTS))
    found = feature_effects(query, query.system.task, draws)
    ranges = {one.slice: one.value for one in found if one.metric == "accumulated_effect_range"}
    assert len(ranges) == 24
    assert {f"feature=c{place}" for place in PLANTED} == set(sorted(ranges, key=lambda one: -ranges[one])[:4])
    assert all("the others left as they are" in one.reason for one in found)


@pytest.fixture(scope="module")
def trained():
    data = wide_data(300, num_test=12)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [4]}), Classification(data.classes, "yes"))
    return train_system(data, recipe=replace(recipe, settings=TrainSettings(epochs=1)))


@pytest.mark.parametrize("name", EXPLAINING)
def test_planned_rows_are_the_rows_that_run_and_every_number_says_that_it_is_partial(trained, name):
    workspace = Workspace(key=b"k", num_draws=20)
    planned = engine.plan(trained, probes=[name], workspace=workspace)
    found = engine.audit(trained, probes=[name], workspace=workspace)
    run = sum(found.ledger.values())
    assert run <= planned.rows
    assert run == planned.rows or name == "recourse"
    assert found.measurements
    assert all("columns by themselves" in one.reason for one in found.measurements)


def test_drift_is_tested_in_every_column_and_told_of_a_hundred():
    data = wide_data(300)
    moved = data.splits["test"].inputs.copy()
    moved[:, 250] += 3
    data = replace(data, splits={**data.splits, "test": replace(data.splits["test"], inputs=moved)})
    system = System("wide", Formula(lambda inputs: pair(inputs[:, 0])), data, Classification(data.classes), Argmax())
    draws = make_draws(b"k", data.digest, [np.zeros(len(moved), dtype=np.int64)], num_draws=20)
    found = {(one.metric, one.slice): one for one in data_drift(Query(system, Workspace(), Ledger(0)), draws)}
    assert found["drifted_columns", ""].value == 1
    assert "these moved: c250; told by column: the 100 of 300" in found["drifted_columns", ""].reason
    assert sum(metric == "ks_distance" for metric, _ in found) == 100
    assert found["ks_distance", "feature=c250"].value > 0.8
