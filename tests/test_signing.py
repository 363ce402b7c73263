"""Signatures: published vectors, one accepted form, keys that only their owner can read."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from assay.digests import canonical
from assay.errors import DossierError, StorageError
from assay.evidence.receipts import instant, not_after, record_plan
from assay.evidence.signing import (
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Signer,
    draw_key,
    home,
    key_id,
    load_signer,
    open_envelope,
    pae,
    sign_statement,
    statement,
)

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")  # RFC 8032, 7.1, test 1
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
CONTENT = statement({"b": "22", "a": "11"}, {"verdict": "pass"})


@pytest.fixture
def signer():
    return Signer.of(Ed25519PrivateKey.from_private_bytes(SEED))


def test_rfc_8032_key_and_signature(signer):
    assert signer.key_id == hashlib.sha256(bytes.fromhex(PUBLIC)).hexdigest()
    expected = (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert signer.key.sign(b"").hex() == expected


def test_pae_of_the_dsse_specification():
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "  # lengths are of bytes


def test_pae_is_injective_where_a_bare_join_is_not():
    assert pae("a b", b"c") != pae("a", b"b c")


def test_envelope_is_the_golden_text(signer):
    text = sign_statement(CONTENT, signer=signer).decode()
    payload = (
        '{"_type":"https://in-toto.io/Statement/v1","predicate":{"verdict":"pass"},'
        '"predicateType":"urn:assay:measured-evidence:v1",'
        '"subject":[{"digest":{"sha256":"11"},"name":"a"},{"digest":{"sha256":"22"},"name":"b"}]}'
    )
    sig = base64.b64encode(signer.key.sign(pae(PAYLOAD_TYPE, payload.encode()))).decode()
    encoded = base64.b64encode(payload.encode()).decode()
    assert text == (
        f'{{"payload":"{encoded}","payloadType":"application/vnd.in-toto+json",'
        f'"signatures":[{{"keyid":"{signer.key_id}","sig":"{sig}"}}]}}\n'
    )
    assert open_envelope(text.encode(), public_pem=signer.public_pem) == CONTENT


def test_every_bit_of_the_envelope_is_bound(signer):
    data = sign_statement(CONTENT, signer=signer)
    accepted = []
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        accepted += _accepted(bytes(changed), signer)
    for cut in range(len(data)):
        accepted += _accepted(data[:cut], signer) + _accepted(data[:cut] + b" " + data[cut:], signer)
    assert accepted == []


def _accepted(data: bytes, signer: Signer) -> list[bytes]:
    try:
        open_envelope(data, public_pem=signer.public_pem)
    except DossierError:
        return []
    return [data]


def test_every_bit_of_a_public_key_gives_another_key_or_a_clean_error(signer):
    """Some flips name an algorithm nobody knows; some spell the same key differently: no other exception, no crash."""
    same = other = refused = 0
    for bit in range(8 * len(signer.public_pem)):
        changed = bytearray(signer.public_pem)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = key_id(bytes(changed))
        except DossierError:
            refused += 1
        else:
            same, other = same + (found == signer.key_id), other + (found != signer.key_id)
    assert refused > other > 100
    assert same < 20


def test_another_spelling_of_the_same_envelope_is_refused(signer):
    """Valid DSSE elsewhere, but room for two files with one meaning: refused here."""
    data = sign_statement(CONTENT, signer=signer)
    spaced = json.dumps(json.loads(data)).encode()
    with pytest.raises(DossierError, match="canonical"):
        open_envelope(spaced, public_pem=signer.public_pem)


def test_another_key_is_refused(signer):
    other = Signer.of(Ed25519PrivateKey.generate())
    data = sign_statement(CONTENT, signer=signer)
    with pytest.raises(DossierError, match="signed by key"):
        open_envelope(data, public_pem=other.public_pem)
    forged = json.loads(data)
    forged["signatures"][0]["keyid"] = other.key_id
    with pytest.raises(DossierError, match="does not hold"):
        open_envelope(canonical(forged).encode() + b"\n", public_pem=other.public_pem)


@pytest.mark.parametrize("change", [{"_type": "x"}, {"predicateType": "https://slsa.dev/provenance/v1"}])
def test_a_signed_statement_about_something_else_is_refused(signer, change):
    data = sign_statement(CONTENT | change, signer=signer)
    with pytest.raises(DossierError, match=r"statement"):
        open_envelope(data, public_pem=signer.public_pem)


def test_names_of_the_formats():
    assert (STATEMENT_TYPE, PREDICATE_TYPE) == ("https://in-toto.io/Statement/v1", "urn:assay:measured-evidence:v1")


# ------------------------------------------------------------------ keys


def test_key_is_made_once_and_only_its_owner_can_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "own"))
    assert home() == tmp_path / "own"
    first, created = load_signer()
    again, created_again = load_signer()
    assert (created, created_again) == (True, False)
    assert first.key_id == again.key_id
    assert (home() / "key.pem").stat().st_mode & 0o777 == 0o600
    assert home().stat().st_mode & 0o777 == 0o700
    assert (home() / "key.pub").read_bytes() == first.public_pem
    assert key_id(first.public_pem) == first.key_id
    assert "PRIVATE" not in repr(first)


def test_draw_key_is_made_once(tmp_path):
    key, created = draw_key(tmp_path)
    assert (len(key), created) == (32, True)
    assert draw_key(tmp_path) == (key, False)
    assert (tmp_path / "draws.key").stat().st_mode & 0o777 == 0o600
    assert draw_key(tmp_path / "other")[0] != key


def test_home_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("ASSAY_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path / ".config" / "assay"


def test_two_first_uses_at_once_agree(tmp_path):
    code = "import sys; from pathlib import Path; from assay.evidence.signing import load_signer\n"
    code += "print(load_signer(Path(sys.argv[1]))[0].key_id)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    seen = {run.communicate(timeout=60)[0] for run in runs}
    assert len(seen) == 1
    assert seen == {load_signer(tmp_path)[0].key_id + "\n"}


def test_a_key_that_others_can_read_is_refused(tmp_path):
    load_signer(tmp_path)
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(StorageError, match="chmod 600"):
        load_signer(tmp_path)


def _write(path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


def test_files_that_hold_no_such_key_are_refused(tmp_path):
    other = generate_private_key(SECP256R1())
    _write(tmp_path / "key.pem", other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(DossierError, match="Ed25519"):
        load_signer(tmp_path)
    _write(tmp_path / "key.pem", b"nonsense")
    with pytest.raises(DossierError, match="no key"):
        load_signer(tmp_path)
    _write(tmp_path / "draws.key", b"short")
    with pytest.raises(DossierError, match="32 bytes"):
        draw_key(tmp_path)
    public = other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for pem in (public, b"nonsense"):
        with pytest.raises(DossierError):
            key_id(pem)


# ------------------------------------------------------------------ receipts


def test_receipt_is_on_disk_with_its_time(tmp_path):
    before = instant()
    receipt = record_plan(tmp_path / "plans", policy_digest="p" * 64, plan={"probes": ["accuracy"]})
    assert not_after(before, receipt.recorded)
    assert not_after(receipt.recorded, instant())
    (path,) = (tmp_path / "plans").iterdir()
    assert json.loads(path.read_text())["policy_digest"] == "p" * 64
    assert record_plan(tmp_path / "plans", policy_digest="p" * 64).plan_digest == ""
    assert len(list((tmp_path / "plans").iterdir())) == 2


def test_the_same_plan_keeps_its_first_time(tmp_path):
    first = record_plan(tmp_path, policy_digest="p", plan=["a"])
    assert record_plan(tmp_path, policy_digest="p", plan=["a"]) == first
    assert record_plan(tmp_path, policy_digest="p", plan=["b"]) != first
    assert record_plan(tmp_path, policy_digest="q", plan=["a"]) != first


@pytest.mark.parametrize("damage", [b"{}", b"not json", b'{"policy_digest":"p","plan_digest":"","recorded":{}}'])
def test_a_damaged_receipt_is_told(tmp_path, damage):
    record_plan(tmp_path, policy_digest="p")
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    with pytest.raises(DossierError, match="not a receipt"):
        record_plan(tmp_path, policy_digest="p")


def test_a_receipt_of_another_plan_or_of_the_future_is_told(tmp_path):
    receipt = record_plan(tmp_path, policy_digest="p")
    (path,) = tmp_path.iterdir()
    for table in (
        {"policy_digest": "q", "plan_digest": "", "recorded": receipt.recorded},
        {"policy_digest": "p", "plan_digest": "", "recorded": receipt.recorded | {"boot_ns": 2**62, "wall_ns": 2**62}},
    ):
        path.write_text(json.dumps(table))
        with pytest.raises(DossierError, match="not the receipt"):
            record_plan(tmp_path, policy_digest="p")


def test_order_within_a_boot_does_not_depend_on_the_wall_clock():
    early = {"boot": "b", "boot_ns": 1, "wall_ns": 9}
    late = {"boot": "b", "boot_ns": 2, "wall_ns": 3}
    assert not_after(early, late)
    assert not not_after(late, early)
    assert not not_after(early, late | {"boot": "c"})
    assert not not_after(early | {"boot": ""}, late | {"boot": ""})
