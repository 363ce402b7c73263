"""What the service answers: Open Inference Protocol v2, named rows, explanations, the card, and a few counters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from assay.digests import plain
from assay.errors import Problem, ServeError
from assay.explain import Explanation
from assay.serve.admission import Served
from assay.serve.background import ABOUT
from assay.serve.bodies import Rows, only_keys, parse, refuse
from assay.serve.counts import Counts
from assay.serve.explaining import EXPLAINS, REFUSED_MEANS, Question, question
from assay.serve.gate import LIVE, Gate, State
from assay.serve.keys import Key
from assay.serve.monitor import Monitor
from assay.serve.oip import CODED, AnyCoder, coder_of, columns_of, infer_rows, tensor, wanted
from assay.serve.refusals import Refusal, to_bytes
from assay.serve.worker import Worker
from assay.values import Array

__all__ = ["Service", "build"]


def build(
    served: Served, worker: Worker, key: Key, counts: Counts | None = None, monitor: Monitor | None = None
) -> tuple[Gate, Service]:
    """The whole application, key and limits included, and the service inside it. The worker must be started.

    Raises ServeError for a system with a limit of rows a key and no `counts` that hold to it.
    """
    if served.limit is not None and (counts is None or counts.limit != served.limit):
        what = f"{served.name} has a limit of rows a key, and nothing holds to it"
        raise ServeError(Problem(what, next="Open its counts: assay.serve.counts.open_counts"))
    state = State()
    monitor = monitor or Monitor(served.columns_told, served.reference, served.task.classes)
    service = Service(served, worker, state, coder_of(served.data, served.group_columns), monitor, counts)
    router = Router(service.routes(), redirect_slashes=False)
    evidence = (
        (b"assay-model-digest", served.model.digest.encode()),
        (b"assay-evidence-id", served.evidence_id.encode()),
    )
    return Gate(router, key, state, evidence), service


@dataclass(frozen=True)
class Service:
    """The endpoints over one system."""

    served: Served
    worker: Worker
    state: State
    coder: AnyCoder
    monitor: Monitor
    counts: Counts | None = None

    def routes(self) -> list[Route]:
        """The route table. Order matters nowhere."""
        get, post = ["GET"], ["POST"]
        return [
            Route(LIVE, self.live, methods=get),
            Route("/v2/health/ready", self.ready, methods=get),
            Route("/v2", self.server, methods=get),
            Route("/v2/models/{name}", self.metadata, methods=get),
            Route("/v2/models/{name}/ready", self.ready, methods=get),
            Route("/v2/models/{name}/infer", self.infer, methods=post),
            Route("/v1/predict", self.predict, methods=post),
            Route("/v1/explain", self.explain, methods=post),
            Route("/card", self.card, methods=get),
            Route("/metrics", self.metrics, methods=get),
            Route("/v1/monitor", self.watch, methods=get),
        ]

    async def live(self, request: Request) -> Response:
        """The process runs: open to all, and says nothing else."""
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        """Verified, warmed, and taking requests; while stopping, the gate has answered 503 before."""
        self._named(request)
        return _json({"name": self.served.name, "ready": True})

    async def server(self, request: Request) -> Response:
        """OIP server metadata."""
        return _json({"name": "assay", "version": "1", "extensions": ["binary_tensor_data"]})

    async def metadata(self, request: Request) -> Response:
        """OIP model metadata."""
        self._named(request)
        task = self.served.task
        inputs = columns_of((*self.served.data.columns, *self._extra_groups()))
        outputs = [{"name": "values", "datatype": "FP32", "shape": [-1, 1]}]
        if task.classes:
            outputs = [{"name": "probabilities", "datatype": "FP32", "shape": [-1, task.num_outputs]}]
            outputs.append({"name": "predictions", "datatype": "BYTES", "shape": [-1]})
        if task.label_names:
            shape = [-1, task.num_outputs]
            outputs = [{"name": "probabilities", "datatype": "FP32", "shape": shape}]
            outputs.append({"name": "predictions", "datatype": "INT64", "shape": shape})
        about = {"name": self.served.name, "versions": ["1"], "platform": "assay", "inputs": inputs, "outputs": outputs}
        coded = {"name": CODED, "datatype": "FP32", "shape": f"[-1, {len(self.served.data.columns)}]"}
        also = {"coded_input": str(coded)} if self.served.data.modality == "table" else {}
        return _json(about | {"parameters": self._evidence(flat=True) | also})

    async def infer(self, request: Request) -> Response:
        """OIP inference."""
        self._named(request)
        self.worker.make_room()
        rows, asked = infer_rows(request.state.body, _header_length(request), self.coder)
        probabilities, answers = await self._answers(request, rows)
        if self.served.task.classes:
            names = np.array([*self.served.task.classes, "", ""], dtype=object)  # a refused row reads "", not a class
            outputs = [tensor("probabilities", probabilities, "FP32"), tensor("predictions", names[answers], "BYTES")]
        elif self.served.task.label_names:
            outputs = [tensor("probabilities", probabilities, "FP32"), tensor("predictions", answers, "INT64")]
        else:
            outputs = [tensor("values", answers.astype(np.float32)[:, None], "FP32")]
        found: dict[str, Any] = {"model_name": self.served.name, "model_version": "1"}
        found |= {"id": asked["id"]} if "id" in asked else {}
        return _json(found | {"outputs": wanted(asked, outputs), "parameters": self._evidence(flat=True)})

    async def predict(self, request: Request) -> Response:
        """Named rows in, probabilities and the answers of the decision rule out."""
        self.worker.make_room()
        body = _json_body(request, ("instances",))
        probabilities, answers = await self._answers(request, self.coder.rows(body.get("instances")))
        classes = self.served.task.classes
        if names := self.served.task.label_names:
            said = [[name for name, one in zip(names, row, strict=True) if one == 1] for row in answers.tolist()]
            found = {"predictions": said, "probabilities": probabilities.tolist(), "labels": names}
            return _json(found | self._evidence())
        if not classes:
            return _json({"predictions": answers.tolist()} | self._evidence())
        told = [classes[one] if one >= 0 else None for one in answers]  # None: the system refuses to answer
        found = {"predictions": told, "probabilities": probabilities.tolist()}
        return _json(found | {"classes": classes} | self._evidence())

    async def explain(self, request: Request) -> Response:
        """Which units moved these answers, against made-up rows or those the caller sends as `background`."""
        self.worker.make_room()
        body = _json_body(request, ("instances", "background", "class"))
        asked = question(self.served, body)
        target = self._target(body.get("class"))

        def call() -> tuple[Explanation, Array, Array]:
            return asked.answer(self.served, target)

        with self._counted(request, asked.num_told):
            found, chosen, refused = await self.worker.run(call)
        _finite(found.values)
        told = {"refused": refused.tolist()} | ({"refused_means": REFUSED_MEANS} if refused.any() else {})
        return _json(self._explained(asked, found, chosen) | told | self._evidence())

    async def card(self, request: Request) -> Response:
        """What is served and what was found: from the open part, so it may be handed out."""
        about, dossier = self.served.dossier.about, self.served.dossier
        policy = {name: about["policy"][name] for name in ("name", "version", "digest", "level", "about")}
        signed = {"signer": self.served.signer, "signer_is_pinned": self.served.is_pinned, "filed": about["filed"]}
        system = {"name": about["system"]["name"], "digest": dossier.system_digest, "task": about["system"]["task"]}
        data = {name: about["data"][name] for name in ("name", "digest", "label", "columns", "group_columns")}
        needs: dict[str, Any] = {"groups_needed": [column.name for column in self.served.group_columns]}
        needs["query_limit"] = None if self.counts is None else self.counts.told(request.state.key)
        findings = plain(list(dossier.findings))
        found = {"verdict": dossier.verdict, "policy": policy, "system": system, "data": data, "findings": findings}
        return _json(
            found | signed | needs | {"explanations_compare_with": ABOUT[self.served.data.modality]} | self._evidence()
        )

    async def metrics(self, request: Request) -> Response:
        """Counters in the Prometheus text format; of what was sent and answered only counts and distances."""
        one, worker = self.state, self.worker
        lines = [f'assay_responses_total{{status="{status}"}} {num}' for status, num in sorted(one.statuses.items())]
        lines += [f"assay_requests_accepted_total {one.accepted}", f"assay_requests_answered_total {one.answered}"]
        lines += [f"assay_request_seconds_total {one.seconds:.6f}", f"assay_requests_waiting {worker.waiting}"]
        lines += [f"assay_model_batches_total {worker.num_batches}", f"assay_model_rows_total {worker.num_rows}"]
        lines += self.monitor.lines()
        return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

    async def watch(self, request: Request) -> Response:
        """Whether the rows asked about still look like those that were measured."""
        return _json(self.monitor.to_json() | self._evidence())

    # -------------------------------------------------------------- pieces

    def _named(self, request: Request) -> None:
        name = request.path_params.get("name", self.served.name)
        if name != self.served.name:
            raise Refusal(404, "model", Problem(f"no model {name[:60]!r} is served", self.served.name))

    def _extra_groups(self) -> list[Any]:
        own = {column.name for column in self.served.data.columns}
        return [column for column in self.served.group_columns if column.name not in own]

    def _evidence(self, *, flat: bool = False) -> dict[str, Any]:
        """What every answer carries; `flat` where the protocol knows no lists."""
        ids = {"model_digest": self.served.model.digest, "evidence_id": self.served.evidence_id}
        warnings = [*self.served.warnings, *self.monitor.warnings]
        return ids | {"warnings": "; ".join(warnings) if flat else warnings}

    def _counted(self, request: Request, num: int) -> AbstractContextManager[None]:
        """Counts rows before they are run, where the system has a limit; none of them where the block raises."""
        return nullcontext() if self.counts is None else self.counts.asking(request.state.key, num)

    async def _answers(self, request: Request, rows: Rows) -> tuple[Array, Array]:
        with self._counted(request, len(rows.inputs)):
            probabilities, answers = await self.worker.ask(rows.inputs, rows.codes)
        _finite(probabilities)
        self.monitor.seen(rows.inputs, answers, rows.filled)
        request.state.rows = len(rows.inputs)
        return probabilities, answers

    def _target(self, named: Any) -> int | None:
        task = self.served.task
        names = task.classes or task.label_names
        if named is None and not task.label_names:
            return task.positive_index if task.classes else 0
        if not isinstance(named, str) or named not in names:
            refuse(f"class {str(named)[:60]!r} is not known", ", ".join(names[:50]) or "none: it is a number")
        return names.index(named)

    def _explained(self, asked: Question, found: Explanation, chosen: Array) -> dict[str, Any]:
        classes = self.served.task.classes or self.served.task.label_names
        return {
            **asked.named(found.values, found.standard_error),
            "base": found.base.tolist(),
            "output": (found.base + found.values.sum(axis=1)).tolist(),
            "explained": [classes[one] if classes else self.served.data.label for one in chosen],
            "explains": EXPLAINS[self.served.data.modality],
            "background": asked.about,
        }


def _json(value: Mapping[str, Any]) -> Response:
    return Response(to_bytes(value), media_type="application/json")


def _json_body(request: Request, keys: tuple[str, ...]) -> dict[str, Any]:
    found = parse(request.state.body)
    only_keys(found, keys)
    return found


def _header_length(request: Request) -> int | None:
    named = request.headers.get("inference-header-content-length")
    if named is None:
        return None
    if not (named.isascii() and named.isdigit() and len(named) < 10):
        refuse("Inference-Header-Content-Length is not a number", "bytes of the JSON part")
    return int(named)


def _finite(answers: Array) -> None:
    """Raises Refusal 503 for answers that are not numbers: NaN is never sent, and never sent as something else."""
    wrong = np.flatnonzero(~np.isfinite(answers).all(axis=1))
    if len(wrong):
        rows = ", ".join(str(row + 1) for row in wrong[:5])
        problem = Problem(f"the model has no answer for {len(wrong)} rows ({rows})", next="Leave these rows out")
        raise Refusal(503, "no-answer", problem)
