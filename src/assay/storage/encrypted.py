"""Files that only the owner of a key can read: AES-256-GCM in chunks, a key of its own for every file.

Layout: a header of 104 bytes, then the chunks of ciphertext, each followed by its tag of 16 bytes. The header holds
the size of chunks and of the plaintext, a random id of the file, the id of the owner's key, and the file's own key,
encrypted by the owner's. The nonce of a chunk is its number: no file key ever serves twice. Number, id of the file and
size are authenticated with each chunk, so that none can be moved, cut off, or come from another file. To change the
owner's key, only the header is written anew.

Source: NIST SP 800-38D (GCM, and section 8.2.1 on counters as nonces); Rogaway 2004 and the STREAM construction of
Hoang et al. 2015 for chunks.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from assay.errors import Problem, StorageError
from assay.storage import Content, opened_regular, write_atomic

__all__ = ["CHUNK", "CIPHER", "encrypted", "is_encrypted", "key_name", "read_encrypted", "rewrap"]

CIPHER = "AES-256-GCM"
CHUNK = 1 << 16  # bytes
KEY_BYTES, TAG = 32, 16
_MAGIC = b"ASSAYAE1"
_FIXED = struct.Struct(">8sIQ16s8s")  # magic, bytes a chunk, bytes of the plaintext, id of the file, id of the key
_WRAPPED = struct.Struct(f">12s{KEY_BYTES + TAG}s")  # nonce, the file's key under the owner's
HEADER = _FIXED.size + _WRAPPED.size
_LARGEST_CHUNK = 1 << 24
_DAMAGED = "Restore it from a copy"


def key_name(key: bytes) -> bytes:
    """Eight bytes that tell keys apart and nothing about them. Raises StorageError for a key of another length."""
    if len(key) != KEY_BYTES:
        raise StorageError(Problem(f"the key has {len(key)} bytes", f"{KEY_BYTES} bytes"))
    return hashlib.sha256(b"assay key for weights\0" + key).digest()[:8]


def encrypted(content: Content, *, key: bytes, chunk: int = CHUNK) -> Iterator[bytes]:
    """The pieces of an encrypted file, header first; nothing larger than a chunk is held. Raises StorageError.

    >>> pieces = list(encrypted(b"secret", key=bytes(32)))
    >>> len(pieces), len(pieces[0]), len(pieces[1])
    (2, 104, 22)
    """
    pieces = [content] if isinstance(content, bytes) else list(content)
    size, own, name = sum(memoryview(piece).nbytes for piece in pieces), secrets.token_bytes(KEY_BYTES), key_name(key)
    fixed = _FIXED.pack(_MAGIC, chunk, size, secrets.token_bytes(16), name)
    yield fixed + _wrap(own, key, fixed)
    cipher = AESGCM(own)
    for number, plain in enumerate(_chunks(pieces, chunk)):
        yield cipher.encrypt(_nonce(number), plain, _about(fixed, number))


def read_encrypted(path: Path, *, key: bytes, sha256: str | None = None, most: int | None = None) -> bytearray:
    """The plaintext of a file, only if every byte of it is as it was written; one chunk beside it in memory.

    `sha256`, where given, is of the encrypted file, and is compared before anything is returned; a plaintext of more
    than `most` bytes is not read at all. Raises StorageError for another key, a changed, cut, lengthened or exchanged
    file, and one that is not encrypted.
    """
    path = Path(path)
    with opened_regular(path) as file:
        header = file.read(HEADER)
        total = hashlib.sha256(header)
        chunk, size, fixed = _sizes(path, header, os.fstat(file.fileno()).st_size)
        if most is not None and size > most:
            raise StorageError(Problem(f"{path} holds {size:,} bytes", f"up to {most:,}", _DAMAGED))
        cipher, found = AESGCM(_unwrap(path, header, key)), bytearray(size)
        for number, start in enumerate(range(0, size, chunk)):
            told = file.read(min(chunk, size - start) + TAG)
            if sha256 is not None:
                total.update(told)
            try:
                plain = cipher.decrypt(_nonce(number), told, _about(fixed, number))
            except InvalidTag as error:
                what = f"{path} is damaged or was changed: chunk {number} does not hold"
                raise StorageError(Problem(what, next=_DAMAGED)) from error
            found[start : start + len(plain)] = plain
    if sha256 is not None and not hmac.compare_digest(total.hexdigest(), sha256):
        what = f"{path} is damaged or was changed"
        raise StorageError(Problem(what, f"SHA-256 {sha256}, not {total.hexdigest()}", _DAMAGED))
    return found


def is_encrypted(path: Path) -> bool:
    """Whether a file begins as one of these. Raises StorageError when it cannot be read."""
    with opened_regular(Path(path)) as file:
        return file.read(len(_MAGIC)) == _MAGIC


def rewrap(path: Path, target: Path, *, old: bytes, new: bytes) -> str:
    """Write a file under a new owner's key to `target` (or onto itself), at once or not at all; its new SHA-256.

    The chunks stay as they are, byte for byte. Raises StorageError for a file that `old` does not open.
    """
    path, total = Path(path), hashlib.sha256()
    with opened_regular(path) as file:
        status = os.fstat(file.fileno())
        header = file.read(HEADER)
        _sizes(path, header, status.st_size)
        own = _unwrap(path, header, old)
        fixed = header[: _FIXED.size - 8] + key_name(new)
        pieces = _hashed(_then(fixed + _wrap(own, new, fixed), file), total)
        write_atomic(target, pieces, mode=stat.S_IMODE(status.st_mode))
    return total.hexdigest()


def _hashed(pieces: Iterable[bytes], total: hashlib._Hash) -> Iterator[bytes]:
    for piece in pieces:
        total.update(piece)
        yield piece


def _then(header: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield header
    while piece := file.read(1 << 20):
        yield piece


def _chunks(pieces: Iterable[bytes | memoryview], chunk: int) -> Iterator[bytes]:
    """The same bytes in pieces of `chunk`, the last one shorter."""
    rest = b""
    for piece in pieces:
        view = memoryview(piece).cast("B")
        if rest:
            taken = chunk - len(rest)
            rest, view = rest + bytes(view[:taken]), view[taken:]
            if len(rest) < chunk:
                continue
            yield rest
        end = len(view) - len(view) % chunk
        for start in range(0, end, chunk):
            yield bytes(view[start : start + chunk])
        rest = bytes(view[end:])
    if rest:
        yield rest


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _about(fixed: bytes, number: int) -> bytes:
    """What is authenticated with a chunk: sizes and id of the file (not the owner's key), and its number."""
    return fixed[: _FIXED.size - 8] + number.to_bytes(8, "big")


def _wrap(own: bytes, key: bytes, fixed: bytes) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + AESGCM(key).encrypt(nonce, own, fixed)


def _unwrap(path: Path, header: bytes, key: bytes) -> bytes:
    fixed, name = header[: _FIXED.size], key_name(key)
    if not hmac.compare_digest(fixed[-8:], name):
        what = f"{path} is encrypted with key {fixed[-8:].hex()}, and the key given is {name.hex()}"
        raise StorageError(Problem(what, next="Name the file of the right key in $ASSAY_KEY_FILE"))
    nonce, wrapped = _WRAPPED.unpack(header[_FIXED.size :])
    try:
        return AESGCM(key).decrypt(nonce, wrapped, fixed)
    except InvalidTag as error:
        raise StorageError(
            Problem(f"{path} is damaged or was changed: its header does not hold", next=_DAMAGED)
        ) from error


def _sizes(path: Path, header: bytes, length: int) -> tuple[int, int, bytes]:
    """Bytes a chunk and of the plaintext, and the header without the keys; the file must be as long as they say."""
    if len(header) < HEADER or not header.startswith(_MAGIC):
        raise StorageError(Problem(f"{path} is not an encrypted file", "one that assay encrypted"))
    _, chunk, size, _, _ = _FIXED.unpack(header[: _FIXED.size])
    expected = HEADER + size + TAG * -(-size // chunk) if 0 < chunk <= _LARGEST_CHUNK else -1
    if length != expected:
        what = f"{path} is damaged or was cut: it has {length:,} bytes, and its header says {expected:,}"
        raise StorageError(Problem(what, next=_DAMAGED))
    return chunk, size, header[: _FIXED.size]
