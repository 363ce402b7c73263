"""Bad input ends in a clear error, an undefined number with its reason, or an inconclusive verdict; nothing is lost."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assay import engine, story
from assay.data import load_diabetes, read_table
from assay.dossier import load_dossier, verify_dossier
from assay.errors import AssayError, DataError, ModelError
from assay.evidence.sealed import recompute
from assay.models.adapters.endpoint import CallableModel
from assay.observe import Workspace
from assay.policy import Policy, parse_policy
from assay.registry import TREATMENTS, load
from assay.values import Array, Audit, Data, Groups, Measurement, Split, System
from cli_kit import Run, runner, write_table

load()
POLICY = b"""name = "groups"
version = "1"
[[rule]]
id = "gap"
metric = "demographic_parity_difference"
slice = "sex"
at_most = 0.2
[[rule]]
id = "worst"
metric = "worst_group_accuracy"
slice = "*"
at_least = 0.5
"""


def odds(inputs: Array) -> Array:
    score = 0.05 * (inputs[:, 0] - 50) + 0.04 * (inputs[:, 1] - 50)
    return np.stack([np.zeros_like(score), score], axis=1)


def system_on(data: Data, function: object = odds, name: str = "rule") -> System:
    model = CallableModel(function, name=name, outputs_are="logits")  # type: ignore[arg-type]
    return story.system_of(model, data)


def with_test(data: Data, split: Split) -> Data:
    return replace(data, splits={**data.splits, "test": split})


def audited(system: System, names: list[str] | None = None) -> Audit:
    return engine.audit(system, probes=names, workspace=Workspace(key=b"k", num_draws=60, num_references=2))


def whole(audit: Audit) -> list[Measurement]:
    """Every measurement is a number, or says why it is none; none was lost to a crash."""
    for one in audit.measurements:
        assert not one.reason.startswith("the probe stopped"), one
        assert one.value is not None or one.reason
        assert one.attempted == one.scored + one.errored
        for number in (one.value, one.low, one.high):
            assert number is None or math.isfinite(number)
    return list(audit.measurements)


def policy() -> Policy:
    return parse_policy(POLICY)


# ------------------------------------------------------------------ classes and groups


def test_a_class_absent_from_the_test_rows(tiny_data: Data, tmp_path: Path) -> None:
    test = tiny_data.splits["test"]
    only_no = tiny_data.splits["test"].take(np.flatnonzero(test.labels == 0))
    found = audited(system_on(with_test(tiny_data, only_no)))
    whole(found)
    area = found.find("area_under_roc")
    assert (area.value, bool(area.reason)) == (None, True)
    recall = next(m for m in found.measurements if m.metric == "true_positive_rate" and m.slice == "class=yes")
    assert (recall.value, bool(recall.reason)) == (None, True)
    odds_gap = found.find("equalized_odds_difference", "sex")
    assert odds_gap.value is None or odds_gap.reason
    balanced = found.find("balanced_accuracy")
    assert balanced.value is None or balanced.reason


@pytest.mark.parametrize("num", [0, 1, 2])
def test_a_group_of_hardly_anyone_is_never_a_clean_bill(tiny_data: Data, tmp_path: Path, num: int) -> None:
    test = tiny_data.splits["test"]
    women = np.flatnonzero(test.groups.codes[:, 0] == 0)[:num]
    rows = np.concatenate([women, np.flatnonzero(test.groups.codes[:, 0] == 1)])
    system = system_on(with_test(tiny_data, test.take(rows)))
    workspace = Workspace(key=b"k", num_draws=60)
    names = ["selection_rate_gap", "group_error_rates", "equalized_odds_difference", "group_shares"]
    judged = story.audit(system, policy=policy(), probes=names, workspace=workspace)
    whole(judged.audit)
    gap = judged.audit.find("demographic_parity_difference", "sex")
    rate = judged.audit.find("selection_rate", "sex=Female")
    assert rate.attempted == num
    if num == 0:
        assert (rate.value, bool(rate.reason)) == (None, True)
    verdicts = {one.rule: one.verdict for one in judged.findings if one.slice == "sex" or one.rule == "gap"}
    assert verdicts["gap"] != "pass", (gap, judged.findings)
    assert judged.verdict != "pass"
    dossier = story.file(judged, tmp_path / "d")
    assert verify_dossier(Path(dossier.path), recompute=recompute).ok


def test_no_test_rows_with_any_group_known(tiny_data: Data) -> None:
    test = tiny_data.splits["test"]
    nobody = replace(test, groups=Groups(np.full_like(test.groups.codes, -1), test.groups.columns))
    found = audited(system_on(with_test(tiny_data, nobody)))
    whole(found)
    gap = found.find("demographic_parity_difference", "sex")
    assert (gap.value, bool(gap.reason)) == (None, True)
    assert found.find("missing_share", "sex").value == 1.0


def test_one_test_row(tiny_data: Data) -> None:
    found = audited(system_on(with_test(tiny_data, tiny_data.splits["test"].take(np.array([3])))))
    whole(found)
    accuracy = found.find("accuracy")
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert accuracy.high - accuracy.low > 0.7


# ------------------------------------------------------------------ outputs


def test_all_answers_alike(tiny_data: Data) -> None:
    found = audited(system_on(tiny_data, lambda inputs: np.zeros((len(inputs), 2)), "flat"))
    whole(found)
    assert found.find("area_under_roc").value == pytest.approx(0.5)
    assert found.find("demographic_parity_difference", "sex").value == 0.0
    assert found.find("flip_rate", "noise=0.1").value == 0.0


def test_answers_of_nan_stay_in_the_denominator(tiny_data: Data, tmp_path: Path) -> None:
    def some(inputs: Array) -> Array:
        answer = odds(inputs)
        answer[inputs[:, 0] > 70] = np.nan
        answer[inputs[:, 0] < 20, 1] = np.inf
        return answer

    judged = story.audit(system_on(tiny_data, some, "some"), workspace=Workspace(key=b"k", num_draws=60))
    whole(judged.audit)
    ages = tiny_data.splits["test"].inputs[:, 0]
    errored = int(((ages > 70) | (ages < 20)).sum())
    assert errored > 20
    accuracy = judged.audit.find("accuracy")
    assert (accuracy.attempted, accuracy.errored) == (len(ages), errored)
    right = odds(tiny_data.splits["test"].inputs).argmax(axis=1) == tiny_data.splits["test"].labels
    assert accuracy.value == pytest.approx((right & (ages <= 70) & (ages >= 20)).mean())
    dossier = story.file(judged, tmp_path / "d")
    assert verify_dossier(Path(dossier.path), recompute=recompute).ok
    assert f'"errored":{errored}' in (tmp_path / "d" / "open" / "dossier.json").read_text().replace(" ", "")


def test_no_answer_at_all_is_no_number_and_no_pass(tiny_data: Data) -> None:
    judged = story.audit(
        system_on(tiny_data, lambda inputs: np.full((len(inputs), 2), np.nan), "mute"),
        workspace=Workspace(key=b"k", num_draws=60),
    )
    whole(judged.audit)
    assert judged.audit.find("accuracy").value == 0.0
    assert judged.audit.find("accuracy").errored == len(tiny_data.splits["test"])
    assert judged.verdict == "fail"
    assert judged.audit.find("area_under_roc").value == 0.0  # a pair with an errored row is in the wrong order


def test_a_regression_that_answers_nan_keeps_its_denominator() -> None:
    data = load_diabetes()

    def some(inputs: Array) -> Array:
        answer = 150 + 0 * inputs[:, :1]
        answer[::4] = np.nan
        return answer

    system = story.system_of(CallableModel(some, name="some", outputs_are="values"), data)
    found = audited(system)
    whole(found)
    num = len(data.splits["test"])
    error = found.find("mean_absolute_error")
    assert (error.attempted, error.errored) == (num, -(-num // 4))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda inputs: np.zeros((len(inputs), 3)), "shape"),
        (lambda inputs: np.zeros((len(inputs) + 1, 2)), "shape"),
        (lambda inputs: np.zeros((2, len(inputs), 2)), "shape"),
        (lambda inputs: ["yes"] * len(inputs), "ValueError"),
        (lambda inputs: {}[0], "KeyError"),
        (lambda inputs: None, "shape|TypeError"),
    ],
    ids=["three columns", "a row too many", "three axes", "text", "an error", "nothing"],
)
def test_a_model_that_answers_nonsense_is_one_error(tiny_data: Data, function: object, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        audited(system_on(tiny_data, function, said))


def test_declared_probabilities_that_are_none(tiny_data: Data) -> None:
    model = CallableModel(odds, name="rule", outputs_are="probabilities")
    with pytest.raises(ModelError, match="0 to 1"):
        audited(story.system_of(model, tiny_data))


def test_a_model_that_fails_only_when_perturbed_loses_only_that_probe(tiny_data: Data) -> None:
    known = {row.tobytes() for row in tiny_data.splits["test"].inputs}

    def picky(inputs: Array) -> Array:
        if any(row.tobytes() not in known for row in inputs):
            raise RuntimeError("never seen")
        return odds(inputs)

    found = audited(system_on(tiny_data, picky, "picky"), ["accuracy", "input_noise"])
    assert found.find("accuracy").value is not None
    lost = [one for one in found.measurements if one.probe == "input_noise"]
    assert lost
    assert all(one.value is None and "never seen" in one.reason for one in lost)


# ------------------------------------------------------------------ data files


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def test_missing_and_unreadable_features_are_told_by_row(tmp_path: Path) -> None:
    path = write_table(tmp_path / "rows.csv", 60)
    lines = path.read_text().splitlines()
    lines[7] = "nan" + lines[7][lines[7].index(",") :]
    lines[9] = "inf" + lines[9][lines[9].index(",") :]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_table(path, label="paid", groups=["sex"])
    assert "age" in str(caught.value)
    assert "7" in str(caught.value)


@pytest.mark.parametrize("harm", ["truncated", "edited", "gone", "a column less", "empty"])
def test_a_data_file_that_changed_since_training_is_never_measured_on(assay: Run, tmp_path: Path, harm: str) -> None:
    path = write_table(tmp_path / "loans.csv")
    words = ("loans.csv", "--label", "paid", "--groups", "sex", "--out", "system", "-q")
    assert assay("train", *words).code == 0
    text = path.read_text()
    if harm == "truncated":
        path.write_text(text[: len(text) // 2])
    elif harm == "edited":
        path.write_text(text.replace(",yes\n", ",no\n", 1))
    elif harm == "gone":
        path.unlink()
    elif harm == "a column less":
        path.write_text("\n".join(line.split(",", 1)[1] for line in text.splitlines()))
    else:
        path.write_text("")
    told = assay("audit", "system", "--probes", "accuracy", "--out", "d")
    assert (told.code, told.out) == (2, ""), told
    assert "Traceback" not in told.err
    assert "defect" not in told.err
    assert "loans.csv" in told.err or "data" in told.err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["system.json", "weights.safetensors", "SHA256SUMS"])
def test_a_damaged_system_is_not_run(assay: Run, tmp_path: Path, name: str) -> None:
    write_table(tmp_path / "loans.csv", 120)
    assert assay("train", "loans.csv", "--label", "paid", "--out", "system", "-q").code == 0
    raw = bytearray((tmp_path / "system" / name).read_bytes())
    raw[len(raw) // 3] ^= 1
    (tmp_path / "system" / name).write_bytes(bytes(raw))
    told = assay("audit", "system", "--probes", "accuracy", "--out", "d")
    assert (told.code, told.out) == (2, "")
    assert "defect" not in told.err
    assert not (tmp_path / "d").exists()


# ------------------------------------------------------------------ a treatment that fails


def test_treatments_that_fail_leave_the_comparison(small_data: Data, tmp_path: Path) -> None:
    system = system_on(small_data)
    workspace = Workspace(key=b"k", num_draws=60)
    names = ["accuracy", "selection_rate_gap"]
    compared = story.compare_treatments(system, sorted(TREATMENTS), probes=names, workspace=workspace)
    assert compared.matrix.systems == ("system", "system+group_thresholds", "system+limit_queries")
    assert compared.matrix.errored.keys() == TREATMENTS.keys() - {"group_thresholds", "limit_queries"}
    assert "no recipe" in compared.matrix.errored["reweigh_groups"]
    tables = {"matrix": story.matrix_facts(compared)}
    dossier = story.file(compared.judged[0], tmp_path / "d", tables=tables)
    text = (tmp_path / "d" / "open" / "matrix.json").read_text()
    assert json.loads(text)["errored"] == compared.matrix.errored
    assert load_dossier(Path(dossier.path)).system_digest == system.digest


def test_every_error_is_of_one_family(tiny_data: Data) -> None:
    for wrong in (
        lambda: story.audit(system_on(tiny_data), probes=["nope"], workspace=Workspace(key=b"k")),
        lambda: story.treat(system_on(tiny_data), "nope"),
        lambda: story.treat(system_on(tiny_data), "prune_magnitude", options={"no": 1}),
        lambda: story.audit(system_on(tiny_data), policy="nope", workspace=Workspace(key=b"k")),
        lambda: read_table("nowhere.csv", label="x"),
    ):
        with pytest.raises(AssayError) as caught:
            wrong()
        assert caught.value.problems
