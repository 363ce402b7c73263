"""No key gets more rows than the limit says: in batches, explanations, at once, after a restart and after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.cli import main
from assay.errors import Problem, ServeError, StorageError
from assay.evidence.signing import Signer
from assay.models.query_limit import QueryLimit
from assay.serve import counts as module
from assay.serve.admission import Served, admit
from assay.serve.counts import DAY, Counts, open_counts
from assay.serve.keys import key_of
from assay.serve.refusals import Refusal
from assay.serve.routes import build
from assay.serve.worker import Worker
from assay.treatments.serve.limit_queries import limit_queries
from assay.values import Array, System
from serve_kit import GOOD, KEY, Caller, Echo, file_tiny

OTHER = "o" * 40
MODEL = "a" * 64
NOON = 20_000.5 * DAY


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@contextmanager
def limited(served: Served, counts: Counts, key: str = KEY) -> Iterator[Caller]:
    worker = Worker(served.answer)
    worker.start()
    try:
        yield Caller(*build(replace(served, limit=counts.limit), worker, key_of(key), counts))
    finally:
        worker.stop(5)


def rows(caller: Caller, num: int, key: str = KEY) -> Any:
    return caller.post("/v1/predict", {"instances": [GOOD] * num}, headers={"authorization": f"Bearer {key}"})


def left(caller: Caller, key: str = KEY) -> int:
    found: int = caller.get("/card", headers={"authorization": f"Bearer {key}"}).json()["query_limit"]["left"]
    return found


def test_rows_of_batches_and_numbers_of_explanations_count_for_each_key_and_after_a_restart(
    served: Served, tmp_path: Path
) -> None:
    limit = QueryLimit(30, "total")
    with closing(open_counts(limit, MODEL, folder=tmp_path, is_new=True)) as counts, limited(served, counts) as caller:
        assert rows(caller, 3).status_code == 200
        coded = {"name": "inputs", "shape": [2, 4], "datatype": "FP32", "data": [40, 50, 0, 1] * 2}
        assert caller.post("/v2/models/tiny/infer", {"inputs": [coded]}).status_code == 200
        assert left(caller) == 25
        assert caller.post("/v1/explain", {"instances": [GOOD]}).status_code == 200
        assert left(caller) == 15  # four attributions with their errors, base and output
        refused = rows(caller, 16)
        assert (refused.status_code, refused.json()["error"]) == (429, "query-limit")
        assert "may ask 15 more" in refused.json()["message"]
        assert refused.json()["next"].startswith("Never with this key")
        assert refused.json()["allowed"] == "30 rows in all"
        assert "retry-after" not in refused.headers
        assert left(caller) == 15  # all or nothing
        assert rows(caller, 6).status_code == 200
        assert caller.post("/v1/explain", {"instances": [GOOD]}).status_code == 429
    with closing(open_counts(limit, MODEL, folder=tmp_path)) as counts:
        with limited(served, counts) as caller:
            assert left(caller) == 9
            assert [rows(caller, num).status_code for num in (10, 9, 1)] == [429, 200, 429]
        with limited(served, counts, OTHER) as caller:
            assert left(caller, OTHER) == 30
            assert [rows(caller, num, OTHER).status_code for num in (30, 1)] == [200, 429]
    raised = QueryLimit(40, "total")  # another limit of the same model goes on counting
    with closing(open_counts(raised, MODEL, folder=tmp_path)) as counts:
        assert counts.left(key_of(KEY).digest.hex()) == counts.left(key_of(OTHER).digest.hex()) == 10


def test_the_next_day_begins_anew_and_a_clock_set_back_does_not(served: Served, tmp_path: Path, clock: Clock) -> None:
    limit = QueryLimit(10, "day")
    opened = open_counts(limit, MODEL, folder=tmp_path, is_new=True, clock=clock)
    with closing(opened) as counts, limited(served, counts) as caller:
        assert [rows(caller, num).status_code for num in (8, 8)] == [200, 429]
        refused = rows(caller, 3)
        assert refused.headers["retry-after"] == str(DAY // 2)
        assert refused.json()["next"] == "Ask again from 2024-10-05T00:00:00Z; or ask 2 rows now"
        never = rows(caller, 11)
        assert never.status_code == 429
        assert "retry-after" not in never.headers
        assert "at most 10 rows a day" in never.json()["next"]
        clock.now += DAY // 2 - 1
        assert rows(caller, 3).headers["retry-after"] == "1"
        clock.now += 1
        assert rows(caller, 10).status_code == 200
        clock.now -= 5 * DAY
        assert rows(caller, 1).status_code == 429
    with closing(open_counts(limit, MODEL, folder=tmp_path, clock=clock)) as counts:
        assert counts.left(key_of(KEY).digest.hex()) == 0
    with closing(open_counts(QueryLimit(20, "total"), MODEL, folder=tmp_path, clock=clock)) as counts:
        assert counts.left(key_of(KEY).digest.hex()) == 2  # all days are counted, whatever the limit was


def test_requests_in_flight_never_go_beyond_the_limit_together(served: Served, tmp_path: Path) -> None:
    echo = Echo()

    def slowly(inputs: Array, codes: Array) -> tuple[Array, Array]:
        time.sleep(0.01)
        return served.answer(inputs, codes)

    worker = Worker(slowly, max_rows=10)
    worker.start()
    limit = QueryLimit(55, "total")
    system = replace(served, model=echo, limit=limit)
    with closing(open_counts(limit, MODEL, folder=tmp_path, is_new=True)) as counts:
        caller = Caller(*build(system, worker, key_of(KEY), counts))
        body = json.dumps({"instances": [GOOD] * 10}).encode()

        async def all_at_once() -> list[int]:
            headers = {"content-type": "application/json"}
            sent = [caller.send("POST", "/v1/predict", content=body, headers=headers) for _ in range(12)]
            return [one.status_code for one in await asyncio.gather(*sent)]

        assert Counter(asyncio.run(all_at_once())) == {200: 5, 429: 7}
        assert worker.num_rows == 50
        assert left(caller) == 5
    worker.stop(5)


def test_what_got_no_answer_is_given_back_and_what_the_model_said_is_not(served: Served, tmp_path: Path) -> None:
    class Broken(Echo):
        def outputs(self, inputs: Array) -> Array:
            if (inputs[:, 0] == 17).any():
                raise RuntimeError
            return np.where(inputs[:, :1] == 18, np.float32(np.nan), super().outputs(inputs))

    limit = QueryLimit(10, "total")
    opened, broken = open_counts(limit, MODEL, folder=tmp_path, is_new=True), replace(served, model=Broken())
    with closing(opened) as counts, limited(broken, counts) as caller:
        assert caller.predict({**GOOD, "age": 17}).json()["error"] == "model-failed"
        assert caller.predict({**GOOD, "age": "old"}).status_code == 422
        assert rows(caller, 1, OTHER).status_code == 401
        caller.service.worker.max_waiting = 0
        assert rows(caller, 2).json()["error"] == "busy"
        caller.service.worker.max_waiting = 9
        assert left(caller) == 10
        assert caller.predict({**GOOD, "age": 18}).json()["error"] == "no-answer"
        assert left(caller) == 9


def test_a_disk_that_takes_nothing_answers_nothing(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError(Problem(f"{tmp_path} is full"))

    limit = QueryLimit(10, "total")
    opened = open_counts(limit, MODEL, folder=tmp_path, is_new=True)
    with closing(opened) as counts, limited(served, counts) as caller:
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_atomic", full)
            refused = rows(caller, 2)
            assert (refused.status_code, refused.json()["error"]) == (503, "count")
            assert str(tmp_path) not in refused.text
        assert left(caller) == 10
        assert rows(caller, 2).status_code == 200


def crash(counts: Counts) -> None:
    """End as a killed process does: nothing is written, and the kernel drops the lock."""
    os.close(counts.lock)


def test_a_crash_forgets_nothing_and_adds_at_most_what_was_ahead(tmp_path: Path, clock: Clock) -> None:
    limit = QueryLimit(1000, "day")  # ten rows ahead
    counts = open_counts(limit, MODEL, folder=tmp_path, is_new=True, clock=clock)

    def ask(num: int) -> None:
        with counts.asking("k", num):
            pass

    def left_after_crash() -> int:
        nonlocal counts
        crash(counts)
        counts = open_counts(limit, MODEL, folder=tmp_path, clock=clock)
        return counts.left("k")

    ask(5)
    assert left_after_crash() == 985
    ask(12)
    ask(10)
    assert left_after_crash() == 963  # the ten ahead are those that were asked without a write
    ask(12)
    ask(11)  # one more than there are ahead
    assert left_after_crash() == 963 - 23 - 10
    ask(1)
    with suppress(RuntimeError), counts.asking("k", 10):
        raise RuntimeError
    ask(20)
    assert left_after_crash() == 930 - 21 - 10
    ask(1)
    clock.now += DAY
    ask(3)  # fewer than were ahead the day before
    assert left_after_crash() == 1000 - 3 - 10
    counts.close()


@pytest.mark.parametrize("per", ["total", "day"])
def test_whatever_happens_no_key_gets_more_than_the_limit(
    tmp_path: Path, clock: Clock, per: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a list of everything that was answered: requests, failures, days, restarts and crashes at random."""
    rng = np.random.default_rng(7)
    monkeypatch.setattr(module, "AHEAD", 12)  # 50 rows: many requests go by without a write
    limit = QueryLimit(600, per)
    counts = open_counts(limit, MODEL, folder=tmp_path, is_new=True, clock=clock)
    answered: list[tuple[str, int, int]] = []
    crashes = {"a": 0, "b": 0}

    def asked(key: str) -> int:
        day = int(clock.now // DAY)
        return sum(num for who, when, num in answered if who == key and (per == "total" or when == day))

    for _ in range(120):
        kind, key, num = rng.random(), str(rng.choice(["a", "b"])), int(rng.integers(1, 24))
        if kind < 0.9:
            with suppress(Refusal, RuntimeError), counts.asking(key, num):
                if kind < 0.2:
                    raise RuntimeError
                answered.append((key, int(clock.now // DAY), num))
        elif kind < 0.94:
            counts.close()
            counts = open_counts(limit, MODEL, folder=tmp_path, clock=clock)
        elif kind < 0.98:
            crash(counts)
            counts = open_counts(limit, MODEL, folder=tmp_path, clock=clock)
            crashes = {who: one + 1 for who, one in crashes.items()}
        else:
            clock.now += DAY * float(rng.choice([0.1, 0.9]))
        for who, num_crashes in crashes.items():  # never more, and less by at most those ahead and one request a crash
            assert asked(who) <= limit.rows
            assert 0 <= limit.rows - asked(who) - counts.left(who) <= num_crashes * (50 + 23)
    assert any(counts.left(who) == 0 for who in crashes) or per == "day"
    assert min(crashes.values()) > 2
    counts.close()


def test_missing_and_damaged_counts_are_refused_and_not_taken_for_zero(tmp_path: Path) -> None:
    limit = QueryLimit(1000, "total")
    with pytest.raises(ServeError, match=r"is missing: how many rows .* not known"):
        open_counts(limit, MODEL, folder=tmp_path)
    counts = open_counts(limit, MODEL, folder=tmp_path, is_new=True)
    with counts.asking("k" * 64, 995):
        pass
    with pytest.raises(ServeError, match="another process counts"):
        open_counts(limit, MODEL, folder=tmp_path)
    counts.close()
    with pytest.raises(ServeError, match="counts already"):
        open_counts(limit, MODEL, folder=tmp_path, is_new=True)
    path = counts.path
    whole = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ServeError, match="is damaged"):
            open_counts(limit, MODEL, folder=tmp_path)
    negative = module._written(MODEL, {"k": [1, -5, 5]})
    for content in (b"", whole[:-1], whole + b"x", whole.replace(MODEL.encode(), b"b" * 64), negative):
        path.write_bytes(content)
        with pytest.raises(ServeError, match="is damaged"):
            open_counts(limit, MODEL, folder=tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises((ServeError, StorageError)):
        open_counts(limit, MODEL, folder=tmp_path)
    path.unlink()
    path.write_bytes(whole)
    with closing(open_counts(limit, MODEL, folder=tmp_path)) as counts:
        assert counts.left("k" * 64) == 5


def test_a_dossier_with_a_limit_is_served_only_with_counts(
    tiny: System, signer: Signer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = file_tiny(limit_queries(tiny, rows=7), tmp_path / "limited", signer)
    served = admit(folder)
    assert served.limit == QueryLimit(7, "total")
    with pytest.raises(ServeError, match="nothing holds to it"):
        build(served, Worker(served.answer), key_of(KEY))
    monkeypatch.setenv("ASSAY_SERVE_KEY", KEY)
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(folder), "--port", "0"])
    assert ended.value.code == 2
    assert "--new-counts" in capsys.readouterr().err
    with closing(open_counts(served.limit, served.model.digest, is_new=True)) as counts:  # in the owner's folder
        worker = Worker(served.answer)
        worker.start()
        caller = Caller(*build(served, worker, key_of(KEY), counts))
        assert [rows(caller, num).status_code for num in (7, 1)] == [200, 429]
        worker.stop(5)
    manifest = folder / "system" / "system.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows":7', b'"rows":8'))
    with pytest.raises(ServeError, match="damaged"):
        admit(folder)


def test_a_dossier_without_a_limit_counts_nothing(passed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(passed), "--new-counts"])
    assert ended.value.code == 2
    assert "has no limit" in capsys.readouterr().err
