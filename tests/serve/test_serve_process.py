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
from contextlib import closing, contextmanager
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

EVERYWHERE = "0.0.0.0"  # noqa: S104  # to be refused
BODY = json.dumps({"instances": [GOOD]}).encode()
HEAD = f"POST /v1/predict HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
WHOLE = HEAD.encode() + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


@contextmanager
def listening(served: Served) -> Iterator[tuple[Gate, int]]:
    """The server in a thread of this process."""
    worker = Worker(served.answer)
    gate, _ = build(served, worker, key_of(KEY))
    with listen("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=serve, args=(gate, worker, sock), kwargs={"stop": Stop(0.1, 0.0)})
        thread.start()
        try:
            yield gate, sock.getsockname()[1]
        finally:
            gate.state.is_stopping = True
            thread.join(10)
    assert not thread.is_alive()


def raw(port: int, *parts: bytes, pause: float = 0.0, until: float = 5.0) -> tuple[bytes, float]:
    """Send parts with pauses, then read until the server closes; what came, and after how long (`until`: never)."""
    started, found = time.monotonic(), b""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=until)) as sock:
        try:
            for part in parts:
                sock.sendall(part)
                time.sleep(pause)
            while chunk := sock.recv(65536):
                found += chunk
        except TimeoutError:
            return found, until
        except OSError:
            pass
    return found, time.monotonic() - started


def at_rest(gate: Gate) -> None:
    """Nothing is in flight; a caller may have its answer a moment before the server has noted so."""
    until = time.monotonic() + 2
    while gate.state.in_flight and time.monotonic() < until:
        time.sleep(0.01)
    assert gate.state.in_flight == 0


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADER_SECONDS", "IDLE_SECONDS", "LINGER_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(module, name, 0.4)


def test_whoever_sends_slowly_is_cut_off(served: Served, quick: None) -> None:
    with listening(served) as (gate, port):
        gate.body_seconds = 0.4
        cases: dict[str, tuple[list[bytes], float, bytes]] = {
            "nothing at all": ([b""], 0, b""),
            "half a header": ([HEAD[:40].encode()], 0, b""),
            "headers that drip": ([bytes([one]) for one in HEAD.encode()], 0.02, b""),
            "half a body": ([WHOLE[:-5]], 0, b"HTTP/1.1 408"),
            "a body that drips": ([WHOLE[:-60], *[b" "] * 30], 0.02, b"HTTP/1.1 408"),
            "one request, then idle": ([WHOLE], 0, b"HTTP/1.1 200"),
            "one request, then half a header": ([WHOLE, HEAD[:40].encode()], 0, b"HTTP/1.1 200"),
            "refused, then more body": ([WHOLE.replace(b"application/json", b"text/plain")[:-5]], 0, b"HTTP/1.1 415"),
        }
        with ThreadPoolExecutor(len(cases)) as pool:
            results = list(pool.map(lambda case: raw(port, *case[0], pause=case[1]), cases.values()))
        for (name, (_, _, expected)), (found, seconds) in zip(cases.items(), results, strict=True):
            assert found.startswith(expected), name
            assert bool(found) == bool(expected), name
            assert seconds < 3, name
        assert httpx.get(f"http://127.0.0.1:{port}/card", headers=BEARER).status_code == 200
        at_rest(gate)


def test_whoever_does_not_read_is_cut_off(served: Served, quick: None) -> None:
    body = json.dumps({"instances": [GOOD] * 1000}).encode()
    request = HEAD.encode() + b"content-length: %d\r\n\r\n" % len(body) + body
    with listening(served) as (gate, port), closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(8)
        sock.connect(("127.0.0.1", port))
        with pytest.raises(ConnectionError):  # and no TimeoutError: the server hung up
            sock.sendall(request * 500)
        at_rest(gate)


@pytest.mark.slow  # it waits
def test_timers_do_not_cut_off_honest_callers(served: Served, quick: None) -> None:
    """The control: many requests on one connection, with pauses, for longer than any timeout."""
    with listening(served) as (_, port), httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=BEARER) as client:
        for _ in range(6):
            assert client.post("/v1/predict", json={"instances": [GOOD]}).status_code == 200
            time.sleep(0.15)
        found, _ = raw(port, WHOLE * 3)  # pipelined
        assert found.count(b"HTTP/1.1 200") == 3
        parts = [WHOLE[:60], WHOLE[60:130], WHOLE[130:]]
        assert raw(port, *parts, pause=0.05)[0].startswith(b"HTTP/1.1 200")


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
    with listening(served) as (gate, port):
        gate.body_seconds = 0.4
        with ThreadPoolExecutor(len(abuse)) as pool:
            results = list(pool.map(lambda one: raw(port, one), abuse))
        for one, (found, seconds) in zip(abuse, results, strict=True):
            status = re.match(rb"HTTP/1\.1 (\d+)", found)
            assert seconds < 3, one[:100]
            assert b"Traceback" not in found
            shown = (one[:100], found[:200])
            assert (
                status is None
                or status[1] in (b"400", b"401", b"404", b"408", b"413", b"431")
                or (
                    status[1] == b"200" and b'{"live":true}' in found  # an escaped slash is a slash: the open route
                )
            ), shown
        assert httpx.get(f"http://127.0.0.1:{port}/card", headers=BEARER).status_code == 200
        at_rest(gate)


def test_answers_do_not_wait_for_an_acknowledgement(served: Served) -> None:
    """40 ms each, if the kernel held the body back until the headers are acknowledged."""
    with listening(served) as (_, port), closing(socket.create_connection(("127.0.0.1", port))) as sock:
        taken = []
        for _ in range(20):
            began, found = time.monotonic(), b""
            sock.sendall(WHOLE)
            while not found.endswith(b"}"):
                found += sock.recv(65536)
            taken.append(time.monotonic() - began)
    assert sorted(taken)[10] < 0.03


def test_chunked_bodies_are_bodies(served: Served, quick: None) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(BODY[i : i + 9]), BODY[i : i + 9]) for i in range(0, len(BODY), 9))
    with listening(served) as (_, port):
        found, _ = raw(port, HEAD.encode() + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200")


def test_our_own_endpoint_adapter_reads_both_addresses(served: Served, tiny: System) -> None:
    inputs = tiny.data.splits["test"].inputs[:30].copy()
    inputs[0, 2] = -1  # a missing category travels as null
    expected = served.probabilities(inputs)
    with listening(served) as (_, port):
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
    with httpx.Client(base_url=url, headers=BEARER, timeout=10) as client:
        while not stop.is_set():
            try:
                found = client.post("/v1/predict", json={"instances": [GOOD] * 50})
                note((found.status_code, found.json()))
            except httpx.HTTPError as error:
                note((0, type(error).__name__))
                if isinstance(error, httpx.ConnectError):
                    return


def says_that_it_stops(url: str, began: float) -> bool:
    """Not ready, and still listening, for the seconds of notice; False where this machine was too busy to ask."""
    try:
        refused = httpx.get(f"{url}/v2/health/ready", headers=BEARER)
        assert (refused.status_code, refused.json()["error"]) == (503, "stopping")
        assert httpx.get(f"{url}/v2/health/live").status_code == 200
    except httpx.TransportError:
        assert time.monotonic() - began > NOTICE_SECONDS
        return False
    return True


def stop_under_load(dossier: Path, tmp_path: Path) -> bool:
    """Stop while eight callers ask; whether the stop was also seen from outside."""
    found: list[tuple[int, Any]] = []
    stop = threading.Event()
    with process(dossier, tmp_path) as (started, url, _):
        ready = httpx.get(f"{url}/v2/health/ready", headers=BEARER)
        assert ready.json()["ready"] is True
        callers = [threading.Thread(target=hammer, args=(url, stop, found.append)) for _ in range(8)]
        for caller in callers:
            caller.start()
        until = time.monotonic() + 30
        while len(found) <= 20 and time.monotonic() < until:
            time.sleep(0.05)
        began = time.monotonic()
        started.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        is_seen = says_that_it_stops(url, began)
        out, err = started.communicate(timeout=15)
        seconds = time.monotonic() - began
        stop.set()
        for caller in callers:
            caller.join(10)
    assert started.returncode == 0, err
    assert seconds < 11
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
        started.communicate(timeout=10)
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
            assert httpx.post(f"{url}/v1/predict", headers=BEARER, json={"instances": [GOOD]}).status_code == 200
        began = time.monotonic()
        for sock in slow:
            sock.settimeout(15)
            while sock.recv(4096):
                pass
            sock.close()
        assert time.monotonic() - began < 13  # ten for a body, two of lingering


@pytest.mark.slow
def test_rows_of_a_whole_split_come_back_in_order(passed: Path, tmp_path: Path, tiny: System, served: Served) -> None:
    inputs = tiny.data.splits["test"].inputs
    with process(passed, tmp_path) as (_, url, _):
        body = {"instances": decode_rows(tiny.data, inputs)}
        found = httpx.post(f"{url}/v1/predict", headers=BEARER, json=body).json()
    np.testing.assert_allclose(found["probabilities"], served.probabilities(inputs), atol=1e-6)
