"""The owner's key for weights at rest: from a file, from the environment, or made on first use."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from assay.errors import Problem, StorageError
from assay.evidence.signing import home, owner_secret
from assay.storage.encrypted import KEY_BYTES

__all__ = ["KEY_FILE", "KEY_TEXT", "key_place", "weights_key"]

KEY_FILE, KEY_TEXT = "ASSAY_KEY_FILE", "ASSAY_KEY"
_DIGITS = f"{2 * KEY_BYTES} hexadecimal digits"
_ALLOWED = f"{KEY_BYTES} bytes, or {_DIGITS}"
_MAKE = "Make one with: openssl rand -hex 32 > key.hex; chmod 600 key.hex"


def weights_key(folder: Path | None = None, *, is_made: bool = False) -> bytes:
    """The 32 bytes that encrypt the keys of files.

    `$ASSAY_KEY` (hexadecimal digits, as a key service or a secret store puts them into the environment) wins, then the
    file named in `$ASSAY_KEY_FILE`, then `weights.key` in the owner's folder, which is made when absent and `is_made`.
    Whoever loses the key has lost the weights. Raises StorageError for a key that is missing, of another length, or in
    a file that others may read.
    """
    text, named = os.environ.get(KEY_TEXT), os.environ.get(KEY_FILE, "")
    if text is not None:
        return _from_text(text.encode(), f"${KEY_TEXT}", _DIGITS)
    path = _path(folder)
    if not path.exists() and (named or not is_made):
        what = f"${KEY_FILE} names {path}, which does not exist" if named else f"there is no key in {path}"
        following = f"Put it back from a copy, or name it in ${KEY_FILE}" if not named else _MAKE
        raise StorageError(Problem(f"weights are encrypted, and {what}", _ALLOWED, following))
    data, _ = owner_secret(path, lambda: secrets.token_hex(KEY_BYTES).encode() + b"\n")
    return data if len(data) == KEY_BYTES else _from_text(data, str(path), _ALLOWED)


def key_place() -> str:
    """Where `weights_key` takes the key from, for people."""
    return f"${KEY_TEXT}" if KEY_TEXT in os.environ else str(_path(None))


def _path(folder: Path | None) -> Path:
    named = os.environ.get(KEY_FILE, "")
    return Path(named).expanduser() if named else (folder or home()) / "weights.key"


def _from_text(data: bytes, where: str, allowed: str) -> bytes:
    try:
        found = bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        found = b""
    if len(found) != KEY_BYTES:  # no passphrases: what a person makes up can be guessed
        raise StorageError(Problem(f"{where} holds no key", allowed, _MAKE))
    return found
