"""Thousands of broken requests: none ends in a 5xx that is not declared, none shows a traceback, none does harm."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from typing import Any

import pytest

from assay.serve.gate import State
from serve_kit import GOOD, Caller

TENSOR = {"name": "inputs", "shape": [1, 4], "datatype": "FP32", "data": [40, 50, 0, 1]}
VALID = {
    "/v1/predict": {"instances": [GOOD, GOOD]},
    "/v1/explain": {"instances": [GOOD], "background": [GOOD], "class": "yes"},
    "/v2/models/tiny/infer": {"id": "1", "inputs": [TENSOR], "outputs": [{"name": "probabilities"}], "parameters": {}},
}
ODD = [None, True, False, 0, -1, 1.5, 1e308, 10**30, "", "a", "Male", "\ud800", "\x00", "NaN", [], {}, [[]], [None]]
ODD += [{"a": 1}, [1, 2], "x" * 5000, -0.0, 2**63, "FP32", "BYTES", [1, 4], [0], [[1, 2, 3, 4]], "inputs", "age"]
HEADERS = ["content-type", "content-encoding", "content-length", "inference-header-content-length", "x-request-id"]
HEADERS += ["expect", "transfer-encoding", "host", "accept", "range"]
DECLARED = {"busy", "timeout", "model-failed", "no-answer", "stopping"}


def mutated(value: Any, rng: random.Random) -> Any:
    """The same JSON with one place changed: replaced, dropped, doubled, renamed or wrapped."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        kind = rng.randrange(6)
        if kind == 0:
            return {name: one for name, one in value.items() if name != key}
        if kind == 1:
            return {**value, rng.choice(["", "x", "age", "race", "\ud800", "__class__"]): rng.choice(ODD)}
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place, kind = rng.randrange(len(value)), rng.randrange(5)
        if kind == 0:
            return value[:place] + value[place + 1 :]
        if kind == 1:
            return value * rng.choice([2, 17, 600])
        return [*value[:place], mutated(value[place], rng), *value[place + 1 :]]
    return rng.choice([*ODD, [value], {"v": value}])


def a_body(path: str, rng: random.Random) -> bytes:
    kind = rng.randrange(10)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return json.dumps(rng.choice(ODD)).encode()
    value: Any = VALID[path]
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        value = mutated(value, rng)
    body = bytearray(json.dumps(value).encode())
    if kind == 2 and body:
        for _ in range(rng.randrange(1, 6)):
            body[rng.randrange(len(body))] = rng.randrange(256)
    if kind == 3:
        del body[rng.randrange(len(body) + 1) :]
    return bytes(body)


def the_headers(body: bytes, rng: random.Random) -> dict[str, Any]:
    headers: dict[str, Any] = {"content-type": "application/json", "content-length": str(len(body))}
    if rng.random() < 0.2:
        headers["content-type"] = "application/octet-stream"
        headers["inference-header-content-length"] = str(rng.choice([len(body), 0, rng.randrange(1000)]))
    if rng.random() < 0.2:
        value = rng.choice(["", "0", "-1", "gzip", "x" * 300, "\u00ff", "1e3", "application/json", "chunked"])
        headers[rng.choice(HEADERS)] = value.encode("latin-1")
    return headers


async def fuzz(caller: Caller, num: int, seed: int) -> State:
    rng = random.Random(seed)
    for index in range(num):
        path = rng.choice(list(VALID))
        body = a_body(path, rng)
        headers = the_headers(body, rng)
        started = time.monotonic()
        found = await caller.send("POST", path, content=body, headers=headers)
        shown = (index, path, body[:500], headers, found.status_code, found.text[:500])
        assert found.status_code in (200, 400, 408, 413, 415, 422, 503), shown
        assert "Traceback" not in found.text, shown
        assert 'File "' not in found.text, shown
        answer = json.loads(found.content, parse_constant=pytest.fail)
        if found.status_code != 200:
            assert set(answer) == {"error", "message", "allowed", "next", "problems", "request_id"}, shown
            assert found.status_code != 503 or answer["error"] in DECLARED, shown
            assert len(found.content) < 100_000, shown
        assert time.monotonic() - started < 5, shown
        if index % 100 == 99:
            good = await caller.send("POST", "/v1/predict", json=VALID["/v1/predict"])
            assert good.status_code == 200
    return caller.gate.state


def check(caller: Caller, num: int, seed: int, logged: list[logging.LogRecord]) -> None:
    state = asyncio.run(fuzz(caller, num, seed))
    assert state.in_flight == 0
    assert state.statuses[200] > num / 10  # the control: enough of them were nearly good
    assert state.statuses[422] > num / 10
    assert state.statuses[400] > num / 50
    assert state.statuses[500] == 0
    assert "assay.serve" not in {record.name for record in logged}


def test_five_hundred_broken_requests(caller: Caller, logged: list[logging.LogRecord]) -> None:
    check(caller, 500, 0, logged)


@pytest.mark.slow
def test_ten_thousand_broken_requests(caller: Caller, logged: list[logging.LogRecord]) -> None:
    check(caller, 10_000, 1, logged)
