"""One line a request, without what was sent; a file that is moved away or cannot be written stops nothing."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from assay.errors import ServeError
from assay.serve.requests_log import RequestsLog
from serve_kit import GOOD, KEY, Caller


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_a_request_says_what_became_of_it_and_nothing_that_was_sent(caller: Caller, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    caller.gate.log = RequestsLog(path)
    caller.predict(GOOD, GOOD)
    caller.predict({**GOOD, "job": "secret job"})
    caller.get("/card?key=secret", headers={"authorization": "Bearer wrong-secret", "x-request-id": "mine"})
    caller.get("/" + "x" * 500)
    told = lines(path)
    assert [(one["path"], one["status"], one["rows"]) for one in told[:3]] == [
        ("/v1/predict", 200, 2), ("/v1/predict", 422, 0), ("/card", 401, 0),
    ]  # fmt: skip
    assert (told[2]["request_id"], told[3]["status"], len(told[3]["path"])) == ("mine", 404, 100)
    assert all(one["ms"] >= 0 and one["time"].endswith("Z") for one in told)
    assert "secret" not in path.read_text()
    assert KEY not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_away_is_begun_again(tmp_path: Path) -> None:
    log = RequestsLog(tmp_path / "a")
    log({"n": 1})
    (tmp_path / "a").rename(tmp_path / "a.1")
    log({"n": 2})
    log.close()
    RequestsLog(tmp_path / "a")({"n": 3})  # a restart goes on in the file
    assert [one["n"] for one in lines(tmp_path / "a.1") + lines(tmp_path / "a")] == [1, 2, 3]


def test_a_disk_that_takes_nothing_is_warned_of_once_and_answers_go_on(
    caller: Caller, tmp_path: Path, logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.gate.log = RequestsLog(tmp_path / "a")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert [caller.predict(GOOD).status_code for _ in range(3)] == [200] * 3
    assert [one.getMessage() for one in logged].count(
        f"requests are not logged in {tmp_path / 'a'} (No space left on device)"
    ) == 1
    caller.predict(GOOD)
    assert len(lines(tmp_path / "a")) == 1


def test_a_place_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "other")
    for path in (tmp_path / "none" / "a", tmp_path, tmp_path / "link"):
        with pytest.raises(ServeError, match="requests cannot be logged"):
            RequestsLog(path)
