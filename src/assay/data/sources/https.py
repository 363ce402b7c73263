"""One file by https, resumed where it was cut off, verified before it is used."""

from __future__ import annotations

import hashlib
import hmac
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from assay.data.sources.source import Mirror
from assay.errors import DataError, Problem
from assay.values import Progress

TIMEOUT = 60  # seconds without an answer
CHUNK = 1 << 18  # bytes
_TRIES = 4


def download(mirror: Mirror, part: Path, progress: Progress) -> bytes:
    """The file at `mirror.url`; what has arrived stays in `part` until it is whole. Raises DataError."""
    if not mirror.url.startswith("https://"):
        raise DataError(Problem(f"{mirror.url} is not an https address", "https://"))
    reason = ""
    for _ in range(_TRIES):
        try:
            _continue(mirror, part, progress)
        except (OSError, urllib.error.URLError) as error:  # HTTP errors, time-outs, cut connections
            reason = str(error)
            continue
        raw = part.read_bytes()
        part.unlink()
        found = hashlib.sha256(raw).hexdigest()
        if not hmac.compare_digest(found, mirror.sha256):
            what = f"{mirror.url} gives {len(raw)} bytes with SHA-256 {found}"
            raise DataError(Problem(what, f"{mirror.num_bytes} bytes, SHA-256 {mirror.sha256}", "It was not opened"))
        return raw
    raise DataError(Problem(f"{mirror.url} cannot be fetched: {reason}", next="Look at the network, and run it again"))


def _continue(mirror: Mirror, part: Path, progress: Progress) -> None:
    """Append what is missing; a server that does not resume gives it all, and then the part starts anew."""
    start = part.stat().st_size if part.exists() else 0
    if start >= mirror.num_bytes:
        start = 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    request = urllib.request.Request(mirror.url, headers=headers)  # noqa: S310 (https only, see `download`)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
        is_resumed = answer.status == 206
        with part.open("ab" if is_resumed else "wb") as file:
            _copy(answer, file, mirror, (start if is_resumed else 0, progress))
    if part.stat().st_size < mirror.num_bytes:
        raise OSError(f"{part.stat().st_size} of {mirror.num_bytes} bytes arrived")


def _copy(answer: Any, file: Any, mirror: Mirror, state: tuple[int, Progress]) -> None:
    done, progress = state
    name = mirror.url.rsplit("/", 1)[-1]
    while chunk := answer.read(CHUNK):
        done += len(chunk)
        if done > mirror.num_bytes:
            Path(file.name).unlink()
            what = f"{mirror.url} gives more than {mirror.num_bytes} bytes"
            raise DataError(Problem(what, f"{mirror.num_bytes} bytes, SHA-256 {mirror.sha256}", "It was not opened"))
        file.write(chunk)
        progress(f"fetching {name} (kB)", done // 1000, max(1, mirror.num_bytes // 1000))
    file.flush()
