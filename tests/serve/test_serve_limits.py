"""Every limit holds before work is done, and a refusal says what is allowed."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from typing import Any

import numpy as np
import pytest

from assay.errors import Problem
from assay.serve import bodies
from assay.serve.bodies import MAX_DEPTH, MAX_ROWS, parse
from assay.serve.gate import MAX_BYTES, Gate, State
from assay.serve.keys import key_of
from assay.serve.refusals import Refusal, error_body
from serve_kit import BEARER, GOOD, KEY, Caller, told

PREDICT = "/v1/predict"


def status(caller: Caller, body: Any, **headers: str) -> tuple[int, str]:
    found = caller.post(PREDICT, body, headers=headers)
    return found.status_code, found.json().get("error", "")


def padded(num_bytes: int) -> bytes:
    body = json.dumps({"instances": [GOOD]}).encode()
    return body + b" " * (num_bytes - len(body))


def test_bodies_are_at_most_two_megabytes(caller: Caller) -> None:
    assert status(caller, padded(MAX_BYTES)) == (200, "")
    assert status(caller, padded(MAX_BYTES + 1)) == (413, "size")


class Jumping(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer as soon as nothing else is to be done: no real time counts."""

    now = 0.0

    def __init__(self) -> None:
        super().__init__()
        look = self._selector.select  # type: ignore[attr-defined]

        def select(timeout: float | None = None) -> Any:
            found = look(0 if timeout else timeout)
            self.now += (timeout or 0.0) if not found else 0.0
            return found

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def drip(gate: Gate, chunks: list[bytes], *, headers: dict[str, str], seconds: float = 0.0) -> tuple[int, int, bytes]:
    """One request, chunk by chunk, straight to the gate: status, chunks read, body. `seconds` are no real ones."""
    sent: list[Any] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        await asyncio.sleep(seconds)
        if read == len(chunks):
            return {"type": "http.disconnect"}
        read += 1
        return {"type": "http.request", "body": chunks[read - 1], "more_body": read < len(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    named = {**BEARER, "content-type": "application/json", **headers}
    listed = [(name.encode(), value.encode()) for name, value in named.items()]
    scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": listed, "query_string": b"", "root_path": ""}
    with asyncio.Runner(loop_factory=Jumping if seconds else None) as runner:
        runner.run(gate(scope, receive, send))
    return (sent[0]["status"], read, sent[1]["body"]) if sent else (0, read, b"")


def test_bytes_are_counted_as_they_come_and_not_as_declared(caller: Caller) -> None:
    chunks = [b" " * 100_000] * 1000
    code, read, _ = drip(caller.gate, chunks, headers={"content-length": "10"})
    assert code == 413
    assert read == MAX_BYTES // 100_000 + 1
    assert drip(caller.gate, chunks, headers={"content-length": str(MAX_BYTES + 1)})[:2] == (413, 0)
    assert drip(caller.gate, chunks, headers={"content-length": "9" * 5000})[:2] == (413, 0)


def test_a_body_that_drips_is_cut_off_whatever_it_holds(caller: Caller) -> None:
    body = json.dumps({"instances": [GOOD]}).encode()
    chunks = [body[i : i + 1] for i in range(len(body))]
    assert drip(caller.gate, chunks, headers={})[0] == 200
    caller.gate.body_seconds = 0.2
    code, read, content = drip(caller.gate, chunks, headers={}, seconds=0.02)
    assert code == 408
    assert json.loads(content)["error"] == "slow"
    assert read in (9, 10)  # 0.2 seconds of one in 0.02
    assert len(chunks) > 20
    assert caller.service.state.in_flight == 0


def test_a_caller_that_hangs_up_is_no_request(caller: Caller) -> None:
    before = caller.service.state.accepted
    assert drip(caller.gate, [b"{", b""][:1] * 0, headers={})[0] == 0
    assert caller.service.state.accepted == before
    assert caller.service.state.in_flight == 0


def test_compressed_bodies_are_refused(caller: Caller) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    for encoding in ("gzip", "deflate", "br", "identity, gzip"):
        assert status(caller, bomb, **{"content-encoding": encoding}) == (415, "encoding")
    assert status(caller, {"instances": [GOOD]}, **{"content-encoding": "identity"})[0] == 200


def test_other_content_types_are_refused(caller: Caller) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json"):
        assert status(caller, {"instances": [GOOD]}, **{"content-type": kind}) == (415, "content-type")
    assert status(caller, {"instances": [GOOD]}, **{"content-type": "Application/JSON; charset=utf-8"})[0] == 200


def nested(levels: int) -> bytes:
    return b'{"a":' * (levels - 1) + b"[" + b"]" + b"}" * (levels - 1)


def test_json_is_at_most_thirty_two_levels_deep(caller: Caller) -> None:
    assert parse(nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 100, 10_000, 300_000):
        with pytest.raises(Refusal, match="400 json"):
            parse(nested(levels))
        assert status(caller, nested(levels)) == (400, "json")
    assert status(caller, b"[" * (MAX_BYTES - 1)) == (400, "json")


def test_brackets_inside_texts_are_no_levels() -> None:
    text = '\\"' + "[{" * 50 + '\\\\"'
    body = json.dumps({"a": text, "b": [[1], {"c": "]" * 99 + '"' * 7}], text: None}).encode()
    assert body.count(b"[") > MAX_DEPTH
    assert parse(body)["a"] == text


def brute_depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(brute_depth, inner), default=0)


def test_depth_is_what_walking_the_value_gives() -> None:
    rng = np.random.default_rng(0)
    letters = ['"', "\\", "[", "]", "{", "}", "a", "é", "\n"]

    def made(level: int) -> Any:
        kind = rng.integers(0, 4)
        text = "".join(rng.choice(letters, size=rng.integers(0, 8)))
        if level == 0 or kind == 0:
            return text
        inner = [made(level - 1) for _ in range(rng.integers(1, 3))]
        return inner if kind == 1 else {text + str(i): one for i, one in enumerate(inner)}

    seen = set()
    for _ in range(300):
        value = {"a": [made(7), *[[]] * 40]}  # enough brackets that they are counted
        body = json.dumps(value, ensure_ascii=bool(rng.integers(0, 2))).encode()
        assert bodies._depth(body) == brute_depth(value)
        seen.add(brute_depth(value))
    assert len(seen) > 4


NOT_JSON = [b"", b" ", b"null", b"[]", b"1", b'"x"', b"{", b"{]", b"\xff\xfe", '{"a":1}'.encode("utf-16")]
NOT_JSON += [b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":01}', b'{"a":' + b"9" * 5000 + b"}"]
NOT_JSON += [b"{'a':1}", b'{"a":1}x', b"\x00"]


@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_not_one_json_object_is_refused(caller: Caller, body: bytes) -> None:
    assert status(caller, body) == (400, "json")


def test_at_most_a_thousand_rows(caller: Caller) -> None:
    found = caller.predict(*[GOOD] * MAX_ROWS)
    assert found.status_code == 200
    assert len(found.json()["predictions"]) == MAX_ROWS
    refused = caller.predict(*[GOOD] * (MAX_ROWS + 1))
    assert refused.status_code == 422
    assert "1,000" in refused.json()["allowed"]
    assert caller.predict().status_code == 422


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-1e39", "3.5e38", "1" + "0" * 400, "true", '"40"'])
def test_numbers_must_be_numbers_that_float32_holds(caller: Caller, number: str) -> None:
    body = json.dumps({"instances": [{**GOOD, "age": 0}]}).replace('"age": 0', f'"age": {number}')
    assert status(caller, body.encode())[0] in (400, 422)
    tensors = {"inputs": [{"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": [0, 50, 0, 1]}]}
    body = json.dumps(tensors).replace("[0, 50", f"[{number}, 50")
    assert caller.post("/v2/models/tiny/infer", body.encode()).status_code in (400, 422)


def test_everything_wrong_is_said_at_once(caller: Caller) -> None:
    bad = {"age": "old", "job": "z", "sex": "Male", "hourz": 3}
    found = caller.predict(GOOD, bad)
    assert found.status_code == 422
    text = json.dumps(found.json()["problems"])
    for word in ("age", "hourz", "'z'", "'hours' is not given", "a, b, c"):
        assert word in text, word
    assert len(found.json()["problems"]) == 4


def test_keys_that_nobody_reads_are_refused(caller: Caller) -> None:
    found = caller.post(PREDICT, {"instances": [GOOD], "treshold": 0.2})
    assert found.status_code == 422
    assert "treshold" in found.json()["message"]


def test_request_ids_are_returned_only_when_harmless(caller: Caller) -> None:
    for good in ("a", "A1.b-c_d", "x" * 64):
        assert caller.get("/card", headers={"x-request-id": good}).headers["x-request-id"] == good
        refused = caller.get("/nothing", headers={"x-request-id": good})
        assert refused.json()["request_id"] == good
    for bad in ("", "x" * 65, "a b", "a;b", "-x", "<script>", "é".encode(), b"a\nb"):
        found = caller.get("/nothing", headers={"x-request-id": bad})
        assert found.json()["request_id"] == found.headers["x-request-id"]
        assert len(found.headers["x-request-id"]) == 16


def test_addresses_and_methods_that_do_not_exist(caller: Caller) -> None:
    found = caller.get("/nothing")
    assert (found.status_code, found.json()["error"]) == (404, "address")
    assert caller.get("/v2/models/other").status_code == 404
    assert caller.post("/v2/models/other/infer", {}).status_code == 404
    assert caller.get(PREDICT).status_code == 405
    assert caller.post("/card", {}).status_code == 405


def test_a_defect_is_named_by_an_id_and_nothing_else(logged: list[logging.LogRecord]) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret of John")

    found = Caller(Gate(broken, key_of(KEY), State()), None).get("/x", headers={"x-request-id": "r1"})  # type: ignore[arg-type]
    assert found.status_code == 500
    assert found.json() == json.loads(error_body("defect", [_defect()], "r1"))
    assert "request r1: RuntimeError at " in "".join(map(told, logged))
    assert "John" not in "".join(map(told, logged)) + found.text


def _defect() -> Problem:
    return Problem("a defect of the service stopped this request", next="Tell its owner the request_id")


def test_while_stopping_new_requests_are_refused_and_live_is_still_said(caller: Caller) -> None:
    assert caller.get("/v2/health/ready").json()["ready"] is True
    caller.gate.state.is_stopping = True
    for path in ("/v2/health/ready", "/v2/models/tiny/ready", "/card"):
        found = caller.get(path)
        assert (found.status_code, found.json()["error"]) == (503, "stopping")
        assert found.headers["retry-after"]
        assert found.headers["connection"] == "close"
    assert caller.predict(GOOD).status_code == 503
    assert caller.get("/v2/health/live").status_code == 200
    assert caller.get("/card", headers={"authorization": None}).status_code == 401
