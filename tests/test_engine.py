"""The engine as an instrument: passes are counted, shared, remembered; what cannot be measured says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay import engine, registry
from assay.access.references import halves, reference_models
from assay.errors import BudgetError, Problem, RegistryError, TreatmentError
from assay.observe import Ledger, Workspace, run_model
from assay.registry import Sizes, probe
from assay.stats import exact_rate, mean, measured, rate
from assay.tasks import Identity, Regression
from assay.train.system import default_recipe, train_system
from assay.values import Array, Data, Groups, Measurement, System, digest_of
from support import KnownModel


@pytest.fixture(autouse=True)
def own_probes(monkeypatch: pytest.MonkeyPatch) -> dict[str, registry.Probe]:
    """A registry of four probes whose costs are known exactly."""
    table: dict[str, registry.Probe] = {}
    monkeypatch.setattr(registry, "PROBES", table)
    monkeypatch.setattr(registry, "load", lambda *_: None)

    @probe("utility")
    def hit_rate(labels: Array, predictions: Array, draws: Any) -> list[Measurement]:
        cells = draws.counts((labels == predictions).astype(int), 2)
        found = rate(cells[:, 1], cells.sum(axis=1), level=draws.level)
        return [measured(found, "hit_rate", unit="fraction", better="higher", attempted=len(labels), headline=True)]

    @probe("fairness")
    def female_share(groups: Any, draws: Any) -> list[Measurement]:
        cells = draws.counts(groups.codes[:, 0].astype(int), 2)
        found = rate(cells[:, 0], cells.sum(axis=1), level=draws.level)
        return [measured(found, "female_share", unit="fraction", better="neither", attempted=len(groups))]

    def cost(sizes: Sizes) -> dict[str, int]:
        return {"nudged": 50}

    @probe("robustness", cost=cost)
    def nudge_once(query: Any) -> list[Measurement]:
        rows = query.rows(50)
        flips = query.predictions(query.inputs[rows] + 1, query.groups.take(rows)) < 0
        found = exact_rate(int(flips.sum()), 50)
        return [measured(found, "nudge_once", unit="fraction", better="lower", attempted=50)]

    @probe("robustness", cost=cost)
    def nudge_again(query: Any) -> list[Measurement]:
        rows = query.rows(50)
        query.probabilities(query.inputs[rows] + 1)
        return [measured(exact_rate(0, 50), "nudge_again", unit="fraction", better="lower", attempted=50)]

    @probe("security", cost=lambda sizes: {"gradients": 10})
    def white_only(gradient: Any) -> list[Measurement]:
        raise AssertionError("never run on a black box")

    return table


def model_of(system: System) -> KnownModel:
    assert isinstance(system.model, KnownModel)
    return system.model


def test_plan_rows_are_the_rows_that_run(known_system: System, workspace: Workspace) -> None:
    planned = engine.plan(known_system, workspace=workspace)
    assert planned.rows == 800 + 50  # one shared pass, and one perturbed pass shared by two probes
    assert model_of(known_system).num_rows == 0
    audited = engine.audit(known_system, workspace=workspace)
    assert sum(audited.ledger.values()) == planned.rows == model_of(known_system).num_rows


def test_passive_probes_share_one_pass(known_system: System, workspace: Workspace) -> None:
    engine.audit(known_system, probes=["hit_rate", "female_share"], workspace=workspace)
    assert model_of(known_system).num_rows == 800


def test_second_audit_runs_nothing_and_is_equal(known_system: System, workspace: Workspace) -> None:
    first = engine.audit(known_system, workspace=workspace)
    ran = model_of(known_system).num_rows
    second = engine.audit(known_system, workspace=workspace)
    assert model_of(known_system).num_rows == ran
    assert second.ledger == {}
    assert [m.digest for m in first.measurements] == [m.digest for m in second.measurements]
    assert engine.plan(known_system, workspace=workspace).rows == 0
    replicates = [m.replicates for m in second.measurements if m.metric == "hit_rate"]
    assert replicates[0] is not None
    np.testing.assert_array_equal(replicates[0], first.find("hit_rate").replicates)


def test_adding_a_probe_runs_only_what_it_lacks(known_system: System, workspace: Workspace) -> None:
    engine.audit(known_system, probes=["hit_rate"], workspace=workspace)
    engine.audit(known_system, probes=["hit_rate", "female_share"], workspace=workspace)
    assert model_of(known_system).num_rows == 800
    third = engine.audit(known_system, probes=["hit_rate", "nudge_once"], workspace=workspace)
    assert third.ledger == {"nudge_once": 50}


def test_a_damaged_cache_entry_is_made_anew(known_system: System, workspace: Workspace) -> None:
    first = engine.audit(known_system, probes=["hit_rate"], workspace=workspace)
    assert workspace.folder is not None
    for path in workspace.folder.rglob("*"):
        if path.is_file():
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.write_bytes(bytes(raw))
    again = engine.audit(known_system, probes=["hit_rate"], workspace=workspace)
    assert again.find("hit_rate") == first.find("hit_rate")
    assert again.ledger == {"test pass": 800}


def test_not_applicable_says_why(known_system: System, workspace: Workspace) -> None:
    audited = engine.audit(known_system, workspace=workspace)
    reasons = {one.probe: one.reason for one in audited.not_applicable}
    assert reasons == {"white_only": "it needs gradient access, and this system offers meter, query"}


def test_task_and_groups_are_reasons_too(small_data: Data, known_system: System) -> None:
    numeric = replace(known_system, task=Regression(), decision=Identity())
    assert "task is regression" in engine.why_not(registry.PROBES["hit_rate"], numeric)
    bare = replace(known_system, data=replace(small_data, group_columns=()))
    assert "no group column" in engine.why_not(registry.PROBES["female_share"], bare)


def test_unknown_probe_lists_all_unknown(known_system: System, workspace: Workspace) -> None:
    with pytest.raises(RegistryError) as caught:
        engine.plan(known_system, probes=["hit_rate", "nope", "neither"], workspace=workspace)
    assert len(caught.value.problems) == 2
    assert "hit_rate" in str(caught.value)


def test_unknown_need_is_refused_at_import() -> None:
    with pytest.raises(RegistryError, match=r"asks for 'feelings'.*probabilities"):

        @probe("utility")
        def moody(feelings: Array) -> list[Measurement]:
            return []


def test_an_active_probe_without_a_cost_is_refused() -> None:
    with pytest.raises(RegistryError, match="declares no cost"):

        @probe("utility")
        def costly(query: Any) -> list[Measurement]:
            return []


def test_row_budget_is_kept(known_system: System, workspace: Workspace) -> None:
    tight = replace(workspace, row_budget=805)
    audited = engine.audit(known_system, workspace=tight)
    failed = audited.find("nudge_once")
    assert failed.value is None
    assert "the row budget reaches for 5 of 50 rows" in failed.reason
    assert audited.find("hit_rate").value is not None
    with pytest.raises(BudgetError):
        engine.audit(known_system, workspace=replace(workspace, row_budget=10, folder=None))


def test_nan_outputs_are_errored_examples_not_missing_ones(known_system: System, workspace: Workspace) -> None:
    class Sometimes(KnownModel):
        def outputs(self, inputs: Array) -> Array:
            found = super().outputs(inputs)
            found[inputs[:, 0] > 80] = np.nan
            return found

    broken = replace(known_system, model=Sometimes())
    audited = engine.audit(broken, probes=["hit_rate"], workspace=replace(workspace, folder=None))
    split = known_system.data.splits["test"]
    predictions = audited.observations["test"].arrays["predictions"]
    assert (predictions == -1).sum() == (split.inputs[:, 0] > 80).sum() > 0
    found = audited.find("hit_rate")
    assert found.value == pytest.approx((predictions == split.labels).mean())
    assert found.attempted == 800


def test_a_failing_probe_leaves_the_others(
    known_system: System, workspace: Workspace, own_probes: dict[str, registry.Probe]
) -> None:
    @probe("data")
    def broken(labels: Array) -> list[Measurement]:
        return [labels[10**9]]

    audited = engine.audit(known_system, workspace=workspace)
    assert "IndexError" in audited.find("broken").reason
    assert audited.find("hit_rate").value is not None
    assert "broken" in {p.name for p in own_probes.values()}
    second = engine.plan(known_system, workspace=workspace)
    assert any("broken" in one.probes for one in second.passes if not one.cached), "a failure is tried again"


def test_active_probes_meet_the_same_draws_whatever_a_system_answers(
    known_system: System, workspace: Workspace, own_probes: dict[str, registry.Probe]
) -> None:
    @probe("robustness", cost=lambda sizes: {"ask": 200})
    def asked(query: Any, draws: Any) -> list[Measurement]:
        rows = query.rows(200)
        right = query.predictions(query.inputs[rows], query.groups.take(rows)) == query.labels[rows]
        cells = draws.of(rows).counts(right.astype(int), 2)
        found = rate(cells[:, 1], cells.sum(axis=1), level=draws.level)
        return [measured(found, "asked", unit="fraction", better="higher", attempted=200)]

    other = replace(known_system, name="steeper", model=KnownModel(slope=0.055))
    one, two = (engine.audit(s, probes=["asked"], workspace=workspace) for s in (known_system, other))
    assert (one.observations["test"].arrays["predictions"] != two.observations["test"].arrays["predictions"]).any()
    first, second = (audited.find("asked").replicates for audited in (one, two))
    assert first is not None
    assert second is not None
    torn = float(np.hypot(first.std(), second.std()))
    assert float((first - second).std()) < 0.5 * torn, "the difference must be far steadier than of unpaired draws"


def test_numbers_without_groups_can_be_audited(known_system: System, workspace: Workspace) -> None:
    splits = known_system.data.splits
    nobody = Groups(np.zeros((len(splits["test"]), 0), dtype=np.int16), ())
    test = replace(splits["test"], labels=splits["test"].labels.astype(np.float32), groups=nobody)
    data = replace(known_system.data, group_columns=(), classes=(), positive=None, splits={**splits, "test": test})

    class Number(KnownModel):
        outputs_are = "values"

        def outputs(self, inputs: Array) -> Array:
            return super().outputs(inputs)[:, 1:]

    system = replace(known_system, data=data, task=Regression(), decision=Identity(), model=Number())

    @probe("utility", tasks=("regression",))
    def off(labels: Array, predictions: Array, draws: Any) -> list[Measurement]:
        sums = draws.sums(np.abs(labels - predictions))
        found = mean(sums[:, 0], np.full(len(sums), float(len(labels))))
        return [measured(found, "off", unit="target", better="lower", attempted=len(labels))]

    audited = engine.audit(system, probes=["off"], workspace=workspace)
    predictions = audited.observations["test"].arrays["predictions"]
    assert audited.find("off").value == pytest.approx(float(np.abs(test.labels - predictions).mean()))


def test_what_a_probe_learns_from_is_part_of_what_is_remembered(
    small_data: Data, workspace: Workspace, own_probes: dict[str, registry.Probe]
) -> None:
    @probe("privacy", cost=lambda sizes: {"references": 4})
    def told(retrain: Any) -> list[Measurement]:
        digests = [one.system.model.digest for one in retrain.references]
        number = float(int(digest_of(digests)[:6], 16))
        return [Measurement("", "told", number, number, number, 0.95, "m", "", "neither")]

    recipe = default_recipe(small_data)
    brief, longer = (replace(recipe, settings=replace(recipe.settings, epochs=num)) for num in (1, 2))
    system = train_system(small_data, recipe=brief)
    first = engine.audit(system, probes=["told"], workspace=workspace).find("told").value
    second = engine.audit(replace(system, recipe=longer), probes=["told"], workspace=workspace).find("told").value
    assert first != second


def test_copies_of_a_row_are_in_the_same_half() -> None:
    """Of rows taken more than once, or with words swapped: else a model without a row has learnt from its copy."""
    rows = np.repeat(np.arange(100, 160)[::-1], np.resize([0, 1, 1, 2, 5], 60))
    masks = halves(rows, 6, "x")
    assert (sum(mask.astype(int) for mask in masks) == 3).all()
    assert all(len({*rows[mask]} & {*rows[~mask]}) == 0 for mask in masks)
    assert all(0.3 < mask.mean() < 0.7 for mask in masks)
    once = halves(np.arange(50)[::-1], 2, "x")
    np.testing.assert_array_equal(once, halves(np.arange(50), 2, "x"))


def test_reference_models_depend_on_the_rows_that_stop_training(small_data: Data) -> None:
    recipe = default_recipe(small_data)
    recipe = replace(recipe, settings=replace(recipe.settings, epochs=6, patience=1))
    flipped = replace(small_data.splits["validation"], labels=1 - small_data.splits["validation"].labels)
    other = replace(small_data, splits={**small_data.splits, "validation": flipped})
    systems = [train_system(data, recipe=recipe) for data in (small_data, other)]
    found = [reference_models(one, Workspace(num_references=2), Ledger(10**7)) for one in systems]
    digests = [[one.system.model.digest for one in references] for references in found]
    assert digests[0] != digests[1]


@pytest.mark.parametrize("on_disk", [True, False])
def test_answers_of_reference_models_are_run_once_and_read_again_when_asked_for(
    small_data: Data, tmp_path: Path, on_disk: bool
) -> None:
    recipe = default_recipe(small_data)
    recipe = replace(recipe, settings=replace(recipe.settings, epochs=1))
    ledger, workspace = Ledger(10**7), Workspace(folder=tmp_path if on_disk else None, key=b"k", num_references=2)
    references = reference_models(train_system(small_data, recipe=recipe), workspace, ledger)
    splits = small_data.splits
    rows = 2 * (len(splits["train"]) + len(splits["test"]))
    assert ledger.total == rows
    for one in references:
        for name, logits in (("train", one.train_logits), ("test", one.test_logits)):
            np.testing.assert_array_equal(logits, run_model(one.system, splits[name].inputs))
    assert (one.train_logits is one.train_logits) != on_disk, "of files no copy is kept in memory"
    assert ledger.total == rows, "nothing was run again"


def test_what_stands_for_a_missing_number_is_measured_anew(known_system: System, workspace: Workspace) -> None:
    """It is declared beside the data and no part of their digest, and what was measured without it is another thing."""
    source = {"imputed": {"age": {"median": 40.0, "rows": 0}}}
    declared = replace(known_system, data=replace(known_system.data, source=source))
    assert declared.digest == known_system.digest
    engine.audit(known_system, probes=["nudge_once"], workspace=workspace)
    known, other = (engine.plan(one, probes=["nudge_once"], workspace=workspace) for one in (known_system, declared))
    assert [one.name for one in known.passes if "nudge_once" in one.probes] == ["from the cache"]
    assert "from the cache" not in [one.name for one in other.passes]
    plain_number = replace(known_system, data=replace(known_system.data, source={"imputed": {"age": 40.0}}))
    engine.audit(plain_number, probes=["nudge_once"], workspace=workspace)
    known_by_now = engine.plan(declared, probes=["nudge_once"], workspace=workspace)
    assert "from the cache" in [one.name for one in known_by_now.passes]


def test_a_deep_probe_runs_when_it_is_named_and_says_so_when_it_is_not(
    own_probes: dict[str, registry.Probe], known_system: System, workspace: Workspace
) -> None:
    @probe("robustness", cost=lambda sizes: {"many": 50}, deep=True)
    def dig(query: Any) -> list[Measurement]:
        query.logits(query.inputs[:50] + 2)
        return [measured(exact_rate(0, 50), "dig", unit="fraction", better="lower", attempted=50)]

    found = engine.audit(known_system, workspace=workspace)
    assert "dig" not in {one.probe for one in found.measurements}
    assert [one.reason for one in found.not_applicable if one.probe == "dig"] == [engine.ON_REQUEST]
    assert engine.audit(known_system, probes=["dig"], workspace=workspace).find("dig").value == 0
    every = engine.audit(known_system, probes=["all"], workspace=workspace)
    assert {one.probe for one in every.measurements} == set(own_probes) - {"white_only"}
    with pytest.raises(RegistryError, match="deep but runs no model"):

        @probe("utility", deep=True)
        def shallow(labels: Array) -> list[Measurement]:
            return []


def test_a_treatment_that_refuses_a_reference_model_stops_one_probe_and_not_the_audit(
    small_data: Data, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TreatmentError(Problem("group_thresholds does not fit a half: only 1 group has enough rows"))

    @probe("privacy", cost=lambda sizes: {"references": 4})
    def told(retrain: Any) -> list[Measurement]:
        raise AssertionError("there are no reference models to ask")

    monkeypatch.setattr("assay.engine.reference_models", refuse)
    recipe = default_recipe(small_data)
    system = train_system(small_data, recipe=replace(recipe, settings=replace(recipe.settings, epochs=1)))
    found = engine.audit(system, probes=["hit_rate", "told"], workspace=workspace)
    assert found.find("hit_rate").value is not None
    assert found.find("told").value is None
    assert found.find("told").reason.startswith("the probe stopped: TreatmentError: group_thresholds does not fit")


def test_what_a_probe_reads_of_the_facts_is_part_of_what_is_remembered(
    known_system: System, workspace: Workspace
) -> None:
    """The grid of a country, say, is declared in the facts, which are in no digest of the system."""

    @probe("energy")
    def grid(facts: Any) -> list[Measurement]:
        return [measured(exact_rate(facts["grid"], 9), "grid", unit="share", better="lower", attempted=9)]

    found = [
        engine.audit(replace(known_system, facts={"grid": number}), probes=["grid"], workspace=workspace).measurements
        for number in (3, 6)
    ]
    assert [one.value for (one,) in found] == pytest.approx([1 / 3, 2 / 3])
