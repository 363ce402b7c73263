"""Real sockets and a real process: timeouts that uvicorn lacks, raw abuse, and a stop that loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from assay.cli import main
from assay.data import decode_rows
from assay.errors import ServeError
from assay.models.adapters.endpoint import Connection, HttpModel
from assay.serve import server as module
from assay.serve.admission import Served
from assay.serve.gate import Gate
from assay.serve.keys import VARIABLE, key_of
from assay.serve.routes import build
from assay.serve.server import NOTICE_SECONDS, Stop, is_loopback, listen, serve
from assay.serve.worker import Worker
from assay.values import System
from serve_kit import BEARER, GOOD, KEY

LONG = 60.0  # seconds that nothing takes, however busy the machine: what must end, ends far sooner
EVERYWHERE = "0.0.0.0"  # noqa: S104  # to be refused
BODY = json.dumps({"instances": [GOOD]}).encode()
HEAD = f"POST /v1/predict HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
WHOLE = HEAD.encode() + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


@contextmanager
def listening(served: Served, *first: bytes) -> Iterator[tuple[Gate, int, list[socket.socket]]]:
    """The server in a thread of this process; and connections on which `first` was sent before it looked.

    What lies there when it looks is read before any timer ends, however late this machine lets a caller go on.
    """
    worker = Worker(served.answer)
    gate, _ = build(served, worker, key_of(KEY))
    gate.body_seconds = 0.4
    with listen("127.0.0.1", 0) as sock, ExitStack() as stack:
        callers = [stack.enter_context(socket.create_connection(sock.getsockname(), timeout=LONG)) for _ in first]
        for caller, part in zip(callers, first, strict=True):
            caller.sendall(part)
        thread = threading.Thread(target=serve, args=(gate, worker, sock), kwargs={"stop": Stop(0.1, 0.0)})
        thread.start()
        try:
            yield gate, sock.getsockname()[1], callers
        finally:
            gate.state.is_stopping = True
            thread.join(LONG)
    assert not thread.is_alive()


def rest(sock: socket.socket, *parts: bytes, pause: float = 0.0) -> tuple[bytes, bool]:
    """Send parts after pauses, then read until the server closes; what came, and whether it did close."""
    found = b""
    try:
        for part in parts:
            time.sleep(pause)
            sock.sendall(part)
        while chunk := sock.recv(65536):
            found += chunk
    except TimeoutError:
        return found, False
    except OSError:
        pass
    return found, True


def raw(port: int, *parts: bytes) -> tuple[bytes, bool]:
    """The same on a connection of its own."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=LONG)) as sock:
        return rest(sock, *parts)


def at_rest(gate: Gate) -> None:
    """Nothing is in flight; a caller may have its answer a moment before the server has noted so."""
    until = time.monotonic() + LONG
    while gate.state.in_flight and time.monotonic() < until:
        time.sleep(0.01)
    assert gate.state.in_flight == 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADER_SECONDS", "IDLE_SECONDS", "LINGER_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(module, name, 0.4)


def test_whoever_sends_slowly_is_cut_off(served: Served, quick: None) -> None:
    cases: dict[str, tuple[list[bytes], bytes]] = {
        "nothing at all": ([b""], b""),
        "half a header": ([HEAD[:40].encode()], b""),
        "headers that drip": ([bytes([one]) for one in HEAD.encode()], b""),
        "half a body": ([WHOLE[:-5]], b"HTTP/1.1 408"),
        "a body that drips": ([WHOLE[:-60], *[b" "] * 30], b"HTTP/1.1 408"),
        "one request, then idle": ([WHOLE], b"HTTP/1.1 200"),
        "refused, then more body": ([WHOLE.replace(b"application/json", b"text/plain")[:-5]], b"HTTP/1.1 415"),
    }
    with listening(served, *[parts[0] for parts, _ in cases.values()]) as (gate, port, callers):
        with ThreadPoolExecutor(len(cases)) as pool:
            later = [parts[1:] for parts, _ in cases.values()]
            results = list(pool.map(lambda sock, parts: rest(sock, *parts, pause=0.02), callers, later))
        for (name, (_, expected)), (found, is_closed) in zip(cases.items(), results, strict=True):
            assert found.startswith(expected), name
            assert bool(found) == bool(expected), name
            assert is_closed, name
        assert httpx.get(f"http://127.0.0.1:{port}/card", headers=BEARER, timeout=LONG).status_code == 200
        at_rest(gate)


def test_half_a_header_after_an_answer_is_cut_off(served: Served, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the timer of headers: that of idle connections waits for longer than this test."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 10 * LONG)
    with listening(served, WHOLE) as (gate, _, (sock,)):
        found = b""
        while not found.endswith(b"}"):
            found += sock.recv(65536)
        assert found.startswith(b"HTTP/1.1 200")
        assert rest(sock, HEAD[:40].encode()) == (b"", True)
        at_rest(gate)


def test_whoever_does_not_read_is_cut_off(served: Served, quick: None) -> None:
    body = json.dumps({"instances": [GOOD] * 1000}).encode()
    request = HEAD.encode() + b"content-length: %d\r\n\r\n" % len(body) + body
    with listening(served) as (gate, port, _), closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(LONG)
        sock.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionError):  # and no TimeoutError: the server hung up
            sock.sendall(request * 500)
        at_rest(gate)


def paced(port: int, *parts: bytes, pause: float) -> tuple[int, float]:
    """Each part after a pause, on one connection: the answers, and the longest time between two parts.

    That is from before one was sent until the next was: the server can have waited for no longer.
    """
    found, began, longest = b"", time.monotonic(), 0.0
    with closing(socket.create_connection(("127.0.0.1", port), timeout=LONG)) as sock:
        try:
            for part in parts:
                sock.sendall(part)
                longest, began = max(longest, time.monotonic() - began), time.monotonic() - 1e-3
                while part.endswith(b"}") and not found.endswith(b"}"):
                    found += (chunk := sock.recv(65536))
                    if not chunk:
                        return found.count(b"HTTP/1.1 200"), longest
                found = found[:-1] + b")" if part.endswith(b"}") else found  # read
                time.sleep(pause)
        except OSError:
            pass
    return found.count(b"HTTP/1.1 200"), longest


@pytest.mark.slow  # it waits
@pytest.mark.parametrize(
    ("parts", "pause", "answers"),
    [([WHOLE] * 7, 0.2, 7), ([WHOLE[:60], WHOLE[60:130], WHOLE[130:]], 0.05, 1)],
    ids=["for longer than any timeout", "in pieces"],
)
def test_timers_do_not_cut_off_honest_callers(
    served: Served, monkeypatch: pytest.MonkeyPatch, parts: list[bytes], pause: float, answers: int
) -> None:
    """The control. A caller that this machine held up for as long as a timeout shows nothing, and begins anew."""
    for name in ("HEADER_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(module, name, 1.0)
    with listening(served) as (_, port, _):
        for _ in range(20):
            found, longest = paced(port, *parts, pause=pause)
            if found == answers or longest < 1.0:
                break
    assert found == answers


def test_requests_that_come_at_once_are_all_answered(served: Served, quick: None) -> None:
    with listening(served, WHOLE * 3) as (_, _, (sock,)):
        assert rest(sock)[0].count(b"HTTP/1.1 200") == 3


def test_raw_abuse_ends_in_a_refusal_and_the_service_stays_up(served: Served, quick: None) -> None:
    length = b"content-length: %d\r\n" % len(BODY)
    abuse = [
        b"\x00" * 100,
        b"\x16\x03\x01" + b"\x00" * 200,  # TLS to a plain port
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /card HTTP/1.1\r\n\r\n",  # no host
        HEAD.encode() + length + b"content-length: 3\r\n\r\n" + BODY,
        HEAD.encode() + length + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD.encode() + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        HEAD.encode() + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        HEAD.encode() + b"content-length: -1\r\n\r\n",
        HEAD.encode() + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
        HEAD.encode() + b"a: b\r\n" * 5000 + b"\r\n",
        b"POST /v1/predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + b"k" * 1_000_000 + b"\r\n\r\n",
        HEAD.encode() + b"content-length: 99999999\r\n\r\n" + b" " * 3_000_000,
        b"GET /card HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"GET http://127.0.0.1:1/card HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v2/health/live/../../card HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v2/health%2flive HTTP/1.1\r\nhost: x\r\n\r\n",
    ]
    with listening(served) as (gate, port, _):
        with ThreadPoolExecutor(len(abuse)) as pool:
            results = list(pool.map(lambda one: raw(port, one), abuse))
        for one, (found, is_closed) in zip(abuse, results, strict=True):
            status = re.match(rb"HTTP/1\.1 (\d+)", found)
            assert is_closed, one[:100]
            assert b"Traceback" not in found
            shown = (one[:100], found[:200])
            assert (
                status is None
                or status[1] in (b"400", b"401", b"404", b"408", b"413", b"431")
                or (
                    status[1] == b"200" and b'{"live":true}' in found  # an escaped slash is a slash: the open route
                )
            ), shown
        assert httpx.get(f"http://127.0.0.1:{port}/card", headers=BEARER, timeout=LONG).status_code == 200
        at_rest(gate)


def test_answers_do_not_wait_for_an_acknowledgement(served: Served) -> None:
    """40 ms each, if the kernel held the body back until the headers are acknowledged; the first are let through.

    A busy machine can make any of them late, so the quick ones are counted, among as many as it takes.
    """
    with listening(served) as (_, port, _), closing(socket.create_connection(("127.0.0.1", port))) as sock:
        taken: list[float] = []
        while sum(one < 0.03 for one in taken[10:]) < 6 and len(taken) < 200:
            began, found = time.monotonic(), b""
            sock.sendall(WHOLE)
            while not found.endswith(b"}"):
                found += sock.recv(65536)
            taken.append(time.monotonic() - began)
    assert len(taken) < 200


def test_chunked_bodies_are_bodies(served: Served, quick: None) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(BODY[i : i + 9]), BODY[i : i + 9]) for i in range(0, len(BODY), 9))
    whole = HEAD.encode() + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    with listening(served, whole) as (_, _, (sock,)):
        found, _ = rest(sock)
    assert found.startswith(b"HTTP/1.1 200")


def test_our_own_endpoint_adapter_reads_both_addresses(served: Served, tiny: System) -> None:
    inputs = tiny.data.splits["test"].inputs[:30].copy()
    inputs[0, 2] = -1  # a missing category travels as null
    expected = served.probabilities(inputs)
    with listening(served) as (_, port, _):
        for path in ("/v2/models/tiny/infer", "/v1/predict"):
            connection = Connection(headers={"Authorization": f"Bearer {KEY}"})
            url = f"http://127.0.0.1:{port}{path}"
            model = HttpModel(url, columns=tiny.data.columns, num_outputs=2, connection=connection)
            np.testing.assert_allclose(model.outputs(inputs), expected, atol=1e-6)


def test_only_this_machine_unless_told() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert is_loopback(host)
    for host in (EVERYWHERE, "::", "10.0.0.1", "example.org", "localhost.example.org", "", "127.0.0.1.example.org"):
        assert not is_loopback(host)


def test_a_port_in_use_is_one_sentence() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ServeError, match="cannot be listened on"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ServeError, match="cannot be listened on"):
        listen("127.0.0.1", 70_000)


def test_the_command_refuses_in_one_sentence(passed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, expected in {
        (str(passed), "--host", EVERYWHERE): "0.0.0.0 can be reached by others",
        (str(tmp_path / "empty"),): "is not a dossier",
        (str(tmp_path / "nothing"),): "is not a dossier",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            main(["serve", *arguments])
        assert stopped.value.code == 2
        shown = capsys.readouterr().err
        assert expected in shown
        assert len(shown.splitlines()) == 1


def test_without_the_extra_the_command_says_how_to_get_it(
    passed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] in ("starlette", "uvicorn")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("routes", "server", "gate"):
        monkeypatch.delitem(sys.modules, f"assay.serve.{name}")
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(passed)])
    assert stopped.value.code == 2
    assert "assay[serve]" in capsys.readouterr().err


# ------------------------------------------------------------------ the process


@contextmanager
def process(dossier: Path, tmp_path: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """`assay serve` as a user starts it; its address and what it printed before."""
    environment = {**os.environ, "ASSAY_HOME": str(tmp_path / "own"), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("ASSAY_SERVE_KEY", None)
    environment |= {} if "--made-key" in options else {VARIABLE: KEY}
    command = [sys.executable, "-m", "assay.cli", "serve", str(dossier), "--port", "0"]
    started = subprocess.Popen(
        [*command, *[one for one in options if one != "--made-key"]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = []
        for line in started.stdout or ():
            lines.append(line)
            found = re.search(r"on (http://\S+) ", line)
            if found:
                break
        else:
            raise AssertionError(started.stderr.read() if started.stderr else "")
        yield started, found[1], lines
    finally:
        started.kill()
        started.communicate()


def hammer(url: str, stop: threading.Event, note: Callable[[Any], None]) -> None:
    """One closed-loop caller, until told to stop or refused a connection."""
    with httpx.Client(base_url=url, headers=BEARER, timeout=LONG) as client:
        while not stop.is_set():
            try:
                found = client.post("/v1/predict", json={"instances": [GOOD] * 50})
                note((found.status_code, found.json()))
            except httpx.HTTPError as error:
                note((0, type(error).__name__))
                if isinstance(error, httpx.ConnectError):
                    return


def says_that_it_stops(caller: httpx.Client, began: float) -> bool:
    """Not ready, and still listening, for the seconds of notice; False where this machine was too busy to ask."""
    try:
        refused = caller.get("/v2/health/ready")
        assert (refused.status_code, refused.json()["error"]) == (503, "stopping")
        assert caller.get("/v2/health/live").status_code == 200
    except httpx.TransportError:
        assert time.monotonic() - began > NOTICE_SECONDS
        return False
    return True


def stop_under_load(dossier: Path, tmp_path: Path) -> bool:
    """Stop while eight callers ask; whether the stop was also seen from outside."""
    found: list[tuple[int, Any]] = []
    stop = threading.Event()
    with (
        process(dossier, tmp_path) as (started, url, _),
        httpx.Client(base_url=url, headers=BEARER, timeout=LONG) as caller,  # made before: its making takes a while
    ):
        ready = caller.get("/v2/health/ready")
        assert ready.json()["ready"] is True
        hammers = [threading.Thread(target=hammer, args=(url, stop, found.append)) for _ in range(8)]
        for one in hammers:
            one.start()
        until = time.monotonic() + LONG
        while len(found) <= 20 and time.monotonic() < until:
            time.sleep(0.05)
        began = time.monotonic()
        started.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        is_seen = says_that_it_stops(caller, began)
        out, err = started.communicate(timeout=LONG)
        stop.set()
        for one in hammers:
            one.join(LONG)
    assert started.returncode == 0, err
    accepted, answered = map(int, re.search(r"(\d+) requests accepted, (\d+) answered", out).groups())  # type: ignore[union-attr]
    whole = [one for status, one in found if status == 200]
    assert accepted == answered == len(whole) + 1  # and the one that asked whether it is ready
    assert len(whole) > 20
    assert all(len(one["predictions"]) == 50 for one in whole)
    assert {status for status, _ in found} <= {200, 503, 0}
    assert not is_seen or sum(status == 503 for status, _ in found) > 0
    assert "Traceback" not in err
    return is_seen


@pytest.mark.slow
def test_stops_under_load_lose_no_accepted_request_and_are_announced(passed: Path, tmp_path: Path) -> None:
    seen = [stop_under_load(passed, tmp_path) for _ in range(5)]
    assert any(seen)


@pytest.mark.slow
def test_the_first_start_shows_a_key_that_works_and_the_second_shows_none(passed: Path, tmp_path: Path) -> None:
    with process(passed, tmp_path, "--made-key") as (_, url, lines):
        key = re.search(r"shown once.*: (\S+)", "".join(lines))[1]  # type: ignore[index]
        assert httpx.get(f"{url}/card", headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert httpx.get(f"{url}/card", headers={"authorization": f"Bearer {key[:-1]}"}).status_code == 401
        assert "signer is not pinned" in "".join(lines)
    with process(passed, tmp_path, "--made-key") as (started, url, lines):
        assert "shown once" not in "".join(lines)
        assert httpx.get(f"{url}/card", headers={"authorization": f"Bearer {key}"}).status_code == 200
        started.send_signal(signal.SIGINT)
        started.communicate(timeout=LONG)
        assert started.returncode == 0


@pytest.mark.slow
def test_sixty_slow_callers_do_not_keep_an_honest_one_waiting(passed: Path, tmp_path: Path) -> None:
    """uvicorn alone: 60 half-sent headers are still open after 45 s."""
    with process(passed, tmp_path) as (_, url, _):
        port = int(url.rsplit(":", 1)[1])
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        for index, sock in enumerate(slow):
            sock.sendall([HEAD[:50].encode(), WHOLE[:-5], b""][index % 3])
        for _ in range(50):
            sent = httpx.post(f"{url}/v1/predict", headers=BEARER, json={"instances": [GOOD]}, timeout=LONG)
            assert sent.status_code == 200
        began = time.monotonic()
        for sock in slow:
            sock.settimeout(30)
            while sock.recv(4096):
                pass
            sock.close()
        assert time.monotonic() - began < 30  # ten for a body, two of lingering; the rest is for a busy machine


@pytest.mark.slow
def test_rows_of_a_whole_split_come_back_in_order(passed: Path, tmp_path: Path, tiny: System, served: Served) -> None:
    inputs = tiny.data.splits["test"].inputs
    with process(passed, tmp_path) as (_, url, _):
        body = {"instances": decode_rows(tiny.data, inputs)}
        found = httpx.post(f"{url}/v1/predict", headers=BEARER, json=body).json()
    np.testing.assert_allclose(found["probabilities"], served.probabilities(inputs), atol=1e-6)
