"""Encrypted files: every changed byte, cut, move and exchange is found, and the plaintext is nowhere on the disk."""

from __future__ import annotations

import hashlib
import os
import secrets
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.errors import StorageError
from assay.evidence.keys import key_place, weights_key
from assay.storage import encrypted as module
from assay.storage import write_atomic
from assay.storage.encrypted import HEADER, TAG, encrypted, is_encrypted, key_name, read_encrypted, rewrap

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


@pytest.fixture
def file(tmp_path):
    """Three chunks of 32 bytes and one of 5."""
    path = tmp_path / "file.enc"
    write_atomic(path, encrypted(bytes(range(101)), key=KEY, chunk=32))
    return path


def test_the_layout_is_what_the_module_says(file):
    """Opened by hand, from the description alone."""
    raw = file.read_bytes()
    assert len(raw) == 104 + 101 + 4 * 16
    own = AESGCM(KEY).decrypt(raw[44:56], raw[56:104], raw[:44])
    about = raw[:36]
    assert (raw[:8], int.from_bytes(raw[8:12], "big"), int.from_bytes(raw[12:20], "big")) == (b"ASSAYAE1", 32, 101)
    plain = b""
    for number, start in enumerate(range(104, len(raw), 48)):
        nonce, extra = number.to_bytes(12, "big"), about + number.to_bytes(8, "big")
        plain += AESGCM(own).decrypt(nonce, raw[start : start + 48], extra)
    assert plain == bytes(range(101))
    assert is_encrypted(file)


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 70), st.lists(st.integers(0, 300), max_size=4))
def test_what_goes_in_comes_out_in_whatever_pieces(tmp_path_factory, content, chunk, cuts):
    path = tmp_path_factory.mktemp("any") / "file"
    ends = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [content[start:end] for start, end in pairwise(ends)]
    raw = b"".join(encrypted(pieces, key=KEY, chunk=chunk))
    path.write_bytes(raw)
    assert read_encrypted(path, key=KEY, sha256=hashlib.sha256(raw).hexdigest()) == content
    assert len(raw) == HEADER + len(content) + TAG * -(-len(content) // chunk)


def test_every_changed_byte_is_found(file):
    raw = file.read_bytes()
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(StorageError):
            read_encrypted(file, key=KEY)


def chunks_of(raw):
    return [raw[start : start + 48] for start in range(HEADER, len(raw), 48)]


def test_cut_lengthened_moved_repeated_and_dropped_chunks_are_found(file):
    raw = file.read_bytes()
    head, (first, second, third, last) = raw[:HEADER], chunks_of(raw)
    shorter = head[:12] + (96).to_bytes(8, "big") + head[20:]  # a header that fits three whole chunks
    for forged in (
        raw[:-1], raw[: HEADER + 48], head, b"", raw + b"\0", raw + last,
        head + second + first + third + last, head + first + first + third + last, head + first + second + last,
        shorter + first + second + third,
    ):  # fmt: skip
        file.write_bytes(forged)
        with pytest.raises(StorageError):
            read_encrypted(file, key=KEY)


def test_a_chunk_or_a_header_of_another_file_is_found(file, tmp_path):
    """The same key, the same content, the same place: still another file."""
    raw, twin = file.read_bytes(), b"".join(encrypted(bytes(range(101)), key=KEY, chunk=32))
    assert raw[HEADER:] != twin[HEADER:]
    for forged in (raw[: HEADER + 48] + twin[HEADER + 48 :], twin[:HEADER] + raw[HEADER:], raw[:44] + twin[44:]):
        file.write_bytes(forged)
        with pytest.raises(StorageError):
            read_encrypted(file, key=KEY)
    swapped = tmp_path / "other.enc"
    swapped.write_bytes(twin)  # whole files that changed places hold; what names them tells them apart
    with pytest.raises(StorageError, match="was changed"):
        read_encrypted(swapped, key=KEY, sha256=hashlib.sha256(raw).hexdigest())


def test_another_key_says_so(file, tmp_path):
    with pytest.raises(StorageError, match=rf"encrypted with key {key_name(KEY).hex()}.*ASSAY_KEY_FILE"):
        read_encrypted(file, key=OTHER)
    with pytest.raises(StorageError, match="5 bytes"):
        read_encrypted(file, key=b"short")
    with pytest.raises(StorageError, match="up to 100"):
        read_encrypted(file, key=KEY, most=100)
    plain = tmp_path / "plain"
    plain.write_bytes(b"plain" * 50)
    assert not is_encrypted(plain)
    with pytest.raises(StorageError, match="not an encrypted file"):
        read_encrypted(plain, key=KEY)


def test_a_new_key_leaves_the_chunks_as_they_are(file):
    raw = file.read_bytes()
    digest = rewrap(file, file, old=KEY, new=OTHER)
    now = file.read_bytes()
    assert now[HEADER:] == raw[HEADER:]
    assert now[:36] == raw[:36]
    assert hashlib.sha256(now).hexdigest() == digest
    assert read_encrypted(file, key=OTHER, sha256=digest) == bytes(range(101))
    with pytest.raises(StorageError, match="encrypted with key"):
        read_encrypted(file, key=KEY)
    with pytest.raises(StorageError, match="encrypted with key"):
        rewrap(file, file, old=KEY, new=OTHER)
    assert file.read_bytes() == now


def test_nothing_larger_than_a_chunk_is_held_while_writing():
    """Pieces are asked for one by one, and no plaintext is in what comes out."""
    plain = secrets.token_bytes(1 << 20)
    longest, whole = 0, b""
    for piece in encrypted([plain[: 1 << 19], plain[1 << 19 :]], key=KEY):
        longest = max(longest, len(piece))
        whole += piece
    assert longest <= module.CHUNK + TAG
    assert all(plain[start : start + 16] not in whole for start in range(0, len(plain), 4096))


def test_where_the_key_comes_from(tmp_path, monkeypatch):
    monkeypatch.delenv("ASSAY_KEY", raising=False)
    monkeypatch.delenv("ASSAY_KEY_FILE", raising=False)
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    with pytest.raises(StorageError, match=r"there is no key in .*weights.key.*ASSAY_KEY_FILE"):
        weights_key()
    made = weights_key(is_made=True)
    assert (tmp_path / "home" / "weights.key").stat().st_mode & 0o777 == 0o600
    assert weights_key() == weights_key(is_made=True) == made
    assert key_place() == str(tmp_path / "home" / "weights.key")
    named = tmp_path / "key"
    monkeypatch.setenv("ASSAY_KEY_FILE", str(named))
    with pytest.raises(StorageError, match="does not exist"):
        weights_key(is_made=True)  # a named key is never made: it would be another one
    named.write_bytes(KEY)
    os.chmod(named, 0o644)
    with pytest.raises(StorageError, match="can be read by others"):
        weights_key()
    os.chmod(named, 0o600)
    assert weights_key() == KEY
    named.write_text("no key")
    with pytest.raises(StorageError, match="holds no key"):
        weights_key()
    monkeypatch.setenv("ASSAY_KEY", "a passphrase of 32 characters !!")
    with pytest.raises(StorageError, match="64 hexadecimal digits"):
        weights_key()
    monkeypatch.setenv("ASSAY_KEY", OTHER.hex())
    assert weights_key() == OTHER
    assert key_place() == "$ASSAY_KEY"
