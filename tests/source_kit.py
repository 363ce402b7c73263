"""Tiny data sources for tests: packages made in memory, clients that copy a file, no network."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

from assay.data.sources.cache import path_of
from assay.data.sources.source import Kept, Mirror, Package, Source


def sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def tar_of(files: dict[str, bytes], *, compress: str = "gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compress}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def deb_of(files: dict[str, bytes]) -> bytes:
    """A Debian package as ar(5) has it: heads of 60 bytes, members at even places."""
    out = b"!<arch>\n"
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar_of(files, compress="xz")}
    for name, content in members.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += head + content + (b"\n" if len(content) % 2 else b"")
    return out


def small_source(files: dict[str, bytes], *, mirrors: tuple[Mirror, ...] = ()) -> tuple[Source, bytes]:
    """An npm source that keeps every file of a package, and the package."""
    raw = tar_of({f"package/{name}": content for name, content in files.items()})
    package = Package("npm", "tiny", "1.0.0", "tiny-1.0.0.tgz", sha(raw), len(raw))
    kept = tuple(Kept(name, f"!package/{name}", sha(content), len(content)) for name, content in files.items())
    source = Source("tiny", package, kept, "https://example.org", "MIT", "nobody", mirrors, "it is a test")
    return source, raw


def fake_client(folder: Path, gives: bytes | None, *, name: str = "npm", file: str = "tiny-1.0.0.tgz") -> Path:
    """A program of this name that saves `gives` where npm would; None: it fails. It notes every call in `calls`."""
    folder.mkdir(exist_ok=True)
    (folder / "gives").write_bytes(gives or b"")
    save = f'cp "{folder}/gives" "$5/{file}"' if gives is not None else "echo 'npm error code ENOTFOUND' >&2; exit 1"
    program = folder / name
    program.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/calls"\n{save}\n')
    program.chmod(0o755)
    return folder


def path_with(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def with_files(source: Source, files: dict[str, bytes]) -> Source:
    """The same source, but with these small files in the cache, pinned by their own digests."""
    kept = []
    for one in source.kept:
        content = files[one.name]
        path = path_of(source, one.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        kept.append(dataclasses.replace(one, sha256=sha(content), num_bytes=len(content)))
    return dataclasses.replace(source, kept=tuple(kept))


class Answer(io.BytesIO):
    """What urlopen gives: bytes and a status."""

    def __init__(self, body: bytes, status: int) -> None:
        super().__init__(body)
        self.status = status


def gunzip_of(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)
