"""One line of JSON a request: who asked what, when, and what became of it; never what was sent or answered."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.errors import Problem, ServeError
from assay.serve.worker import LOG

__all__ = ["RequestsLog"]


@dataclass(eq=False)
class RequestsLog:
    """Appends to a file of mode 0600, and opens it anew when it was moved away, as logrotate does.

    A line that the disk does not take is lost, which is warned of once until one is taken again: answers go on. Raises
    ServeError when the file cannot be opened at the start.
    """

    path: Path
    _file: int = field(default=-1, init=False)
    _is_lost: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        try:
            self._open()
        except OSError as error:
            what = f"requests cannot be logged in {self.path} ({error.strerror})"
            raise ServeError(Problem(what, "a file that may be written, and no link")) from error

    def __call__(self, entry: Mapping[str, Any]) -> None:
        """One line, with the time in UTC before what is told."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, **entry}, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        try:
            if self._is_moved():
                self.close()
                self._open()
            os.write(self._file, line)
            self._is_lost = False
        except OSError as error:
            if not self._is_lost:
                LOG.warning("requests are not logged in %s (%s)", self.path, error.strerror)
            self._is_lost = True

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _is_moved(self) -> bool:
        if self._file < 0:
            return True
        try:
            there, here = os.stat(self.path), os.fstat(self._file)
        except FileNotFoundError:
            return True
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev)
