"""Verification as an instrument: every change of every byte is found, and named by its part."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

import dossier_kit as kit
from assay.digests import canonical
from assay.dossier import load_dossier
from assay.errors import DossierError
from assay.evidence.openpart import JUDGING
from assay.evidence.receipts import Receipt, instant
from assay.evidence.signing import Signer, open_envelope, sign_statement, statement
from assay.evidence.verify import SIGNATURE, SIGNER, list_files, verify_dossier
from assay.storage import digest_file

SMALL = 4096


@pytest.fixture
def folder(tmp_path):
    kit.make(tmp_path / "d")
    return tmp_path / "d"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One dossier that tests change and put back byte for byte."""
    folder = tmp_path_factory.mktemp("shared") / "d"
    kit.make(folder)
    return folder


def _names(folder):
    return list_files(folder)[0]


def _part(name):
    return name.split("/")[0] if "/" in name else "signature"


def _told(folder, **kwargs):
    """Problems as text; each must name the part it lies in."""
    verification = verify_dossier(folder, **kwargs)
    assert verification.ok == (not verification.problems)
    return [problem.what for problem in verification.problems]


def _found_in_its_part(folder, name, data):
    """Whether a changed file is found, and blamed on its own part only."""
    path = folder / name
    before = path.read_bytes()
    assert data != before
    path.write_bytes(data)
    told = _told(folder)
    path.write_bytes(before)
    return bool(told) and all(one.startswith(f"{_part(name)}:") for one in told)


def test_an_honest_dossier_verifies_in_every_part(folder):
    verification = verify_dossier(folder, recompute=kit.recompute)
    assert verification.ok
    assert verification.intact
    assert verification.problems == ()
    assert dict(verification.parts) == {
        "signature": "verified",
        "open": "verified, 3 files",
        "system": "verified, 1 files",
        "sealed": "verified, 2 files",
        "findings": "verified, 2 judged again",
        "plan": "verified: fixed before the test split was read",
        "numbers": "verified, 1 of 1 measured again",
    }
    assert verification.signer == kit.SIGNER.key_id
    assert set(verification.files) == set(_names(folder)) - {SIGNATURE}
    assert "not pinned" in str(verification)
    pinned = verify_dossier(folder, public_key=kit.SIGNER.public_pem)
    assert pinned.is_pinned
    assert "the key you named" in str(pinned)


def _flips(data, bits):
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@pytest.mark.parametrize("name", ["open/dossier.json", "open/notes.json", "open/policy.toml", "system/weights.bin",
                                  "sealed/observation-test.safetensors", "sealed/replicates.safetensors", SIGNER,
                                  SIGNATURE])  # fmt: skip
def test_sampled_bit_flips_are_found_in_their_part(shared, name):
    data = (shared / name).read_bytes()
    bits = random.Random(7).sample(range(8 * len(data)), k=min(25, 8 * len(data)))
    missed = [1 for changed in _flips(data, bits) if not _found_in_its_part(shared, name, changed)]
    assert missed == []


@pytest.mark.slow
def test_every_bit_flip_of_every_small_file_is_found(shared):
    num_flips = 0
    for name in _names(shared):
        data = (shared / name).read_bytes()
        bits = range(8 * len(data))
        if len(data) > SMALL:
            bits = random.Random(8).sample(bits, k=2000)
        for changed in _flips(data, bits):
            assert _found_in_its_part(shared, name, changed), name
            num_flips += 1
    assert num_flips > 10_000


def test_truncations_and_insertions_are_found(shared):
    for name in _names(shared):
        data = (shared / name).read_bytes()
        for at in random.Random(9).sample(range(len(data)), k=min(6, len(data))):
            assert _found_in_its_part(shared, name, data[:at])
            assert _found_in_its_part(shared, name, data[:at] + b"\x00" + data[at:])
            assert _found_in_its_part(shared, name, data[:at] + data[at : at + 1] + data[at:])
        assert _found_in_its_part(shared, name, data + b"\n")
        assert _found_in_its_part(shared, name, b"")
    assert verify_dossier(shared).ok


@pytest.mark.slow
def test_every_truncation_and_insertion_of_small_files_is_found(shared):
    for name in _names(shared):
        data = (shared / name).read_bytes()
        for at in range(min(len(data), SMALL)):
            assert _found_in_its_part(shared, name, data[:at])
            assert _found_in_its_part(shared, name, data[:at] + b"\x00" + data[at:])


# ------------------------------------------------------------------ the folder


def test_two_files_swapped(folder):
    one, other = folder / "open" / "notes.json", folder / "open" / "policy.toml"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert _told(folder) == ["open: open/notes.json was changed", "open: open/policy.toml was changed"]


def test_a_renamed_file_is_named_with_its_new_name(folder):
    (folder / "open" / "notes.json").rename(folder / "open" / "other.json")
    assert _told(folder) == ["open: open/notes.json is missing: it is now called open/other.json"]


@pytest.mark.parametrize("name", ["open/notes.json", "system/weights.bin", "sealed/replicates.safetensors", SIGNER])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    told = _told(folder, public_key=kit.SIGNER.public_pem)
    assert f"{_part(name)}: {name} is missing" in told
    assert {one.split(":")[0] for one in told} == {_part(name)}


def test_a_missing_system_is_not_forgiven(folder):
    shutil.rmtree(folder / "system")
    assert _told(folder) == ["system: system/weights.bin is missing"]


@pytest.mark.parametrize(("name", "part"), [("open/extra.json", "open"), ("sealed/x", "sealed"), ("note.txt", "extra")])
def test_an_extra_file(folder, name, part):
    (folder / name).write_text("{}")
    assert _told(folder) == [f"{part}: {name} was not signed"]


def test_an_extra_empty_folder(folder):
    (folder / "open" / "more").mkdir()
    assert "empty folder" in _told(folder)[0]


@pytest.mark.parametrize("kind", ["file", "folder", "pipe", "dangling"])
def test_links_and_special_files(folder, tmp_path, kind):
    if kind == "file":
        (folder / "open" / "notes.json").rename(tmp_path / "away")
        (folder / "open" / "notes.json").symlink_to(tmp_path / "away")
    elif kind == "folder":
        (folder / "system").rename(tmp_path / "away")
        (folder / "system").symlink_to(tmp_path / "away")
    elif kind == "pipe":
        os.mkfifo(folder / "system" / "pipe")
    else:
        (folder / "system" / "link").symlink_to(tmp_path / "nowhere")
    told = _told(folder)
    assert any("link or a special file" in one for one in told)
    assert not verify_dossier(folder).intact


@pytest.mark.parametrize("name", [SIGNATURE, SIGNER])
def test_a_signature_that_is_a_link_is_not_followed(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "away")
    (folder / name).symlink_to(tmp_path / "away")
    assert _told(folder)[0].startswith("signature:")


def test_the_folder_itself_may_not_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert "not a folder" in _told(tmp_path / "link")[0]


def test_without_the_sealed_part_it_verifies_and_says_so(folder):
    shutil.rmtree(folder / "sealed")
    verification = verify_dossier(folder, recompute=kit.recompute)
    assert verification.ok
    assert verification.parts["sealed"] == "absent: its digests are signed"
    assert verification.parts["numbers"].startswith("not measured again")


def test_half_a_sealed_part_is_damage(folder):
    (folder / "sealed" / "observation-test.safetensors").unlink()
    assert _told(folder) == ["sealed: sealed/observation-test.safetensors is missing"]


# ------------------------------------------------------------------ the signer


def test_another_key_than_the_pinned_one(folder):
    other = Signer.of(Ed25519PrivateKey.generate())
    verification = verify_dossier(folder, public_key=other.public_pem)
    assert not verification.intact
    assert "signed by key" in str(verification)
    assert verify_dossier(folder).ok  # without a pin the same folder holds


def test_signature_of_another_dossier(folder, tmp_path):
    kit.make(tmp_path / "e", replace(kit.audit(), ledger={"test pass": 61}))
    shutil.copy(tmp_path / "e" / SIGNATURE, folder / SIGNATURE)
    told = _told(folder)
    assert told == ["open: open/dossier.json was changed"]
    for name in (SIGNATURE, "open/dossier.json"):
        shutil.copy(tmp_path / "e" / name, folder / name)
    assert verify_dossier(folder).ok  # then it is the other dossier, whole


def test_signed_anew_by_a_stranger_holds_only_without_a_pin(folder):
    """Trust on first use: integrity is proven, who signed is not. The pin is what finds the stranger."""
    stranger = Signer.of(Ed25519PrivateKey.generate())
    _resign(folder, stranger)
    assert verify_dossier(folder).ok
    assert verify_dossier(folder).signer == stranger.key_id
    assert not verify_dossier(folder, public_key=kit.SIGNER.public_pem).ok


def test_an_older_dossier_in_place_of_a_newer_one(folder):
    filed = load_dossier(folder).about["filed"]
    assert verify_dossier(folder, not_before=filed).ok
    told = _told(folder, not_before="2999-01-01T00:00:00.000Z")
    assert told == [f"signature: the dossier was filed {filed}"]


# ------------------------------------------------------------------ what the owner signs must agree


def _resign(folder, signer=kit.SIGNER, change=None, predicate=None):
    """Change the open part and sign again, as a dishonest owner could: every digest and the signature hold."""
    pem = (folder / SIGNER).read_bytes()
    content = open_envelope((folder / SIGNATURE).read_bytes(), public_pem=pem)["predicate"]
    path = folder / "open" / "dossier.json"
    table = json.loads(path.read_bytes())
    if change is not None:
        change(table)
        path.write_bytes(canonical(table).encode() + b"\n")
    (folder / SIGNER).write_bytes(signer.public_pem)
    subjects = {name: digest_file(folder / name) for name in _names(folder) if name != SIGNATURE}
    (folder / SIGNATURE).write_bytes(sign_statement(statement(subjects, content | (predicate or {})), signer=signer))


def _set(*path_and_value):
    *path, last, value = path_and_value

    def change(table):
        for key in path:
            table = table[key]
        table[last] = value

    return change


CHANGES = {
    "a kinder value": (_set("measurements", 0, "value", 0.999), "do not follow"),
    "a kinder verdict": (_set("verdict", "fail"), "verdict differs"),
    "a finding turned": (_set("findings", 0, "verdict", "fail"), "do not follow"),
    "a finding dropped": (lambda table: table["findings"].pop(), "do not follow"),
    "a reason reworded": (_set("findings", 0, "reason", "fine"), "do not follow"),
    "another system": (_set("system", "digest", "0" * 64), "system differs"),
    "another data set": (_set("data", "digest", "0" * 64), "data differs"),
    "another policy": (_set("policy", "digest", "0" * 64), "policy differs"),
    "fewer systems": (_set("policy", "num_systems", 3), "do not follow"),
    "another time": (_set("filed", "2020-01-01T00:00:00.000Z"), "time differs"),
    "another schema": (_set("schema", "v0"), "schema"),
    "a field lost": (lambda table: table["measurements"][0].pop("metric"), "fit its schema"),
    "rows of persons": (_set("environment", "rows", [0] * kit.NUM_ROWS), "one entry per person"),
    "a receipt of another policy": (_set("receipt", "policy_digest", "0" * 64), "receipt is for another policy"),
    "no receipt at all": (_set("receipt", {}), "receipt is damaged"),
    "a plan made later": (_set("receipt", "recorded", instant() | {"boot": "", "wall_ns": 2**62}), "plan: "),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_signed_contradiction_is_found(folder, name):
    change, told = CHANGES[name]
    _resign(folder, change=change)
    verification = verify_dossier(folder)
    assert verification.intact  # the bytes are what was signed
    assert not verification.ok
    assert told in str(verification)


def test_signing_again_without_a_change_is_no_problem(folder):
    """Negative control of the tests above."""
    _resign(folder, change=lambda table: None)
    assert verify_dossier(folder, recompute=kit.recompute).ok


def test_a_policy_that_is_not_the_one_named(folder):
    path = folder / "open" / "policy.toml"
    path.write_text(path.read_text().replace("0.05", "0.01"))
    _resign(folder)
    assert "not the policy" in _told(folder)[0]


def test_findings_of_another_way_of_judging_are_not_judged_again(folder):
    _resign(folder, change=_set("policy", "judging", JUDGING + 1))
    verification = verify_dossier(folder)
    assert verification.ok
    assert verification.parts["findings"].startswith("not judged again")


def test_a_statement_without_a_dossiers_files(folder):
    signed = sign_statement(statement({"open/dossier.json": "0" * 64}, {}), signer=kit.SIGNER)
    (folder / SIGNATURE).write_bytes(signed)
    assert "does not name the files" in _told(folder)[0]
    broken = statement({}, {}) | {"subject": [{"name": "a"}]}
    (folder / SIGNATURE).write_bytes(sign_statement(broken, signer=kit.SIGNER))
    assert "names no files" in _told(folder)[0]


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("field", ["value", "low", "high", "attempted"])
def test_a_number_that_the_sealed_part_does_not_give(folder, field):
    """Even when its owner signs it and the verdict follows from it."""
    number = load_dossier(folder).measurements[0]
    other = 59 if field == "attempted" else getattr(number, field) + (0.001 if field == "high" else -0.001)
    changed = replace(number, **{field: other})
    audited = replace(kit.audit(), measurements=(changed,))
    kit.make(folder, audited)
    assert verify_dossier(folder).ok
    told = _told(folder, recompute=kit.recompute)
    assert len(told) == 1
    assert told[0].startswith("open: hit_rate.hit_rate is ")


def test_a_number_left_out(folder):
    hidden = replace(kit.audit().measurements[0], metric="miss_rate")
    told = _told(folder, recompute=lambda where: (*kit.recompute(where), hidden))
    assert told == ["open: hit_rate.miss_rate can be measured from the sealed part, but is not shown"]


def test_a_sealed_part_that_cannot_be_measured_is_told(folder):
    def fail(where):
        raise DossierError("no rows here")

    assert _told(folder, recompute=fail) == ["sealed: no rows here"]


def test_a_sealed_part_of_other_rows(folder):
    """Sealed arrays changed and signed again: the numbers no longer come out."""
    path = folder / "sealed" / "observation-test.safetensors"
    path.write_bytes(save({"predictions": np.zeros(kit.NUM_ROWS, dtype=np.int64)}))
    _resign(folder)
    assert verify_dossier(folder).ok
    assert "hit_rate" in _told(folder, recompute=kit.recompute)[0]


# ------------------------------------------------------------------ the plan


def test_a_plan_after_the_reading_is_told(folder):
    kit.make(folder, kit.audit(read_at=instant() | {"boot_ns": 0, "wall_ns": 0}))
    assert _told(folder) == ["plan: policy and plan were fixed after the test split was read"]
    assert load_dossier(folder).verdict == "pass"  # intact all the same


def test_a_reading_without_a_time_is_said(folder):
    audited = kit.audit()
    observation = replace(audited.observations["test"], environment={})
    kit.make(folder, replace(audited, observations={"test": observation}))
    verification = verify_dossier(folder)
    assert verification.ok
    assert "not known" in verification.parts["plan"]


def test_a_receipt_in_time_holds(folder):
    receipt = Receipt(kit.policy().digest, "", instant())
    kit.make(folder, kit.audit(), receipt=receipt)
    assert verify_dossier(folder).parts["plan"] == "verified: fixed before the test split was read"
    late = kit.audit()
    kit.make(folder, late, receipt=Receipt(kit.policy().digest, "", instant()))
    assert not verify_dossier(folder).ok


# ------------------------------------------------------------------ python -O


@pytest.mark.slow
def test_the_same_without_assertions(folder, tmp_path):
    """`python -O` removes assert statements; nothing here may rest on one."""
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    path = bad / "open" / "dossier.json"
    path.write_bytes(path.read_bytes().replace(b'"hits"', b'"hots"'))
    code = """
    import sys
    from pathlib import Path
    from assay.evidence.verify import verify_dossier
    for name in sys.argv[1:]:
        found = verify_dossier(Path(name))
        print(found.ok, found)
    """
    runs = [
        subprocess.run(
            [sys.executable, *flags, "-c", textwrap.dedent(code), str(folder), str(bad)],
            capture_output=True, text=True, check=True,
        ).stdout
        for flags in ([], ["-O"])
    ]  # fmt: skip
    assert runs[0] == runs[1]
    first, second = runs[0].splitlines()
    assert first.startswith("True Integrity proven")
    assert second.startswith("False Not verified: open: open/dossier.json was changed")


def test_a_damaged_dossier_does_not_load(folder):
    (folder / SIGNATURE).unlink()
    with pytest.raises(DossierError, match="signature"):
        load_dossier(folder)
