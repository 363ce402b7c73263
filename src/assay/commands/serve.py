"""`assay serve`: a system that passed, behind a key, until it is told to stop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from assay.commands.console import Console
from assay.errors import MissingExtraError, Problem, ServeError

if TYPE_CHECKING:
    from assay.serve.admission import Served
    from assay.serve.keys import Key

GRACE_SECONDS = 10.0


def run(
    dossier: Path,
    where: tuple[str, int],
    allow: tuple[bool, bool],
    console: Console,
    new_counts: bool = False,
    watched: tuple[int, Path | None] = (1000, None),
) -> None:
    """Verify, load, listen. Exit 0 after a stop that answered everything accepted, 1 after one that could not."""
    try:
        from assay.serve.routes import build
        from assay.serve.server import Stop, listen, serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".", maxsplit=1)[0] not in ("starlette", "uvicorn", "h11", "anyio"):
            raise
        raise MissingExtraError("starlette and uvicorn", "serve") from error
    from assay.serve.admission import admit
    from assay.serve.counts import open_counts
    from assay.serve.monitor import Monitor
    from assay.serve.requests_log import RequestsLog
    from assay.serve.worker import Worker

    host, port = where
    allow_failed, allow_unsigned = allow
    served = admit(dossier, allow_failed=allow_failed, allow_unsigned=allow_unsigned)
    limit = served.limit
    if limit is None and new_counts:
        what = f"{served.name} has no limit of rows a key, so nothing is counted"
        raise ServeError(Problem(what, next="Start without --new-counts, or apply limit_queries and audit it"))
    key = _key(host, console)
    worker = Worker(served.answer)
    opened = None if limit is None else open_counts(limit, served.model.digest, is_new=new_counts)
    with _dated_log(), nullcontext() if opened is None else closing(opened), listen(host, port) as sock:
        monitor = Monitor(served.columns_told, served.reference, served.task.classes, watched[0])
        gate, _ = build(served, worker, key, opened, monitor)
        gate.log = None if watched[1] is None else RequestsLog(watched[1])
        _announce(served, console)
        shown = f"[{host}]" if ":" in host else host
        console.say(f"serving {served.name} on http://{shown}:{sock.getsockname()[1]} (evidence {served.evidence_id})")
        sys.stdout.flush()
        is_whole = serve(gate, worker, sock, stop=Stop(GRACE_SECONDS))
    state = gate.state
    console.say(f"stopped: {state.accepted} requests accepted, {state.answered} answered")
    console.finish({"accepted": state.accepted, "answered": state.answered}, code=0 if is_whole else 1)


def _key(host: str, console: Console) -> Key:
    """The key in use, shown when it was made just now; a host that others reach must have had one before."""
    from assay.serve.keys import VARIABLE, load_key
    from assay.serve.server import is_loopback

    key, made = load_key()
    if made:
        console.say(f"key (shown once, kept only as a digest): {made}")
    if not is_loopback(host):
        if made:
            what = f"{host} can be reached by others, and the key was made only now"
            raise ServeError(Problem(what, f"127.0.0.1, or a key in ${VARIABLE}", "Note the key, and start it again"))
        console.say(f"{host} can be reached by others: put a proxy with TLS in front, or the key can be read")
    return key


def _announce(served: Served, console: Console) -> None:
    """What an owner should know before the first request."""
    from assay.serve.admission import TRUSTED

    if served.limit is not None:
        console.say(f"each key may ask {served.limit.rows:,} rows {'a day' if served.limit.per == 'day' else 'in all'}")
    for warning in served.warnings:
        console.say(f"warning: {warning}")
    if served.reference is None:
        console.say(
            "drift is not watched: an older dossier, or one of fewer than 100 test rows, has nothing to compare with"
        )
    if not served.is_pinned:
        console.say(f"the signer is not pinned: name the key you trust in ${TRUSTED} (a PEM file)")


@contextmanager
def _dated_log() -> Iterator[None]:
    """What the service logs goes to stderr with its time, in UTC, until it ends."""
    log, handler = logging.getLogger("assay.serve"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    handler.formatter.converter = time.gmtime  # type: ignore[union-attr]
    before = log.handlers, log.propagate
    log.handlers, log.propagate = [handler], False
    try:
        yield
    finally:
        log.handlers, log.propagate = before
