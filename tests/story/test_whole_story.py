"""Train, audit, treat, compare, judge, file, verify, report: the same calls for every task, and nothing left out."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from assay import registry, story
from assay.data import load_diabetes, load_wine
from assay.dossier import load_dossier, verify_dossier
from assay.evidence.openpart import per_person_arrays
from assay.evidence.sealed import recompute
from assay.models import Architecture
from assay.models.store import load_system
from assay.observe import Workspace
from assay.report import write_report
from assay.report.numbers import number
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.values import Data, Dossier, System
from support import COLUMNS, GROUP_COLUMNS, make_split

KINDS = ("two classes", pytest.param("three classes", marks=pytest.mark.slow), "a number")


@dataclass(frozen=True)
class Told:
    """One whole story, told once for each kind of task."""

    system: System
    comparison: story.Comparison
    dossiers: tuple[Dossier, ...]
    folder: Path


def data_of(kind: str) -> Data:
    if kind == "three classes":
        return load_wine()
    if kind == "a number":
        return load_diabetes()
    splits = {"train": make_split(400, 1, 1), "validation": make_split(60, 2, 501), "test": make_split(240, 3, 601)}
    return Data("tiny", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes")


def system_for(data: Data) -> System:
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(data), TrainSettings(epochs=4))
    return train_system(data, recipe=recipe)


@pytest.fixture(scope="module", params=KINDS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("told")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(folder / "home"))
        system = system_for(data_of(request.param))
        workspace = Workspace(folder / "cache", key=b"owner", num_draws=100, num_references=2)
        comparison = story.compare_treatments(system, ["prune_magnitude"], workspace=workspace)
        tables = {"matrix": story.matrix_facts(comparison)}
        dossiers = tuple(
            story.file(one, folder / "dossiers" / str(number), tables=tables)
            for number, one in enumerate(comparison.judged)
        )
    return Told(system, comparison, dossiers, folder)


def test_every_probe_is_measured_or_says_why_not(told: Told) -> None:
    for one in told.comparison.judged:
        measured = {m.probe for m in one.audit.measurements}
        skipped = {n.probe: n.reason for n in one.audit.not_applicable}
        assert measured | skipped.keys() == registry.PROBES.keys()
        assert not measured & skipped.keys()
        assert all(skipped.values())
        assert [m.reason for m in one.audit.measurements if m.reason.startswith("the probe stopped")] == []


def test_every_undefined_number_has_a_reason_and_every_denominator_adds_up(told: Told) -> None:
    for one in told.comparison.judged:
        for m in one.audit.measurements:
            assert m.value is not None or m.reason
            assert m.attempted == m.scored + m.errored


def test_the_treatment_is_compared_on_every_headline(told: Told) -> None:
    matrix = told.comparison.matrix
    assert matrix.systems == ("baseline", "baseline+prune_magnitude")
    assert matrix.errored == {}
    cells = matrix.cells["baseline+prune_magnitude"]
    assert cells.keys() == set(matrix.keys)
    assert all(cell.effect is not None or cell.reason for cell in cells.values())
    size = next(cell for key, cell in cells.items() if key[1] == "model_bytes")
    assert size.effect is not None
    assert size.effect.verdict == "better"


def test_effects_are_differences_of_the_shown_values(told: Told) -> None:
    matrix = told.comparison.matrix
    for key in matrix.keys:
        after, before = matrix.cells["baseline+prune_magnitude"][key], matrix.cells["baseline"][key]
        if key[1] == "latency_p50":
            continue  # timings are compared in turns, not by what each audit saw
        if after.effect is not None and after.effect.value is not None:
            assert after.measurement is not None
            assert before.measurement is not None
            assert after.measurement.value is not None
            assert before.measurement.value is not None
            expected = after.measurement.value - before.measurement.value
            assert after.effect.value == pytest.approx(expected, rel=1e-9, abs=1e-12), key


def test_verify_measures_every_passive_number_again(told: Told) -> None:
    for one, dossier in zip(told.comparison.judged, told.dossiers, strict=True):
        found = verify_dossier(Path(dossier.path), recompute=recompute)
        assert found.ok, found.problems
        passive = {name for name, probe in registry.PROBES.items() if not probe.access}
        num = sum(m.probe in passive for m in one.audit.measurements)
        assert num > 0
        assert found.parts["numbers"] == f"verified, {num} of {len(one.audit.measurements)} measured again"
        again = {m.key: m.digest for m in recompute(Path(dossier.path))}
        assert again == {m.key: m.digest for m in one.audit.measurements if m.probe in passive}


def test_one_flipped_bit_anywhere_is_found_in_its_part(told: Told, tmp_path: Path) -> None:
    whole = Path(told.dossiers[0].path)
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert {"open", "sealed", "system", "signer.pub", "statement.dsse.json"} == {name.parts[0] for name in names}
    folder = tmp_path / "flipped"
    shutil.copytree(whole, folder)
    rng = np.random.default_rng(5)
    for name in names:
        raw = (folder / name).read_bytes()
        changed = bytearray(raw)
        changed[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(bytes(changed))
        found = verify_dossier(folder, recompute=recompute)
        part = name.parts[0] if len(name.parts) > 1 else "signature"
        assert not found.ok, name
        assert not found.intact, name
        assert any(str(problem).startswith(f"{part}:") for problem in found.problems), (name, found.problems)
        (folder / name).write_bytes(raw)
    assert verify_dossier(folder, recompute=recompute).ok


def test_without_the_sealed_part_it_verifies_and_says_so(told: Told, tmp_path: Path) -> None:
    folder = tmp_path / "open-only"
    shutil.copytree(told.dossiers[0].path, folder)
    shutil.rmtree(folder / "sealed")
    found = verify_dossier(folder, recompute=recompute)
    assert found.ok, found.problems
    assert found.parts["sealed"].startswith("absent")
    assert found.parts["numbers"] == "not measured again: the sealed part is absent"


def test_the_filed_system_answers_as_the_audited_one(told: Told) -> None:
    for one, dossier in zip(told.comparison.judged, told.dossiers, strict=True):
        own = one.audit.system
        again = load_system(Path(dossier.path) / "system", own.data)
        assert again.digest == own.digest == dossier.system_digest
        inputs = own.data.splits["test"].inputs
        np.testing.assert_array_equal(again.model.outputs(inputs), own.model.outputs(inputs))


@pytest.mark.slow
def test_the_same_story_twice_gives_the_same_evidence(told: Told) -> None:
    workspace = Workspace(key=b"owner", num_draws=100, num_references=2)
    system = system_for(told.system.data)
    assert system.digest == told.system.digest
    again = story.audit(system, workspace=workspace)
    first = {m.key: m for m in told.comparison.judged[0].audit.measurements}
    timed = {name for name, probe in registry.PROBES.items() if "meter" in probe.access}
    for m in again.audit.measurements:
        if m.probe not in timed:
            assert m.digest == first[m.key].digest, m.key


@pytest.mark.slow
def test_the_report_tells_every_number_and_every_reason(told: Told, tmp_path: Path) -> None:
    dossier = load_dossier(Path(told.dossiers[0].path))
    page = write_report(Path(dossier.path), out=tmp_path / "report.html").read_text()
    for verdict in ("pass", "fail", "inconclusive"):
        num = sum(one.verdict == verdict for one in dossier.findings)
        assert num == 0 or f"{num} {verdict}" in page
    assert dossier.evidence_id in page
    for skipped in dossier.not_applicable:
        assert html.escape(skipped.reason) in page or skipped.reason in page, skipped
    for m in dossier.measurements:
        if m.headline and m.value is not None:
            assert number(m.value, m.unit) in page, m.key
    assert not re.search(r"""<script[^>]+src=|<link[^>]+href=["']?(?!data:)\w|\{&#39;""", page)
    assert "NaN" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)  # the script that sorts knows it


def test_the_matrix_of_a_small_table_is_no_array_of_persons_and_an_array_in_it_is(told: Told) -> None:
    table = story.matrix_facts(told.comparison)
    assert per_person_arrays(table, 16) == []
    smuggled = {**table, "cells": {**table["cells"], "baseline": [{"measurement": {"rows": [1, 0] * 40}}]}}
    assert per_person_arrays(smuggled, 80) == ["/cells/baseline/0/measurement/rows: 80 entries"]


def test_a_dossier_of_chosen_probes_verifies_too(told: Told, tmp_path: Path) -> None:
    chosen = ["regression_error"] if told.system.task.name == "regression" else ["accuracy", "balanced_accuracy"]
    workspace = Workspace(key=b"owner", num_draws=50)
    judged = story.audit(told.system, probes=chosen, workspace=workspace)
    dossier = story.file(judged, tmp_path / "chosen")
    found = verify_dossier(Path(dossier.path), recompute=recompute)
    assert found.ok, found.problems
    num = len(judged.audit.measurements)
    assert found.parts["numbers"] == f"verified, {num} of {num} measured again"


def test_more_probes_later_are_under_the_same_plan_and_another_policy_later_is_told(
    tiny_data: Data, tmp_path: Path
) -> None:
    system, workspace = system_for(tiny_data), Workspace(tmp_path / "cache", key=b"owner", num_draws=50)
    story.audit(system, probes=["accuracy"], workspace=workspace)
    second = story.audit(system, probes=["accuracy", "balanced_accuracy"], workspace=workspace)
    found = verify_dossier(Path(story.file(second, tmp_path / "second").path), recompute=recompute)
    assert found.ok, found.problems
    assert found.parts["plan"] == "verified: fixed before the test split was read"
    third = story.audit(system, probes=["accuracy"], policy="strict", workspace=workspace)
    found = verify_dossier(Path(story.file(third, tmp_path / "third").path), recompute=recompute)
    assert found.intact
    assert found.parts["plan"].startswith("recorded after the test split was read")
