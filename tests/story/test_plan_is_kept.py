"""`audit --plan` is a promise: the rows it names are the rows that run, for every probe and every kind of system."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay import engine, registry, story
from assay.data import load_diabetes, load_wine
from assay.models import Architecture
from assay.models.adapters.endpoint import CallableModel
from assay.observe import Workspace
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Array, Data, System
from cli_kit import runner, write_table

registry.load()
# Their plan is an upper bound: they stop when every example is broken, every vote cast, an answer found, or when there
# is nothing of the kind they look for, such as a rule that refuses.
AT_MOST = {
    "gradient_attack", "adversarial_accuracy", "certified_radius", "recourse", "attribute_inference", "roofline",
    "gradient_reconstruction", "numeric_noise", "corruption_accuracy", "corruption_accuracy_of_all_rows", "refusals",
    "part_attributions",
}  # fmt: skip
KINDS = ("trained", "three classes", "regression", "black box")


@pytest.fixture(scope="module")
def systems(tiny_data: Data) -> dict[str, System]:
    def trained(data: Data) -> System:
        recipe = TrainRecipe(Architecture("mlp", {"hidden": [6]}), task_of(data), TrainSettings(epochs=1))
        return train_system(data, recipe=recipe)

    def flat(inputs: Array) -> Array:
        return np.zeros((len(inputs), 2))

    box = story.system_of(CallableModel(flat, name="flat", outputs_are="logits"), tiny_data)
    found = [trained(tiny_data), trained(load_wine()), trained(load_diabetes()), box]
    return dict(zip(KINDS, found, strict=True))


def fresh(folder: Path | None = None) -> Workspace:
    return Workspace(folder=folder, key=b"k", num_draws=50, num_references=2)


# One probe alone, and whole audits, on every kind of system; in the fast tier one kind, and two.
EACH = [pytest.param(kind, marks=[] if kind == "trained" else pytest.mark.slow) for kind in KINDS]
WHOLE = [pytest.param(kind, marks=[] if kind in ("trained", "black box") else pytest.mark.slow) for kind in KINDS]


DEAR = {"model_extraction", "adversarial_accuracy", "certified_radius", "suspected_poison", "one_run_audit"}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in DEAR else []) for name in sorted(registry.PROBES)]


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("name", NAMES)
def test_planned_rows_are_the_rows_that_run(systems: dict[str, System], kind: str, name: str) -> None:
    system, workspace = systems[kind], fresh()
    planned = engine.plan(system, probes=[name], workspace=workspace)
    if planned.not_applicable:  # what the dossier records is still the pass over the test rows
        assert (planned.rows, planned.trainings) == (len(system.data.splits["test"]), 0)
    run = sum(engine.audit(system, probes=[name], workspace=workspace).ledger.values())
    assert run <= planned.rows
    assert run == planned.rows or name in AT_MOST
    if name not in AT_MOST:  # and with the pass recorded already, one probe more is planned as it runs
        other = "model_bytes" if name != "model_bytes" and "meter" in system.offers else "group_shares"
        more = [name, other]
        expected = engine.plan(system, probes=more, workspace=workspace).rows
        assert sum(engine.audit(system, probes=more, workspace=workspace).ledger.values()) == expected


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_audit_shares_its_passes_as_planned(systems: dict[str, System], kind: str, tmp_path: Path) -> None:
    system, workspace = systems[kind], fresh(tmp_path)
    planned = engine.plan(system, workspace=workspace)
    ledger = engine.audit(system, workspace=workspace).ledger
    bounded = sum(one.rows for one in planned.passes if set(one.probes) <= AT_MOST)
    run = sum(rows for kind_of_pass, rows in ledger.items() if kind_of_pass not in AT_MOST)
    # Where the test rows are so few that every sample is all of them, probes that plan a pass each share it.
    shared = 3 * len(system.data.splits["test"]) if len(system.data.splits["test"]) <= 64 else 0
    assert planned.rows - bounded - shared <= run <= planned.rows - bounded
    assert sum(ledger.values()) <= planned.rows
    again = engine.plan(system, workspace=workspace)
    assert (again.rows, again.trainings) == (0, 0)
    assert engine.audit(system, workspace=workspace).ledger == {}


def test_the_plan_runs_no_probe_and_files_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assay = runner(capsys)
    write_table(tmp_path / "loans.csv")
    assert assay("train", "loans.csv", "--label", "paid", "--groups", "sex", "--out", "system", "-q").code == 0
    monkeypatch.setattr(engine, "measure", lambda *_: pytest.fail("a probe was run"))
    before = sorted(tmp_path.rglob("*"))
    told = assay("audit", "system", "--plan")
    assert told.code == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "test pass" in told.out
    assert " model rows and 4 trainings" in told.out
    assert "s of model time" in told.out
    assert "not applicable: regression_error, because" in told.out
