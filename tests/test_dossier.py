"""Dossiers: filed whole, read back equal, nothing of one person in the open part, schemas that hold."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from importlib import resources

import jsonschema
import numpy as np
import pytest

import dossier_kit as kit
from assay import dossier, storage
from assay.digests import canonical
from assay.dossier import Extras, file_dossier, load_dossier, per_person_arrays, sealed_observation, verify_dossier
from assay.errors import DossierError, StorageError
from assay.evidence.openpart import parse_json, to_json
from assay.evidence.receipts import Receipt, instant
from assay.evidence.signing import open_envelope
from assay.policy import judge
from assay.treatments._counts import FEW, about
from assay.values import Finding, Measurement, Step

FILES = [
    "open/dossier.json", "open/notes.json", "open/policy.toml", "sealed/observation-test.safetensors",
    "sealed/replicates.safetensors", "signer.pub", "statement.dsse.json", "system/weights.bin",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    kit.make(tmp_path / "d")
    return tmp_path / "d"


def _statement(folder):
    return open_envelope((folder / "statement.dsse.json").read_bytes(), public_pem=kit.SIGNER.public_pem)


def test_folder_holds_what_it_says_and_nothing_else(folder):
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert found == FILES
    assert os.listdir(folder.parent) == ["d"]
    assert (folder / "sealed").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (folder / "sealed").iterdir()} == {0o600}
    assert [one["name"] for one in _statement(folder)["subject"]] == [name for name in FILES if "dsse" not in name]


def test_what_is_read_back_equals_what_was_filed(tmp_path):
    audited = kit.audit()
    filed = kit.make(tmp_path / "d", audited)
    found = load_dossier(tmp_path / "d")
    assert found.measurements == audited.measurements == filed.measurements
    assert [one.digest for one in found.measurements] == [one.digest for one in audited.measurements]
    assert found.not_applicable == audited.not_applicable
    assert found.findings == judge(kit.policy(), audited.measurements)
    assert (found.verdict, found.system_digest) == ("pass", audited.system.digest)
    assert found.evidence_id == filed.evidence_id
    assert re.fullmatch("[0-9a-f]{64}", found.evidence_id)
    assert found.measurements[0].replicates is None
    sealed = load_dossier(tmp_path / "d", sealed=True)
    assert np.array_equal(sealed.measurements[0].replicates, audited.measurements[0].replicates)


def test_the_observation_is_read_back_with_its_digest(tmp_path):
    audited = kit.audit()
    kit.make(tmp_path / "d", audited)
    observation = sealed_observation(tmp_path / "d")
    assert observation.digest == audited.observations["test"].digest
    assert observation.joules == {"joules": 1.5}
    with pytest.raises(DossierError, match="train"):
        sealed_observation(tmp_path / "d", split="train")


def test_schemas_hold(folder):
    for name, table in (
        ("dossier.v1", json.loads((folder / "open" / "dossier.json").read_bytes())),
        ("statement.v1", _statement(folder)),
    ):
        schema = json.loads((resources.files("assay") / "schema" / f"{name}.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        validator.validate(table)
        assert not validator.is_valid(table | {"more": 1})
        for key in table:
            assert not validator.is_valid({other: value for other, value in table.items() if other != key}), key


def test_evidence_carries_interval_denominator_bound_and_outcome(folder):
    first, second = _statement(folder)["predicate"]["evidence"]
    assert first["low"] < first["value"] < first["high"]
    assert (first["attempted"], first["scored"], first["errored"]) == (60, 60, 0)
    assert (first["bound"], first["outcome"], first["clause"]) == ("at_least 0.05", "met", "Clause C")
    assert (second["metric"], second["outcome"], second["value"]) == ("never_measured", "not tested", None)


def test_canonical_json_is_the_golden_text(folder):
    table = {"b": [1, 2.5, None, True], "a": {"é": "\n", "c": 1e-7}}
    assert to_json(table, "x") == '{"a":{"c":1e-07,"é":"\\n"},"b":[1,2.5,null,true]}\n'.encode()
    text = (folder / "open" / "dossier.json").read_bytes()
    assert text == canonical(json.loads(text)).encode() + b"\n"
    for wrong in (float("nan"), float("inf"), object(), b"bytes"):
        with pytest.raises(DossierError, match="JSON"):
            to_json({"a": wrong}, "x")
    for wrong in (b'{"a": NaN}', b'{"a": 1, "a": 2}', b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(DossierError, match="JSON"):
            parse_json(wrong, "x")


def test_without_a_sealed_part_or_a_system_it_still_files(tmp_path):
    audited = kit.audit()
    findings = judge(kit.policy(), audited.measurements, audited.not_applicable)
    file_dossier(
        audited,
        findings=findings,
        policy=kit.policy(),
        folder=tmp_path / "d",
        signer=kit.SIGNER,
        extras=Extras(sealed=False),
    )
    assert not (tmp_path / "d" / "sealed").exists()
    verification = verify_dossier(tmp_path / "d")
    assert verification.ok
    assert verification.parts["sealed"] == "absent"
    assert verification.parts["plan"].startswith("absent")
    with pytest.raises(DossierError, match="sealed part is absent"):
        load_dossier(tmp_path / "d", sealed=True)


def test_former_dossier_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    filed = kit.make(tmp_path / "d")
    before = (tmp_path / "d" / "statement.dsse.json").read_bytes()

    def stop(system, folder):
        raise StorageError("stop")

    with pytest.raises(StorageError, match="stop"):
        kit.make(tmp_path / "d", save_system=stop)
    assert (tmp_path / "d" / "statement.dsse.json").read_bytes() == before
    monkeypatch.setattr(storage.os, "fsync", _full)
    with pytest.raises(StorageError, match="untouched"):
        kit.make(tmp_path / "d")
    monkeypatch.undo()
    assert load_dossier(tmp_path / "d").evidence_id == filed.evidence_id
    assert os.listdir(tmp_path) == ["d"]
    assert kit.make(tmp_path / "d").evidence_id != filed.evidence_id
    assert verify_dossier(tmp_path / "d").ok


def _full(descriptor):
    raise OSError(28, "No space left on device")


def test_a_dossier_set_aside_by_a_crash_is_found(folder):
    folder.rename(folder.with_name(".d.previous"))
    assert load_dossier(folder).verdict == "pass"


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    audited = kit.audit()
    findings = judge(kit.policy(), audited.measurements, audited.not_applicable)
    receipt = Receipt("0" * 64, "", instant())
    with pytest.raises(DossierError) as caught:
        file_dossier(
            replace(audited, policy_digest="1" * 64),
            findings=[replace(findings[0], verdict="fail"), *findings[1:]],
            policy=kit.policy(),
            folder=tmp_path / "d",
            signer=kit.SIGNER,
            extras=Extras(receipt=receipt),
        )
    told = str(caught.value)
    assert len(caught.value.problems) == 3
    assert "another policy" in told
    assert "receipt" in told
    assert "do not follow" in told
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["../out", "/out", "open/a/../b", "other/a", "open", "system/a b", "system/.hid"])
def test_names_outside_the_layout_are_refused(tmp_path, name):
    with pytest.raises(DossierError, match="cannot be a file of a dossier"):
        kit.make(tmp_path / "d", files={name: b"x"})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["open/dossier.json", "open/policy.toml", "sealed/replicates.safetensors"])
def test_files_of_the_dossier_cannot_be_replaced(tmp_path, name):
    with pytest.raises(DossierError, match="given twice"):
        kit.make(tmp_path / "d", files={name: b"x"})


def test_a_link_made_by_the_saver_is_refused(tmp_path):
    with pytest.raises((DossierError, StorageError), match="link"):
        kit.make(tmp_path / "d", save_system=lambda own, into: (into / "w").symlink_to("/etc/hostname"))


# ------------------------------------------------------------------ nothing with one entry per person

N = kit.NUM_ROWS
LEAKS = {
    "list": [0, 1] * (N // 2),
    "list of lists": [[0.1, 0.9]] * N,
    "flattened": [0.5] * (2 * N),
    "mapping": {f"row {i}": i for i in range(N)},
    "records": [{"row": i, "right": True} for i in range(N)],
    "nested": {"a": [{"b": {"c": list(range(N))}}]},
    "bits in a word": "01" * (N * 2),
    "numbers in a text": ", ".join(str(i) for i in range(max(N, 200))),
    "bits in an integer": (1 << N) + 12345 << 10,
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("place", ["facts", "table", "energy", "lineage"])
def test_one_entry_per_person_is_refused(tmp_path, leak, place):
    audited, value, more = kit.audit(), {"x": LEAKS[leak]}, {}
    if place == "facts":
        audited = replace(audited, system=replace(audited.system, facts=value))
    elif place == "energy":
        audited = replace(audited, energy=value)
    elif place == "lineage":
        (step,) = audited.system.lineage
        audited = replace(audited, system=replace(audited.system, lineage=(replace(step, outcome=value),)))
    else:
        more = {"tables": {"matrix": value}}
    with pytest.raises(DossierError, match="one entry per person"):
        kit.make(tmp_path / "d", audited, **more)
    assert os.listdir(tmp_path) == []


def test_arrays_and_replicates_never_reach_the_open_part(tmp_path):
    """Whatever holds an array is written as its digest; replicates are left out by their field."""
    audited = kit.audit()
    own = replace(audited.system, facts={"losses": np.arange(N)})
    kit.make(tmp_path / "d", replace(audited, system=own))
    text = (tmp_path / "d" / "open" / "dossier.json").read_text()
    assert '"losses":"array:' in text
    assert "replicates" not in text
    assert per_person_arrays(json.loads(text), N) == []


def test_categories_that_name_persons_are_refused_and_notes_on_cells_stay_with_the_owner(tmp_path):
    audited = kit.audit()
    data = audited.system.data
    noted = replace(data, source={**data.source, "problems": ["feature 'job' has new values in row 3: mail@x.org"]})
    kit.make(tmp_path / "noted", replace(audited, system=replace(audited.system, data=noted)))
    assert "mail@x.org" not in (tmp_path / "noted" / "open" / "dossier.json").read_text()
    people = tuple(f"person{number}@x.org" for number in range(110))
    columns = tuple(replace(one, categories=people) if one.name == "job" else one for one in data.columns)
    told = replace(audited, system=replace(audited.system, data=replace(data, columns=columns)))
    with pytest.raises(DossierError, match="'job' are 110 values"):
        kit.make(tmp_path / "told", told)
    assert not (tmp_path / "told").exists()


def test_medians_and_small_counts_of_training_rows_stay_with_the_owner(tmp_path):
    audited = kit.audit()
    data = audited.system.data
    source = {
        "num_rows": 1000,
        "missing": {"age": 3, "hours": 57, "job": 0},
        "imputed": {"age": {"median": 41.0625, "rows": 3}, "hours": {"median": 38.5, "rows": 57}},
        "duplicates": {"test_rows_also_in_train": 2, "test_rows": 250},
    }
    few = replace(audited, system=replace(audited.system, data=replace(data, source=source)))
    kit.make(tmp_path / "few", few)
    text = (tmp_path / "few" / "open" / "dossier.json").read_text()
    assert "41.0625" not in text
    assert "38.5" not in text
    by = "the median of the training rows"
    assert json.loads(text)["data"]["source"] == {
        "num_rows": 1000,
        "missing": {"age": FEW, "hours": 60, "job": FEW},
        "imputed": {"age": {"by": by, "rows": FEW}, "hours": {"by": by, "rows": 60}},
        "duplicates": {"test_rows_also_in_train": FEW, "test_rows": 250},
    }
    assert few.system.data.source == source
    odd = {"missing": "3 cells", "imputed": {"age": {"by": "hand"}, "hours": 38.5}, "duplicates": {"notes": "none"}}
    by_hand = replace(audited, system=replace(audited.system, data=replace(data, source=odd)))
    kit.make(tmp_path / "odd", by_hand)
    told = json.loads((tmp_path / "odd" / "open" / "dossier.json").read_text())["data"]["source"]
    assert told == {**odd, "imputed": {name: {"by": by, "rows": "not told"} for name in ("age", "hours")}}


def test_steps_made_before_medians_and_counts_were_rounded_are_told_as_those_of_now(tmp_path):
    """The digest of the system covers the step as it was made, and stays."""
    audited = kit.audit()
    num = len(audited.system.data.splits["train"])
    filled = {"train": {"age": 57, "job": 3}, "gone": {"age": 4}}
    old = (
        Step("fill_missing", "data", {}, "0" * 64, {"filled": filled, "values": {"age": 41.0625, "job": "a"}}),
        Step("redact_personal_data", "data", {}, "1" * 64, {"redacted": {"train": {"email": 123, "phone": 2}}}),
        Step("identity", "model", {}, "2" * 64, {"values": {"age": 41}, "filled": 57}),
    )
    system = replace(audited.system, lineage=old)
    observation = replace(audited.observations["test"], system_digest=system.digest)
    kit.make(tmp_path / "d", replace(audited, system=system, observations={"test": observation}))
    told = json.loads((tmp_path / "d" / "open" / "dossier.json").read_text())["system"]
    assert told["digest"] == system.digest
    outcomes = [one["outcome"] for one in told["lineage"]]
    assert outcomes[0]["values"] == {"age": "the median of the training rows", "job": "a"}
    assert outcomes[0]["filled"] == {"train": {"age": about(57, of=num), "job": FEW}, "gone": {"age": FEW}}
    assert outcomes[1] == {"redacted": {"train": {"email": 120, "phone": FEW}}}
    assert outcomes[2] == old[2].outcome
    assert outcomes[0]["filled"]["train"]["age"] == 60
    again = replace(system, lineage=tuple(Step(**one) for one in told["lineage"]))
    kit.make(tmp_path / "again", replace(audited, system=again, observations={}))
    assert (
        json.loads((tmp_path / "again" / "open" / "dossier.json").read_text())["system"]["lineage"] == told["lineage"]
    )


def test_one_measurement_per_person_is_refused(tmp_path):
    audited = kit.audit()
    single = [
        Measurement("loss", "loss", 0.5, 0.5, 0.5, 0.95, "none", "nats", "lower", f"row={i}", 1, 1)
        for i in range(N + 5)
    ]
    with pytest.raises(DossierError, match=r"slices of .*loss"):
        kit.make(tmp_path / "d", replace(audited, measurements=(*audited.measurements, *single)))


def test_a_metric_with_as_many_slices_as_rows_is_refused_and_curves_are_not():
    def curve(points):
        return [{"metric": "roc", "probe": "p", "slice": f"at={i}", "attempted": N} for i in range(points)]

    assert per_person_arrays({"measurements": curve(N)}, N) == [f"/measurements: {N} slices of metric.p.roc"]
    assert per_person_arrays({"measurements": curve(N + 1)}, N) == []
    assert per_person_arrays({"measurements": [*curve(11), *[{"metric": str(i)} for i in range(N)]]}, N) == []


def test_the_dossier_itself_is_clean(folder):
    """Negative control: what the scanner refuses above, it does not see in an honest dossier, small as it is."""
    table = json.loads((folder / "open" / "dossier.json").read_bytes())
    for num_rows in (16, 17, 20, N):
        assert per_person_arrays(table, num_rows) == []
    assert per_person_arrays(LEAKS, 0) == []
    passes = {f"probe {index}": 8 for index in range(18)}  # as many kinds of passes as probes decide
    assert per_person_arrays({"schema": "urn:assay:dossier:v1", "ledger": passes}, 18) == []
    assert per_person_arrays({"schema": "urn:assay:dossier:v1", "ledger": {"rows": [1] * 18}}, 18) == [
        "/ledger/rows: 18 entries"
    ]
    assert per_person_arrays({"ledger": passes}, 18) == ["/ledger: 18 entries"]


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"[]", "schema"),
        (b'{"schema":"urn:assay:dossier:v2"}', "v2"),
        (b'{"schema":"urn:assay:dossier:v1"}', "fit its schema"),
        (b"{", "JSON"),
    ],
)
def test_another_schema_is_told(folder, data, told):
    (folder / "open" / "dossier.json").write_bytes(data)
    with pytest.raises(DossierError, match=told):
        load_dossier(folder, verify=False)


def test_loading_verifies_unless_told_not_to(folder):
    path = folder / "open" / "notes.json"
    path.write_bytes(path.read_bytes().replace(b"owner", b"other"))
    with pytest.raises(DossierError, match=r"open: open/notes.json was changed"):
        load_dossier(folder)
    assert load_dossier(folder, verify=False).verdict == "pass"


def test_what_changes_after_verifying_is_not_parsed(folder, monkeypatch):
    """Between verifying and parsing somebody writes: the bytes parsed are still those that were signed, or none."""
    path = folder / "open" / "dossier.json"
    honest = dossier.verify_dossier

    def verify_then_lose_a_race(where):
        found = honest(where)
        path.write_bytes(path.read_bytes().replace(b'"pass"', b'"fail"'))
        return found

    monkeypatch.setattr(dossier, "verify_dossier", verify_then_lose_a_race)
    with pytest.raises(StorageError, match="was changed"):
        load_dossier(folder)


def test_sealed_arrays_that_are_none_are_told(folder):
    (folder / "sealed" / "replicates.safetensors").write_bytes(b"nonsense")
    with pytest.raises(DossierError, match="cannot be read"):
        load_dossier(folder, verify=False, sealed=True)
    with pytest.raises(DossierError, match="was changed"):
        load_dossier(folder, sealed=True)
    with pytest.raises(DossierError, match="was changed"):
        sealed_observation(folder)


def test_no_folder_is_told(tmp_path):
    with pytest.raises(DossierError, match="not a folder"):
        load_dossier(tmp_path / "none")
    with pytest.raises((DossierError, StorageError)):
        load_dossier(tmp_path / "none", verify=False)


def test_no_word_of_conformity(folder):
    text = "".join(path.read_text() for path in (folder / "open").iterdir()) + str(verify_dossier(folder))
    assert not re.search("complian|certif", text, re.IGNORECASE)
    assert isinstance(load_dossier(folder).findings[0], Finding)
