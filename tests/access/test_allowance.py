"""What is measured when the row budget does not reach: a smaller sample, said so, and never remembered as the whole."""

from dataclasses import replace

import pytest

from assay import engine, registry
from assay.access.allowance import Allowance, allowance
from assay.errors import BudgetError
from assay.models import Architecture
from assay.observe import Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.serve.refuse_unfamiliar import refuse_unfamiliar
from support import small_texts, untrained

PROBES = {  # a probe, a metric of it, and how many rows of a table it wants
    "corruption_accuracy": ("corruption_accuracy", 800),
    "gradient_attack": ("robust_accuracy", 500),
    "numeric_noise": ("numeric_flip_rate", 500),
}


@pytest.fixture(scope="module")
def system(small_data):
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(small_data), TrainSettings(epochs=4))
    return train_system(small_data, recipe=recipe)


def measured(system, name, workspace):
    return engine.audit(system, probes=[name], workspace=workspace).measurements


@pytest.mark.parametrize("name", ["corruption_accuracy", "gradient_attack", "numeric_noise"])
def test_a_part_is_honest_wider_and_said_to_be_one(name, system, tmp_path):
    metric, wanted = PROBES[name]
    free = Workspace(folder=tmp_path, key=b"owner", num_draws=200)
    registry.load()
    costs = registry.PROBES[name].cost(engine.sizes_of(system))
    tight = replace(free, row_budget=800 + sum(costs.values()) // 5)
    parts = measured(system, name, tight)
    whole = {one.key: one for one in measured(system, name, free)}  # the part was not remembered as the whole
    first = next(one for one in parts if one.metric == metric)
    assert first.attempted == wanted // 5
    assert first.reason.startswith(f"partial: {wanted // 5} of {wanted} rows")
    for one in parts:
        full = whole[one.key]
        assert "partial: " not in full.reason
        assert one.attempted == one.scored + one.errored <= full.attempted
        if one.metric == metric and not one.slice:
            assert one.low <= full.value <= one.high
            assert one.high - one.low > 1.3 * (full.high - full.low)
    audited = engine.audit(system, probes=[name], workspace=replace(tight, folder=None))
    assert sum(audited.ledger.values()) <= tight.row_budget


def test_a_probe_of_every_row_says_that_it_has_no_part(system, workspace):
    tight = replace(workspace, folder=None, row_budget=900)
    (only,) = measured(system, "attribute_swap", tight)
    assert only.value is None
    assert only.reason.endswith("it looks at every row, so there is no part of it to give")


def test_shares_follow_from_costs_and_passes_are_paid_once():
    shared = {}
    assert allowance({"masked passes": 1000}, 500, shared).share == 0.5
    assert allowance({"masked passes": 1000}, 0, shared).share == 0.5  # the same rows again: nothing is run
    assert allowance({"masked passes": 1000, "more": 100}, 25, shared).share == 0.25
    assert allowance({"masked passes": 1000}, 0, shared).share == 0.5  # as it was run first, and is remembered
    assert allowance({"other": 10}, 10, shared).share == 1
    refused = allowance({"other": 10, "screened": 1000, "own": 1000}, 100, shared)
    with pytest.raises(BudgetError):
        refused.of(40)
    assert "screened" not in shared  # it ran nothing
    assert allowance({"screened": 1000, "other": 10}, 500, shared).share == 0.5
    assert Allowance(0.5).of(40) == 20
    with pytest.raises(BudgetError, match="reaches for 4 of 40 rows"):
        Allowance(0.1).of(40)
    assert Allowance(0.1).told(()) == ()


def partial_of(system, name, share, workspace):
    """Keys of measurements said to be partial and not, where the budget reaches for a share of what a probe wants."""
    registry.load()
    costs = registry.PROBES[name].cost(engine.sizes_of(system))
    tight = replace(
        workspace, folder=None, row_budget=len(system.data.splits["test"]) + int(share * sum(costs.values()))
    )
    found = measured(system, name, tight)
    told = {(one.metric, one.slice): one.reason for one in found}
    return {key for key, reason in told.items() if "partial: " in reason}, told


def test_what_rests_on_every_row_is_not_called_partial(system, workspace):
    partial, told = partial_of(refuse_unfamiliar(system), "refusals", 0.2, workspace)
    assert partial == {("foreign_refused_share", "")}
    assert {("refused_share", ""), ("answered_accuracy", ""), ("refused_share", "sex=Female")} < told.keys()


def test_made_up_sentences_are_no_part_of_the_rows(workspace):
    system = untrained(small_texts(900), "gru", {"dim": 8, "num_hidden": 8, "vocab_size": 200})
    partial, told = partial_of(system, "identity_swap", 0.5, workspace)
    assert partial
    assert all("source=texts" in where for _, where in partial)
    assert any("source=templates" in where for _, where in told)


def test_a_second_sample_tells_its_own_numbers(system, workspace):
    _, told = partial_of(system, "feature_effects", 0.5, workspace)
    reasons = {metric: reason for (metric, _), reason in told.items()}
    assert "of 500 rows" in reasons["accumulated_effect_range"]
    assert "of 100 rows" in reasons["partial_dependence_range"]
