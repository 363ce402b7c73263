"""The process: a socket, uvicorn with the timeouts it lacks, and a stop that loses nothing it accepted."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from dataclasses import dataclass
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from assay.errors import Problem, ServeError
from assay.serve.gate import Gate
from assay.serve.worker import Worker

__all__ = ["Stop", "is_loopback", "listen", "serve"]

HEADER_SECONDS = 5.0  # from the first byte of a request to the last of its headers
IDLE_SECONDS = 15.0  # between two requests
LINGER_SECONDS = 2.0  # of a body that is refused and still coming: closing at once would lose the refusal
WRITE_SECONDS = 10.0  # a caller that does not read its answer
MAX_HEADER_BYTES = 16_384
MAX_CONNECTIONS = 1000
BACKLOG = 512
NOTICE_SECONDS = 1.0  # not ready, but still listening, so that a balancer can see it


@dataclass(frozen=True)
class Stop:
    """How a stop goes: at least `notice` seconds of 503 for new requests, at most `grace` for accepted ones."""

    grace: float = 10.0
    notice: float = NOTICE_SECONDS


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name other than localhost could be anything."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServeError when the address cannot be had."""
    try:
        if not 0 <= port <= 65_535:  # the resolver would take it modulo 65,536
            raise OverflowError("there is no such port")
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol named: asyncio turns Nagle's algorithm off only then, and each answer would wait 40 ms.
        sock = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        return sock
    except (OSError, OverflowError) as error:
        what = f"{host} port {port} cannot be listened on ({error})"
        raise ServeError(Problem(what, "a free port of this machine", "Name another with --port")) from error


def serve(gate: Gate, worker: Worker, sock: socket.socket, *, stop: Stop | None = None) -> bool:
    """Serve until SIGTERM or SIGINT; whether every accepted request was answered. A second signal ends it at once."""
    settings = uvicorn.Config(
        gate,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # callers without a key can make it warn as often as they like
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(IDLE_SECONDS) + 1,  # uvicorn's forgets itself at the first byte; ours comes first
        timeout_graceful_shutdown=1,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        backlog=BACKLOG,
    )
    server = _Server(settings, gate, stop or Stop())
    worker.start()
    server.run(sockets=[sock])
    worker.stop(1.0)
    return gate.state.accepted == gate.state.answered


class _Server(uvicorn.Server):
    """Not ready first, then 503 for new requests, then the accepted ones, then the end with exit code 0."""

    def __init__(self, config: uvicorn.Config, gate: Gate, stop: Stop) -> None:
        super().__init__(config)
        self._gate, self._stop, self._since = gate, stop, 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain; second: leave now. Signals are not raised again at the end, as uvicorn's are."""
        if self._gate.state.is_stopping:
            self.should_exit = self.force_exit = True
        self._since = self._since or time.monotonic()
        self._gate.state.is_stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to leave."""
        leave = await super().on_tick(counter)
        if not self._gate.state.is_stopping:
            return leave
        waited = time.monotonic() - self._since
        is_drained = waited >= self._stop.notice and self._gate.state.in_flight == 0
        return leave or is_drained or waited >= self._stop.grace


class TimedProtocol(H11Protocol):
    """uvicorn's pure Python HTTP/1.1 with limits on what it waits for.

    A connection is idle (IDLE_SECONDS), sends headers (HEADER_SECONDS, however they drip), or is being answered, and
    then the gate watches the body. What is still coming of a refused body is read and dropped for LINGER_SECONDS. A
    caller that does not take its answer off the wire is cut off after WRITE_SECONDS.
    """

    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _is_waiting = True  # for the first byte of a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection that sends nothing is given the time of headers, not of idling."""
        super().connection_made(transport)
        self._set(HEADER_SECONDS, is_waiting=False)

    def data_received(self, data: bytes) -> None:
        """The first byte starts the clock of the headers, and no later byte sets it back."""
        if self._is_waiting and self._timer is not None:
            self._set(HEADER_SECONDS, is_waiting=False)
        super().data_received(data)
        if self._is_answering():
            self._unset()

    def on_response_complete(self) -> None:
        """Idle again, unless the next request was there already."""
        super().on_response_complete()
        if not self.transport.is_closing() and not self._is_answering():
            is_unread = self.conn.their_state is h11.SEND_BODY
            self._set(LINGER_SECONDS if is_unread else IDLE_SECONDS, is_waiting=not is_unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to wait for."""
        self._unset()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The caller does not read: uvicorn would wait for ever."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _set(self, seconds: float, *, is_waiting: bool) -> None:
        self._unset()
        self._is_waiting = is_waiting
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
