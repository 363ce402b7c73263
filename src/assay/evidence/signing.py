"""Signatures over what a dossier says: Ed25519, DSSE envelope v1, in-toto Statement v1.

The envelope is stored as canonical JSON and nothing else is accepted, so that no bit of it is free to change.
The key is made on first use and stays with its owner; so does the secret that seeds the resampling draws.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from assay.digests import canonical
from assay.errors import DossierError, Problem, StorageError
from assay.storage import make_folder, read_regular, write_atomic, write_new

__all__ = [
    "PAYLOAD_TYPE",
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "Signer",
    "draw_key",
    "home",
    "key_id",
    "load_signer",
    "open_envelope",
    "owner_secret",
    "pae",
    "sign_statement",
    "statement",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:assay:measured-evidence:v1"  # fields: see schema/statement.v1.json
_MAX_BYTES = 64_000_000


@dataclass(frozen=True)
class Signer:
    """A private key in use. `key_id` is the SHA-256 of the 32 public bytes, in hex."""

    key_id: str
    public_pem: bytes
    key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, key: Ed25519PrivateKey) -> Signer:
        """The signer of a key."""
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return cls(key_id(pem), pem, key)


def home() -> Path:
    """The owner's folder: `$ASSAY_HOME`, else `~/.config/assay`."""
    named = os.environ.get("ASSAY_HOME", "")
    return Path(named).expanduser() if named else Path.home() / ".config" / "assay"


def load_signer(folder: Path | None = None) -> tuple[Signer, bool]:
    """The owner's signer from `key.pem`, and whether the key was made just now.

    Whoever has `key.pem` can sign as its owner: it is written with mode 0600, and one that others may read is refused.
    Raises StorageError, and DossierError when the file holds no Ed25519 key.
    """
    folder = folder or home()

    def new() -> bytes:
        return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    data, created = owner_secret(folder / "key.pem", new)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DossierError(Problem(f"{folder / 'key.pem'} holds no key", "PKCS8 PEM, Ed25519, no password")) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise DossierError(Problem(f"{folder / 'key.pem'} holds another kind of key", "Ed25519"))
    signer = Signer.of(key)
    public = folder / "key.pub"
    if not public.exists() or read_regular(public) != signer.public_pem:
        write_atomic(public, signer.public_pem)
    return signer, created


def draw_key(folder: Path | None = None) -> tuple[bytes, bool]:
    """The owner's 32-byte secret for resampling draws, and whether it was made just now; never published.

    Who knows it and enough published draws can recover the rows behind them. Raises StorageError, DossierError.
    """
    path = (folder or home()) / "draws.key"
    data, created = owner_secret(path, lambda: secrets.token_bytes(32))
    if len(data) != 32:
        raise DossierError(Problem(f"{path} has {len(data)} bytes", "32 bytes", "Restore it from a copy"))
    return data, created


def owner_secret(path: Path, new: Callable[[], bytes]) -> tuple[bytes, bool]:
    """The bytes of an owner's secret file, and whether `new` made them just now; refused when others may read it."""
    make_folder(path.parent, mode=0o700)
    created = False if path.exists() else write_new(path, new(), mode=0o600)
    data = read_regular(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise StorageError(Problem(f"{path} can be read by others (mode {mode:o})", "mode 600", f"chmod 600 {path}"))
    return data, created


def key_id(public_pem: bytes) -> str:
    """SHA-256 of the 32 public bytes of an Ed25519 key in PEM. Raises DossierError."""
    raw = _public(public_pem).public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def _public(public_pem: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(public_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DossierError(Problem("the public key cannot be read", "PEM, Ed25519")) from error
    if not isinstance(key, Ed25519PublicKey):
        raise DossierError(Problem("the public key is of another kind", "Ed25519"))
    return key


def pae(payload_type: str, payload: bytes) -> bytes:
    """Pre-authentication encoding: what DSSE signs (DSSE v1.0.2, protocol.md, "Signature Definition").

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def statement(subjects: Mapping[str, str], predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto Statement v1 about files: `subjects` maps names to SHA-256."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(predicate),
    }


def sign_statement(content: Mapping[str, Any], *, signer: Signer) -> bytes:
    """A signed DSSE envelope, as the bytes to store."""
    payload = canonical(content).encode()
    signature = signer.key.sign(pae(PAYLOAD_TYPE, payload))
    return _envelope(payload, signer.key_id, signature)


def _envelope(payload: bytes, keyid: str, signature: bytes) -> bytes:
    signatures = [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}]
    content = {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": signatures}
    return canonical(content).encode() + b"\n"


def open_envelope(data: bytes, *, public_pem: bytes) -> dict[str, Any]:
    """The statement in an envelope, after its signature was found good under `public_pem`.

    Only the one canonical form is accepted: other spellings of the same JSON or base64 are refused. One signature.
    Raises DossierError; nothing of the payload is parsed before the signature holds.
    """
    payload, keyid, signature = _parts(data)
    expected = key_id(public_pem)
    if keyid != expected:
        raise DossierError(
            Problem(f"the statement is signed by key {keyid[:16]}…", f"key {expected[:16]}…", "Ask for the right key")
        )
    try:
        _public(public_pem).verify(signature, pae(PAYLOAD_TYPE, payload))
    except InvalidSignature as error:
        raise DossierError(Problem("the signature does not hold: the statement was changed after signing")) from error
    content = json.loads(payload)
    if not isinstance(content, dict) or content.get("_type") != STATEMENT_TYPE:
        raise DossierError(Problem("the signed text is not an in-toto statement", STATEMENT_TYPE))
    if content.get("predicateType") != PREDICATE_TYPE:
        raise DossierError(Problem(f"the statement is about {content.get('predicateType')!r}", PREDICATE_TYPE))
    return content


def _parts(data: bytes) -> tuple[bytes, str, bytes]:
    if len(data) > _MAX_BYTES:
        raise DossierError(Problem(f"the signature file has {len(data)} bytes", f"at most {_MAX_BYTES}"))
    try:
        envelope = json.loads(data)
        (entry,) = envelope["signatures"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        keyid, signature = str(entry["keyid"]), base64.b64decode(entry["sig"], validate=True)
        same = _envelope(payload, keyid, signature) == data
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise DossierError(Problem("the signature file is damaged", "a DSSE envelope with one signature")) from error
    if not same:
        raise DossierError(
            Problem("the signature file is damaged or was rewritten", "the canonical form, byte by byte")
        )
    return payload, keyid, signature
