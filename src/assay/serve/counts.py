"""Rows that each key has asked of a system with a limit: reserved before they are run, and kept across restarts."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from pathlib import Path

from assay.digests import canonical
from assay.errors import Problem, ServeError, StorageError
from assay.evidence.signing import home
from assay.evidence.strict_json import loads
from assay.models.query_limit import QueryLimit
from assay.serve.refusals import Refusal
from assay.serve.worker import LOG
from assay.storage import make_folder, read_regular, write_atomic, write_new

__all__ = ["Count", "Counts", "open_counts"]

FORMAT = 1
DAY = 86_400
AHEAD = 100  # the file is ahead by up to 1/AHEAD of the limit, so that not every request waits for the disk
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass
class Count:
    """Rows that one key asked: today and in all. The file says `ahead` more of both: what a crash would add."""

    day: int  # days of UTC since 1970
    today: int = 0
    total: int = 0
    ahead: int = 0


@dataclass(eq=False)
class Counts:
    """Counts of one model by the digest of the key; of the event loop only, so that no two requests meet within one.

    What is reserved before the model runs is given back only when no answer came of it. Limits: one process a model and
    owner's folder (a lock sees to it); other machines count for themselves; whoever can write the folder can change it.
    """

    limit: QueryLimit
    model_digest: str
    path: Path
    clock: Callable[[], float]
    by_key: dict[str, Count] = field(repr=False)
    lock: int = field(repr=False)  # an open file: the kernel drops it when the process ends, however it ends

    def left(self, key: str) -> int:
        """Rows that this key may still ask, today or for good."""
        count = self._today(key)
        return max(0, self.limit.rows - (count.today if self.limit.per == "day" else count.total))

    def told(self, key: str) -> dict[str, int | str]:
        """The limit and what is left of it, for the card."""
        return {"rows": self.limit.rows, "per": self.limit.per, "left": self.left(key)}

    @contextmanager
    def asking(self, key: str, num: int) -> Iterator[None]:
        """Count `num` rows, and give them back when the block raises. Raises Refusal 429, or 503 where it cannot count.

        All or nothing: of a request that goes beyond the limit no row is answered, and none is counted.
        """
        count = self._reserve(key, num)
        day = count.day
        try:
            yield
        except BaseException:
            count.total -= num
            if count.day == day:
                count.today, count.ahead = count.today - num, count.ahead + num
            raise

    def close(self) -> None:
        """Write what was asked, nothing ahead, and let another process count. Where it cannot, the file says more."""
        with suppress(OSError):
            for count in self.by_key.values():
                count.ahead = 0
            try:
                self._write()
            except StorageError as error:
                LOG.warning("the counts stay ahead: %s", error.problems[0].what)
            lock, self.lock = self.lock, -1
            os.close(lock)

    def _today(self, key: str) -> Count:
        """A day that lies after today stays: a clock that was set back gives nobody more rows."""
        day = int(self.clock() // DAY)
        count = self.by_key.get(key, Count(day))
        return count if day <= count.day else Count(day, 0, count.total, 0)

    def _reserve(self, key: str, num: int) -> Count:
        left, count = self.left(key), self._today(key)
        if num > left:
            raise self._refusal(count, num, left)
        before, self.by_key[key] = self.by_key.get(key), count
        if num > count.ahead:
            ahead, count.ahead = count.ahead, min(num + self.limit.rows // AHEAD, left)
            try:
                self._write()
            except StorageError as error:
                count.ahead = ahead
                self.by_key[key] = before or Count(count.day)
                LOG.error("rows cannot be counted: %s", error.problems[0].what)
                problem = Problem("the rows asked cannot be counted now", next="Tell the owner of the service")
                raise Refusal(503, "count", problem, {"retry-after": "60"}) from error
        count.today, count.total, count.ahead = count.today + num, count.total + num, count.ahead - num
        return count

    def _refusal(self, count: Count, num: int, left: int) -> Refusal:
        is_daily = self.limit.per == "day"
        what = f"this request counts as {num:,} rows, and this key may ask {left:,} more" + " today" * is_daily
        allowed = f"{self.limit.rows:,} rows {'a day' if is_daily else 'in all'}"
        following, headers = "Never with this key: ask the owner of the service for another", {}
        if is_daily and num <= self.limit.rows:
            again = (count.day + 1) * DAY
            following = f"Ask again from {datetime.fromtimestamp(again, UTC):%Y-%m-%dT%H:%M:%SZ}"
            headers = {"retry-after": str(max(1, ceil(again - self.clock())))}
        elif is_daily:
            following = f"Send at most {self.limit.rows:,} rows a day"
        if left > 0:
            following += f"; or ask {left:,} rows now"
        return Refusal(429, "query-limit", Problem(what, allowed, following), headers)

    def _write(self) -> None:
        keys = {key: [one.day, one.today + one.ahead, one.total + one.ahead] for key, one in self.by_key.items()}
        write_atomic(self.path, _written(self.model_digest, keys), mode=0o600)


def open_counts(
    limit: QueryLimit,
    model_digest: str,
    *,
    folder: Path | None = None,
    is_new: bool = False,
    clock: Callable[[], float] = time.time,
) -> Counts:
    """The counts of a model, in `asked` of the owner's folder, held by this process until `close`.

    They are of the model, not of the dossier: another limit or a new audit forgets nothing. Counts that are missing or
    damaged are refused, since zero would be a guess; `is_new` begins them, once. Raises ServeError for those, for
    counts that another process holds, and for `is_new` where there are counts; StorageError for a folder.
    """
    if not _DIGEST.fullmatch(model_digest):
        raise ServeError(Problem("the model has no digest to count by", "64 hexadecimal digits"))
    folder = (folder or home()) / "asked"
    make_folder(folder, mode=0o700)
    path = folder / f"{model_digest}.json"
    lock = _locked(path.with_suffix(".lock"))
    try:
        if is_new and not write_new(path, _written(model_digest, {}), mode=0o600):
            raise ServeError(Problem(f"{path} counts already", next="Start without --new-counts: it goes on counting"))
        if not path.exists():
            what = f"{path} is missing: how many rows each key has asked of this model is not known"
            following = "Restore it from a copy, or, if nobody was served this model before, start with --new-counts"
            raise ServeError(Problem(what, "the counts of this model", following))
        return Counts(limit, model_digest, path, clock, _read(path, model_digest), lock)
    except BaseException:
        os.close(lock)
        raise


def _locked(path: Path) -> int:
    """An open file with the lock. Raises ServeError when another process has it, or it cannot be had."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ServeError(Problem(f"{path} cannot be opened ({error.strerror})", next="Look at its folder")) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        what = f"{path} is locked: another process counts the rows of this model"
        raise ServeError(Problem(what, "one process a model and owner's folder", "Stop the other one")) from error
    return lock


def _written(model_digest: str, keys: dict[str, list[int]]) -> bytes:
    """One line of JSON, and one with its SHA-256: a changed digit is seen."""
    line = canonical({"format": FORMAT, "model": model_digest, "keys": keys}).encode()
    return line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n"


def _read(path: Path, model_digest: str) -> dict[str, Count]:
    line, _, digest = read_regular(path).partition(b"\n")
    try:
        if digest != hashlib.sha256(line).hexdigest().encode() + b"\n":
            raise ValueError("its SHA-256 is another")
        found = loads(line)
        if (found["format"], found["model"]) != (FORMAT, model_digest):
            raise ValueError("it is of another model or version")
        return {key: Count(*map(_whole, numbers)) for key, numbers in found["keys"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        following = "Restore it from a copy; removing it and starting with --new-counts forgets what was asked"
        raise ServeError(Problem(f"{path} is damaged ({error})", "counts as they were written", following)) from error


def _whole(number: object) -> int:
    if type(number) is not int or number < 0:
        raise ValueError("a count is no whole number")
    return number
