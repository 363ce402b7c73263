"""The outermost layer: nothing reaches a route without a key, and nothing that is not an answer leaves as one.

Deny by default: one path is open, all others, also those nobody has thought of yet, need the key.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NoReturn

from starlette.exceptions import HTTPException

from assay.errors import AssayError, Problem
from assay.serve.keys import Key
from assay.serve.refusals import Refusal, error_body
from assay.serve.worker import LOG

__all__ = ["LIVE", "Gate", "State"]

LIVE = "/v2/health/live"
MAX_BYTES = 2_000_000
BODY_SECONDS = 10.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROCESS, _COUNT = secrets.token_hex(4), count()  # asking the kernel each time would cost as much as the answer
_JSON, _BINARY = "application/json", "application/octet-stream"
_INTERNAL = Problem("a defect of the service stopped this request", next="Tell its owner the request_id")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


@dataclass(eq=False)
class State:
    """What the process knows of itself. An accepted request is one with the key, whose whole body was received."""

    is_stopping: bool = False
    in_flight: int = 0  # requests with the key, also those whose body is still coming
    accepted: int = 0
    answered: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0  # spent on accepted requests


class _GoneError(Exception):
    """The caller hung up while sending."""


@dataclass(eq=False)
class Gate:
    """ASGI: request id, key, stopping, encoding, size and time of the body, and a wall around every exception.

    `headers` are added to whatever a caller with the key is sent, and routes are told the key's digest, by which rows
    are counted. Limits: one key for all, no rate a caller; TLS and callers of their own belong to a proxy in front.
    """

    app: App
    key: Key
    state: State
    headers: tuple[tuple[bytes, bytes], ...] = ()
    max_bytes: int = MAX_BYTES
    body_seconds: float = BODY_SECONDS
    log: Callable[[Mapping[str, Any]], None] | None = None  # one entry a request

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request. Anything but HTTP is closed unanswered."""
        if scope["type"] != "http":
            return
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        said = given[0].decode("latin-1") if len(given) == 1 else ""
        request_id = said if _REQUEST_ID.fullmatch(said) else f"{_PROCESS}{next(_COUNT):08x}"
        answer = _Answer(send, request_id, self.state)
        started = time.monotonic()
        scope["app"] = self.app  # so that routing raises for an unknown path or method rather than answer by itself
        scope["state"] = {"request_id": request_id, "body": b"", "key": self.key.digest.hex()}
        try:
            if scope["path"] != LIVE or scope["method"] not in ("GET", "HEAD"):
                self._authorise(scope)
                answer.headers += self.headers
                await self._authorised(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        except _GoneError:
            return
        except Exception as error:
            await answer.refuse(_as_refusal(error, request_id))
        finally:
            if self.log is not None:
                self.log(_entry(scope, answer, time.monotonic() - started))

    def _authorise(self, scope: MutableMapping[str, Any]) -> None:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if not self.key.accepts(given):
            problem = Problem("the key is missing or wrong", "Authorization: Bearer KEY", "Ask the owner for the key")
            raise Refusal(401, "key", problem, {"www-authenticate": "Bearer"})
        if self.state.is_stopping:
            headers = {"retry-after": "5", "connection": "close"}
            raise Refusal(503, "stopping", Problem("the service is stopping", next="Ask another replica"), headers)

    async def _authorised(self, scope: MutableMapping[str, Any], receive: Receive, answer: _Answer) -> None:
        """A request with the key. Once its body is here it is answered, also when the process is told to stop."""
        self.state.in_flight += 1
        try:
            if scope["method"] == "POST":
                scope["state"]["body"] = await self._body(scope, receive)
            started = time.monotonic()
            self.state.accepted += 1
            try:
                await self.app(scope, receive, answer)
            except Exception as error:  # here, not above: counted as answered only when the answer was sent
                await answer.refuse(_as_refusal(error, scope["state"]["request_id"]))
            self.state.answered += 1
            self.state.seconds += time.monotonic() - started
        finally:
            self.state.in_flight -= 1

    async def _body(self, scope: MutableMapping[str, Any], receive: Receive) -> bytes:
        """The whole body, counted as it comes. Raises Refusal 408, 413 or 415."""
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refusal(415, "encoding", Problem("the body is compressed", "no Content-Encoding", "Send it plain"))
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if kind not in (_JSON, _BINARY):
            raise Refusal(415, "content-type", Problem("the body is of another type", f"{_JSON}, {_BINARY}"))
        length = headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 12 or int(length) > self.max_bytes):
            self._too_large()
        chunks: list[bytes] = []
        total, more = 0, True
        try:
            async with asyncio.timeout(self.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    chunk = message.get("body", b"")
                    total += len(chunk)
                    if total > self.max_bytes:
                        self._too_large()
                    chunks.append(chunk)
                    more = message.get("more_body", False)
        except TimeoutError as error:
            problem = Problem("the body came too slowly", f"{self.body_seconds:g} seconds for all of it")
            raise Refusal(408, "slow", problem) from error  # closed by the protocol's timer: at once, it would be lost
        return b"".join(chunks)

    def _too_large(self) -> NoReturn:
        problem = Problem("the body is too large", f"at most {self.max_bytes:,} bytes", "Split the request")
        raise Refusal(413, "size", problem)


@dataclass(eq=False)
class _Answer:
    """`send`, with the headers that every answer carries, and a memory of whether it has begun."""

    send: Send
    request_id: str
    state: State
    headers: tuple[tuple[bytes, bytes], ...] = (
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    )
    has_begun: bool = False
    status: int | None = None  # None: nothing was answered, as nobody was there any more

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun, self.status = True, message["status"]
            self.state.statuses[message["status"]] += 1
            own = (b"x-request-id", self.request_id.encode())
            message = {**message, "headers": [*message.get("headers", ()), own, *self.headers]}
        await self.send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with the refusal; nothing where an answer has begun already."""
        if self.has_begun:
            return
        body = error_body(refusal.code, refusal.problems, self.request_id)
        named = {"content-type": _JSON, "content-length": str(len(body)), **refusal.headers}
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _entry(scope: MutableMapping[str, Any], answer: _Answer, seconds: float) -> dict[str, Any]:
    """What is logged of a request: no header, no query, no body, and of a path that nobody serves its beginning."""
    state = scope["state"]
    told = {"request_id": answer.request_id, "method": scope["method"][:10], "path": scope["path"][:100]}
    told |= {"status": answer.status, "ms": round(seconds * 1000, 3), "bytes": len(state["body"])}
    return told | {"rows": state.get("rows", 0)}


def _as_refusal(error: Exception, request_id: str) -> Refusal:
    """What a caller is told of an exception: of one that nobody foresaw, only that it happened."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        what = {404: "nothing is at this address", 405: "this address does not take this method"}
        problem = Problem(what.get(error.status_code, "the request was refused"), next="See /v2 and /card")
        return Refusal(error.status_code, "address", problem, error.headers)
    if isinstance(error, AssayError):
        return Refusal(422, error.code, error.problems)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
    # The text of an exception may quote what the caller sent, which is somebody's data: its type and place must do.
    LOG.error("request %s: %s%s", request_id, type(error).__name__, where)
    return Refusal(500, "defect", _INTERNAL)
