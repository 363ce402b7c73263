"""Reading archives member by member: only what is asked for, never onto the disk, never more than was declared.

Nothing is unpacked into a folder, so a member's name cannot lead anywhere; a name that tries is refused all the same.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any

from assay.errors import DataError, Problem

MAX_UNPACKED = 1 << 30  # bytes that one archive may unpack to
MAX_MEMBERS = 100_000
_AR, _MEMBER = b"!<arch>\n", 60  # the format of .deb files: ar(5)
_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, RuntimeError)
Member = tuple[str, int, Callable[[], bytes]]  # name, size as declared, how to read it


def extract(raw: bytes, paths: Sequence[str]) -> dict[str, bytes]:
    """The bytes at each path (see `Kept.path`); each archive on the way is read once. Raises DataError.

    >>> extract(gzip.compress(b"text"), ["!", ""])["!"]
    b'text'
    """
    found: dict[str, bytes] = {path: raw for path in paths if not path}
    inner: dict[str, list[str]] = {}
    for path in paths:
        if path:
            name, mark, rest = path[1:].partition("!")
            inner.setdefault(name, []).append(mark + rest)
    opened = {"": _gunzip(raw)} if "" in inner else {}
    opened |= _members(raw, [name for name in inner if name])
    for name, rests in inner.items():
        taken = extract(opened[name], rests)
        found |= {f"!{name}{rest}": taken[rest] for rest in rests}
    return found


def pack(files: Mapping[str, bytes]) -> bytes:
    r"""Many files as one: a line of JSON with names and lengths in order, then the files. The same bytes everywhere.

    >>> pack({"b": b"2", "a": b"1"})
    b'[["a",1],["b",1]]\n12'
    """
    names = sorted(files)
    head = json.dumps([[name, len(files[name])] for name in names], separators=(",", ":"), ensure_ascii=False)
    return b"".join([head.encode(), b"\n", *(files[name] for name in names)])


def unpack(raw: bytes) -> dict[str, bytes]:
    """The files that `pack` packed; its digest was verified before."""
    head, _, body = raw.partition(b"\n")
    files, start = {}, 0
    for name, length in json.loads(head):
        files[name] = body[start : start + length]
        start += length
    return files


def _members(raw: bytes, names: list[str]) -> dict[str, bytes]:
    """Members by name; a name with "*" gives a pack of all that match, named from the first "*" on.

    All that are missing are named at once.
    """
    found: dict[str, bytes] = {}
    many: dict[str, dict[str, bytes]] = {name: {} for name in names if "*" in name}
    single = {name for name in names if "*" not in name}
    if not names:
        return found
    try:
        for path, size, read in _walk(raw):
            _check_path(path)
            hits = [name for name in many if fnmatchcase(path, name)]
            if path in single or hits:
                content = _checked(path, size, read)
                if path in single:
                    found[path] = content
                for name in hits:
                    many[name][path[name.index("*") :]] = content
    except _FAULTS as error:
        raise DataError(Problem(f"an archive cannot be read: {error}", next="Fetch it again")) from error
    missing = sorted((single - set(found)) | {name for name, files in many.items() if not files})
    if missing:
        raise DataError(Problem(f"the archive has no {', '.join(missing)}", next="Its layout changed: fetch it again"))
    return found | {name: pack(files) for name, files in many.items()}


def _check_path(path: str) -> None:
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(Problem(f"an archive has a member outside of itself: {path!r}", "paths below its own top"))


def _checked(path: str, size: int, read: Callable[[], bytes]) -> bytes:
    if size > MAX_UNPACKED:
        raise DataError(Problem(f"{path} says it has {size} bytes", f"{MAX_UNPACKED} at most"))
    content = read()
    if len(content) != size:
        raise DataError(Problem(f"{path} has {len(content)} bytes", f"{size}, as the archive says"))
    return content


def _walk(raw: bytes) -> Iterator[Member]:
    """The regular files of a zip, a tar (plain, gz, xz, bz2) or a .deb."""
    if raw[:4] == b"PK\x03\x04":
        yield from _walk_zip(raw)
    elif raw.startswith(_AR):
        yield from _walk_tar(_data_of_deb(raw))
    else:
        yield from _walk_tar(raw)


def _walk_zip(raw: bytes) -> Iterator[Member]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for number, one in enumerate(archive.infolist()):
            _check_count(number)
            if not one.is_dir():
                yield one.filename, one.file_size, partial(_zip_read, archive, one)


def _zip_read(archive: zipfile.ZipFile, one: zipfile.ZipInfo) -> bytes:
    with archive.open(one) as file:
        return file.read(one.file_size + 1)  # a member longer than it says is noticed by the caller


def _walk_tar(raw: bytes) -> Iterator[Member]:
    """A stream, front to back: members may be links or devices, which are left out."""
    with tarfile.open(fileobj=_Limited(_decompressed(raw)), mode="r|") as archive:
        for number, one in enumerate(archive):
            _check_count(number)
            if one.isfile():
                yield one.name.removeprefix("./"), one.size, partial(_tar_read, archive, one)


def _tar_read(archive: tarfile.TarFile, one: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(one)
    return b"" if file is None else file.read(one.size + 1)


def _check_count(number: int) -> None:
    if number >= MAX_MEMBERS:
        raise DataError(Problem(f"an archive has more than {MAX_MEMBERS} members", f"{MAX_MEMBERS} at most"))


def _data_of_deb(raw: bytes) -> bytes:
    """The member data.tar.* of a Debian package (ar(5): 60-byte heads, the size in bytes 48 to 58, even starts)."""
    start = len(_AR)
    while start + _MEMBER <= len(raw):
        head = raw[start : start + _MEMBER]
        name, size = head[:16].decode("ascii", "replace").strip().rstrip("/"), head[48:58].strip()
        if not size.isdigit():
            break
        start += _MEMBER
        if name.startswith("data.tar"):
            return raw[start : start + int(size)]
        start += int(size) + int(size) % 2
    raise DataError(Problem("a Debian package has no data.tar", next="Fetch it again"))


def _decompressed(raw: bytes) -> IO[bytes]:
    opener: Any = io.BytesIO
    for magic, of_format in ((b"\x1f\x8b", gzip.open), (b"\xfd7zXZ\x00", lzma.open), (b"BZh", bz2.open)):
        if raw.startswith(magic):
            opener = of_format
    if raw.startswith(b"\x28\xb5\x2f\xfd"):
        raise DataError(Problem("an archive is compressed with zstd", "gzip, xz or bzip2"))
    stream: IO[bytes] = io.BytesIO(raw) if opener is io.BytesIO else opener(io.BytesIO(raw))
    return stream


class _Limited(io.RawIOBase):
    """A stream that gives no more than `MAX_UNPACKED` bytes: an archive that unpacks to more is a trap."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, MAX_UNPACKED

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(self.left + 1 if size < 0 else min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise DataError(Problem(f"an archive unpacks to more than {MAX_UNPACKED} bytes", f"{MAX_UNPACKED} at most"))
        return data


def _gunzip(raw: bytes) -> bytes:
    try:
        return _Limited(_decompressed(raw)).read()
    except _FAULTS as error:
        raise DataError(Problem(f"gzipped bytes cannot be read: {error}", next="Fetch them again")) from error
