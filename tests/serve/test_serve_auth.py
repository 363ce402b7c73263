"""Every route but one needs the key, also routes that do not exist; wrong keys get one and the same answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.routing import Route, Router

from assay.errors import ServeError, StorageError
from assay.serve.gate import LIVE, Gate, State
from assay.serve.keys import VARIABLE, key_of, load_key
from serve_kit import KEY, Caller

WRONG = {
    "none": None,
    "empty": "",
    "no scheme": KEY,
    "bad": "Bearer " + "x" * 40,
    "prefix": "Bearer " + KEY[:-1],
    "longer": f"Bearer {KEY}k",
    "other case": f"Bearer {KEY.upper()}",
    "padded": f"Bearer  {KEY}",
    "trailing": f"Bearer {KEY} x",
    "other scheme": f"Basic {KEY}",
    "digest": f"Bearer {key_of(KEY).digest.hex()}",
    "huge": "Bearer " + "k" * 1_000_000,
    "not ascii": "Bearer \u00ff\u00fe",
}


def test_the_route_table_is_closed(caller: Caller) -> None:
    routes = caller.service.routes()
    assert len(routes) == 11
    paths = [route.path.replace("{name}", "tiny") for route in routes] + ["/", "/nothing", "/v2/health/live/", "/docs"]
    for path in paths:
        for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "ODD"):
            found = asyncio.run(caller.send(method, path, headers={"authorization": None}))
            is_open = path == LIVE and method in ("GET", "HEAD")
            assert found.status_code == (200 if is_open else 401), (method, path)


@pytest.mark.parametrize("name", WRONG)
def test_no_wrong_key_opens_and_none_is_told_apart(caller: Caller, name: str) -> None:
    value = WRONG[name]
    headers = {"authorization": None if value is None else value.encode("latin-1"), "x-request-id": "same"}
    for route in caller.service.routes():
        path = route.path.replace("{name}", "tiny")
        if path == LIVE:
            continue
        method = "POST" if "POST" in (route.methods or ()) else "GET"
        found = asyncio.run(caller.send(method, path, headers=headers))
        assert found.status_code == 401
        assert found.headers["www-authenticate"] == "Bearer"
        assert "assay-model-digest" not in found.headers
        assert found.json()["error"] == "key"
        assert found.content == asyncio.run(caller.send("GET", "/card", headers=headers)).content


def test_the_key_opens_every_route(caller: Caller) -> None:
    for route in caller.service.routes():
        path = route.path.replace("{name}", "tiny")
        method = "POST" if "POST" in (route.methods or ()) else "GET"
        found = asyncio.run(caller.send(method, path))
        assert found.status_code == (415 if method == "POST" else 200), path
        assert path == LIVE or found.headers["assay-model-digest"] == caller.service.served.model.digest
    assert caller.get("/card", headers={"authorization": f"bearer {KEY}"}).status_code == 200


def test_two_authorization_headers_are_none(caller: Caller) -> None:
    accepts = caller.gate.key.accepts
    good = f"Bearer {KEY}".encode()
    assert accepts([good])
    assert not accepts([good, good])
    assert not accepts([])


def test_a_route_added_later_is_closed_too() -> None:
    """The control of deny by default: the route works, and only with the key."""

    async def answer(request: object) -> Response:
        return Response("secret")

    gate = Gate(Router([Route("/new", answer)]), key_of(KEY), State())
    later = Caller(gate, None)  # type: ignore[arg-type]
    assert later.get("/new").text == "secret"
    assert later.get("/new", headers={"authorization": None}).status_code == 401


def test_other_protocols_are_not_answered() -> None:
    sent: list[object] = []

    async def note(message: object) -> None:
        sent.append(message)

    async def nothing() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def reached(*_: object) -> None:
        sent.append("reached")

    asyncio.run(Gate(reached, key_of(KEY), State())({"type": "websocket", "path": LIVE}, nothing, note))
    assert sent == []


def test_a_key_is_made_once_shown_once_and_kept_as_a_digest(tmp_path: Path) -> None:
    key, text = load_key(tmp_path)
    path = tmp_path / "serve.key"
    assert len(text) >= 43
    assert key.accepts([b"Bearer " + text.encode()])
    assert path.stat().st_mode & 0o777 == 0o600
    assert text not in path.read_text()
    assert load_key(tmp_path) == (key, "")
    path.chmod(0o644)
    with pytest.raises(StorageError, match="can be read by others"):
        load_key(tmp_path)
    path.chmod(0o600)
    path.write_text("zz")
    with pytest.raises(ServeError, match="damaged"):
        load_key(tmp_path)


def test_the_environment_names_a_key_but_no_weak_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    assert load_key(tmp_path) == (key_of(KEY), "")
    assert not (tmp_path / "serve.key").exists()
    for weak in ("", "short", "k" * 31, "k" * 20 + " " + "k" * 20, "k" * 2000, "ü" * 40):
        monkeypatch.setenv(VARIABLE, weak)
        with pytest.raises(ServeError, match="no usable key"):
            load_key(tmp_path)


def test_the_key_is_in_no_repr() -> None:
    assert KEY not in repr(key_of(KEY))
    assert key_of(KEY).digest.hex() not in repr(key_of(KEY))
