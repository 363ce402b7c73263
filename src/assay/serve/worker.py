"""One thread that runs the model: what waits is joined into one call, and the event loop stays free."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.errors import Problem
from assay.serve.refusals import Refusal
from assay.values import Array

__all__ = ["LOG", "Worker"]

LOG = logging.getLogger("assay.serve")

Answer = Callable[[Array, Array], tuple[Array, Array]]  # inputs (M, F), codes (M, G) to (M, K), (M,)
MAX_WAITING = 256  # requests
MAX_WAITING_CALLS = 4  # explanations: each is as much work as hundreds of requests
MAX_ROWS = 4096  # in one call of the model; one request alone may have fewer by the limit on rows
WAIT_SECONDS = 30.0


@dataclass(eq=False)
class _Job:
    """Rows to be answered, or (`call`) something that must have the thread to itself."""

    future: asyncio.Future[Any]
    inputs: Array
    codes: Array
    call: Callable[[], Any] | None = None


@dataclass(eq=False)
class Worker:
    """Answers `(M, F)` rows in the order they came, in batches of whole requests of at most `max_rows` rows.

    A request that fails in company is asked again alone, so that it can only spoil its own answer. Limits: floating
    point may differ in the last digits with the size of the batch (1e-6 is tested).
    """

    answer: Answer
    max_waiting: int = MAX_WAITING
    max_rows: int = MAX_ROWS
    waiting: int = field(default=0, init=False)
    calls: int = field(default=0, init=False)
    num_batches: int = field(default=0, init=False)
    num_rows: int = field(default=0, init=False)
    _pending: deque[_Job] = field(default_factory=deque, init=False, repr=False)  # touched by the loop only
    _is_busy: bool = field(default=False, init=False)
    _queue: queue.SimpleQueue[Sequence[_Job] | None] = field(default_factory=queue.SimpleQueue, init=False, repr=False)
    _thread: threading.Thread | None = field(default=None, init=False, repr=False)

    def start(self) -> None:
        """Start the thread; a daemon, so that a model that hangs cannot keep the process alive."""
        self._thread = threading.Thread(target=self._run, name="assay-worker", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End the thread after the batch it has, waiting at most this long."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(seconds)

    def make_room(self) -> None:
        """Raises Refusal 503 when the queue is full: before a body is parsed, so that refusing stays cheap."""
        if self.waiting >= self.max_waiting:
            problem = Problem("too many requests are waiting", f"{self.max_waiting}", "Try again in a second")
            raise Refusal(503, "busy", problem, {"retry-after": "1"})

    async def ask(self, inputs: Array, codes: Array) -> tuple[Array, Array]:
        """The answers to these rows. Raises Refusal 503 when the queue is full, the model fails, or it takes long."""
        self.make_room()
        found: tuple[Array, Array] = await self._wait(inputs, codes, None)
        return found

    async def run(self, call: Callable[[], Any]) -> Any:
        """The result of a call made in the thread, between two batches. Raises Refusal as `ask` does."""
        self.make_room()
        if self.calls >= MAX_WAITING_CALLS:
            problem = Problem("too many explanations are waiting", f"{MAX_WAITING_CALLS}", "Try again in a second")
            raise Refusal(503, "busy", problem, {"retry-after": "1"})
        self.calls += 1
        try:
            nothing = np.empty((0, 0))
            return await self._wait(nothing, nothing, call)
        finally:
            self.calls -= 1

    async def _wait(self, inputs: Array, codes: Array, call: Callable[[], Any] | None) -> Any:
        loop = asyncio.get_running_loop()
        job = _Job(loop.create_future(), inputs, codes, call)
        self.waiting += 1
        job.future.add_done_callback(self._left)
        self._pending.append(job)
        if not self._is_busy:  # soon, not now: whatever was read in this turn of the loop comes along
            self._is_busy = True
            loop.call_soon(self._next)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await job.future
        except TimeoutError as error:
            problem = Problem("the model did not answer in time", f"{WAIT_SECONDS:.0f} seconds", "Send fewer rows")
            raise Refusal(503, "timeout", problem, {"retry-after": "5"}) from error
        except Refusal:
            raise
        except Exception as error:  # whatever a model raises; its text may quote the rows, so only its type is told
            LOG.warning("the model failed with %s", type(error).__name__)
            problem = Problem(f"the model failed on these rows ({type(error).__name__})", next="Send them one by one")
            raise Refusal(503, "model-failed", problem) from error

    def _left(self, _: object) -> None:
        self.waiting -= 1

    def _next(self) -> None:
        """Give the thread one batch: whole requests in their order, or one call; nothing waits: it rests."""
        batch: list[_Job] = []
        num_rows = 0
        while self._pending:
            job = self._pending[0]
            if batch and (job.call is not None or num_rows + len(job.inputs) > self.max_rows):
                break
            self._pending.popleft()
            if job.future.done():  # whoever gave up waiting is not worked for
                continue
            batch.append(job)
            num_rows += len(job.inputs)
            if job.call is not None:
                break
        self._is_busy = bool(batch)
        if batch:
            self._queue.put(batch)

    def _deliver(self, batch: Sequence[_Job], results: Sequence[Any]) -> None:
        for job, result in zip(batch, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        self._next()

    # -------------------------------------------------------------- in the thread

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            results = self._results(batch)
            try:
                batch[0].future.get_loop().call_soon_threadsafe(self._deliver, batch, results)
            except RuntimeError:  # the loop is closed: nobody is left to be answered
                self._is_busy = False

    def _results(self, batch: Sequence[_Job]) -> list[Any]:
        try:
            if batch[0].call is not None:
                return [batch[0].call()]
            inputs = np.concatenate([job.inputs for job in batch])
            probabilities, answers = self.answer(inputs, np.concatenate([job.codes for job in batch]))
            ends = np.cumsum([len(job.inputs) for job in batch])
            self.num_batches += 1
            self.num_rows += len(inputs)
            if not len(inputs) == len(probabilities) == len(answers):
                raise ValueError("not one answer per row")
            return [
                (probabilities[end - len(job.inputs) : end], answers[end - len(job.inputs) : end])
                for end, job in zip(ends, batch, strict=True)
            ]
        except Exception as error:  # a model may raise anything, and must not end the thread
            if len(batch) == 1:
                return [error]
            return [self._results([job])[0] for job in batch]
