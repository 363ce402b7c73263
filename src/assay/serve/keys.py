"""The one key of the service: made on first use, shown once, kept as a digest, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from assay.errors import Problem, ServeError
from assay.evidence.signing import home, owner_secret

__all__ = ["VARIABLE", "Key", "key_of", "load_key"]

VARIABLE = "ASSAY_SERVE_KEY"
_SHORTEST = 32  # characters of a key that an owner chose; ours carry 256 random bits
_LONGEST = 1024


@dataclass(frozen=True)
class Key:
    """SHA-256 of the key. Plain SHA-256 does: 256 random bits cannot be guessed, and a slow hash would be a weapon."""

    digest: bytes = field(repr=False)

    def accepts(self, given: list[bytes]) -> bool:
        """Whether the `Authorization` headers of a request are one, `Bearer` and this key. The same work for any."""
        header = given[0] if len(given) == 1 else b""
        scheme, _, token = header.partition(b" ")
        same = hmac.compare_digest(hashlib.sha256(token).digest(), self.digest)
        return same and scheme.lower() == b"bearer"


def key_of(text: str) -> Key:
    """The key with this text."""
    return Key(hashlib.sha256(text.encode()).digest())


def load_key(folder: Path | None = None) -> tuple[Key, str]:
    """The key in use, and its text if it was made just now (else ""): show it then, for it is not kept.

    `$ASSAY_SERVE_KEY` wins; else the digest in `serve.key` of the owner's folder, mode 0600, made when absent.
    Raises ServeError for a weak or damaged one, StorageError for a file that others may read.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        if not (_SHORTEST <= len(named) <= _LONGEST and named.isascii() and named.isprintable() and " " not in named):
            allowed = f"{_SHORTEST} to {_LONGEST} printable ASCII characters without spaces"
            raise ServeError(Problem(f"${VARIABLE} is no usable key", allowed, "Use: openssl rand -hex 32"))
        return key_of(named), ""
    text = secrets.token_urlsafe(32)
    path = (folder or home()) / "serve.key"
    data, created = owner_secret(path, lambda: key_of(text).digest.hex().encode() + b"\n")
    try:
        digest = bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise ServeError(Problem(f"{path} is damaged", "64 hexadecimal digits", "Remove it: a new key is made"))
    return Key(digest), text if created else ""
