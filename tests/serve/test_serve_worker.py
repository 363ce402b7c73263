"""Batching: what waits is joined, nobody meets another's row, the queue is bounded."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from assay.data import decode_rows
from assay.serve import worker as module
from assay.serve.admission import Served
from assay.serve.refusals import Refusal
from assay.serve.worker import Worker
from assay.values import Array, System
from serve_kit import GOOD, Echo, calling

NONE = np.zeros((1, 0), dtype=np.int64)


def rows(*numbers: float) -> Array:
    return np.array(numbers, dtype=np.float32)[:, None]


def doubled(inputs: Array, codes: Array) -> tuple[Array, Array]:
    return inputs * 2, inputs[:, 0] + (codes[:, 0] if codes.shape[1] else 0)


class Held:
    """A model that waits until it is let go, so that a queue builds up behind it."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.was_let_go = False
        self.sizes: list[int] = []

    def __call__(self, inputs: Array, codes: Array) -> tuple[Array, Array]:
        self.entered.set()
        self.was_let_go = self.go.wait(10)
        self.sizes.append(len(inputs))
        if (inputs == 1313).any():
            raise ValueError("unlucky")
        return inputs * 2, inputs[:, 0]


async def behind(held: Held, worker: Worker, numbers: list[float]) -> list[Any]:
    """One request alone in the model, the others queued behind it; all results."""
    first = asyncio.create_task(worker.ask(rows(0), NONE))
    await asyncio.to_thread(held.entered.wait, 10)
    rest = [asyncio.create_task(worker.ask(rows(number), NONE)) for number in numbers]
    await asyncio.sleep(0.01)
    held.go.set()
    return await asyncio.gather(first, *rest, return_exceptions=True)


def run(held: Held, numbers: list[float], **options: Any) -> list[Any]:
    worker = Worker(held, **options)
    worker.start()
    try:
        return asyncio.run(behind(held, worker, numbers))
    finally:
        worker.stop(5)


def test_what_waits_is_joined_into_one_call_and_given_back_to_whom_it_belongs() -> None:
    held = Held()
    found = run(held, list(range(1, 101)))
    assert held.sizes == [1, 100]
    for number, (probabilities, answers) in enumerate(found):
        assert probabilities.tolist() == [[number * 2]]
        assert answers.tolist() == [number]


def test_a_call_of_the_model_has_at_most_so_many_rows() -> None:
    held = Held()
    found = run(held, list(range(1, 11)), max_rows=4)
    assert held.sizes == [1, 4, 4, 2]
    assert [int(answers[0]) for _, answers in found] == list(range(11))


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    held = Held()
    found = run(held, list(range(1, 11)), max_waiting=4)
    refused = [one for one in found if isinstance(one, Refusal)]
    assert len(refused) == 7
    assert {(one.status, one.code) for one in refused} == {(503, "busy")}
    assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
    assert [int(one[1][0]) for one in found[:4]] == [0, 1, 2, 3]


def test_one_bad_request_spoils_only_its_own_answer() -> None:
    held = Held()
    found = run(held, [11, 12, 1313, 14])
    assert [one.code if isinstance(one, Refusal) else int(one[1][0]) for one in found] == [
        0,
        11,
        12,
        "model-failed",
        14,
    ]


def test_a_model_that_answers_too_few_rows_is_a_failure_and_never_a_shift() -> None:
    def short(inputs: Array, codes: Array) -> tuple[Array, Array]:
        return inputs[:-1], inputs[:-1, 0]

    worker = Worker(short)
    worker.start()
    with pytest.raises(Refusal, match="model-failed"):
        asyncio.run(worker.ask(rows(1, 2), np.zeros((2, 0))))
    worker.stop(5)


def test_waiting_ends_and_whoever_gave_up_is_not_worked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
    held = Held()
    worker = Worker(held)
    worker.start()

    async def both() -> list[Any]:
        tasks = [asyncio.create_task(worker.ask(rows(number), NONE)) for number in (1, 2, 3)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert worker.waiting == 0
        held.go.set()
        monkeypatch.setattr(module, "WAIT_SECONDS", 10)
        return [*found, await worker.ask(rows(4), NONE)]

    found = asyncio.run(both())
    assert [one.code for one in found[:3]] == ["timeout"] * 3
    assert found[3][1].tolist() == [4]
    assert sum(held.sizes) <= 3 + 1
    assert worker.waiting == 0
    worker.stop(5)


def test_explanations_take_turns_and_are_few() -> None:
    worker = Worker(doubled)
    worker.start()
    go = threading.Event()

    async def several() -> list[Any]:
        calls = [asyncio.create_task(worker.run(lambda i=i: (go.wait(5), i)[1])) for i in range(6)]
        await asyncio.sleep(0.01)
        one = asyncio.create_task(worker.ask(rows(21), NONE))
        go.set()
        return await asyncio.gather(*calls, one, return_exceptions=True)

    found = asyncio.run(several())
    assert found[:4] == [0, 1, 2, 3]
    assert [one.code for one in found[4:6]] == ["busy", "busy"]
    assert found[6][1].tolist() == [21]
    assert worker.calls == worker.waiting == 0
    worker.stop(5)


def test_the_event_loop_stays_live_while_the_model_works() -> None:
    """The model ends only when the loop has turned ten times meanwhile: a loop that waited would wait for ever."""
    held = Held()
    worker = Worker(held)
    worker.start()

    async def ticks() -> int:
        task, count = asyncio.create_task(worker.ask(rows(1), NONE)), 0
        while not task.done():
            await asyncio.sleep(0.005)
            count += held.entered.is_set()
            if count == 10:
                held.go.set()
        return count

    assert asyncio.run(ticks()) >= 10
    assert held.was_let_go
    worker.stop(5)


def mixes(served: Served, num: int, seed: int) -> int:
    """`num` concurrent requests of 1 to 4 rows, every row a canary of its caller; how many calls of the model."""
    rng, echo = np.random.default_rng(seed), Echo()

    async def one(caller: Any, index: int) -> None:
        ages = [(index % 97) + k / 8 for k in range(rng.integers(1, 5))]
        found = await caller.send("POST", "/v1/predict", json={"instances": [{**GOOD, "age": age} for age in ages]})
        shares = [share[1] for share in found.json()["probabilities"]]
        assert shares == pytest.approx([age / 100 for age in ages], abs=1e-6)  # canaries differ by 1e-3 or more

    async def many(caller: Any) -> None:
        for start in range(0, num, 200):
            await asyncio.gather(*[one(caller, index) for index in range(start, min(num, start + 200))])

    with calling(replace(served, model=echo)) as caller:
        asyncio.run(many(caller))
    assert max(echo.sizes) > 4  # requests were joined
    return len(echo.sizes)


def test_nobody_gets_the_row_of_another(served: Served) -> None:
    assert mixes(served, 400, 0) < 400


@pytest.mark.slow
def test_nobody_gets_the_row_of_another_in_ten_thousand_mixes(served: Served) -> None:
    assert mixes(served, 10_000, 1) < 10_000


def test_joined_answers_are_those_of_one_request_alone(served: Served, tiny: System) -> None:
    inputs = tiny.data.splits["test"].inputs[:200]
    instances = decode_rows(tiny.data, inputs)
    alone = np.concatenate([served.probabilities(inputs[i : i + 1]) for i in range(len(inputs))])

    async def many(caller: Any) -> list[Any]:
        return await asyncio.gather(*[caller.send("POST", "/v1/predict", json={"instances": [r]}) for r in instances])

    with calling(served) as caller:
        found = asyncio.run(many(caller))
        assert caller.service.worker.num_batches < len(inputs)
    np.testing.assert_allclose([one.json()["probabilities"][0] for one in found], alone, atol=1e-6)
