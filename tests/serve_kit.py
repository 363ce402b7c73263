"""A tiny trained system, its dossier, and a caller of the service in process."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from assay.dossier import Extras, file_dossier
from assay.evidence.signing import Signer
from assay.models import Architecture
from assay.models.store import save_system
from assay.observe import Workspace
from assay.policy import parse_policy
from assay.serve.admission import Served
from assay.serve.gate import Gate
from assay.serve.keys import key_of
from assay.serve.routes import Service, build
from assay.serve.worker import Worker
from assay.story import audit
from assay.tasks import task_of
from assay.tasks.group_thresholds import GroupThresholds, Mixture
from assay.train import TrainRecipe, TrainSettings
from assay.train.system import train_system
from assay.values import Array, Data, System

KEY = "k" * 40
told = logging.Formatter().format  # a record as it would be written, its exception included
BEARER = {"authorization": f"Bearer {KEY}"}
GOOD = {"age": 40.0, "hours": 50, "job": "a", "sex": "Male"}
POLICY = """name = "tiny"
version = "1"
[clause.c]
cite = "Clause C"
[[rule]]
id = "right"
metric = "accuracy"
at_least = {bound}
clauses = ["c"]
"""


def tiny_system(data: Data) -> System:
    settings = TrainSettings(epochs=2, batch_size=64)
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [8]}), task_of(data), settings)
    return train_system(data, name="tiny", recipe=recipe)


def by_sex(system: System) -> System:
    """The same model with a decision rule that selects every woman and no man, so that groups show in the answers."""
    never = Mixture((), (2.0,), (1.0,))
    rule = GroupThresholds(("sex",), 1, (Mixture(("Female",), (0.0,), (1.0,)),), never, "key")
    return replace(system, decision=rule)


def file_tiny(system: System, folder: Path, signer: Signer, *, bound: float = 0.5) -> Path:
    text = POLICY.format(bound=bound)
    path = folder.with_suffix(".toml")
    path.write_text(text)
    judged = audit(system, policy=str(path), probes=["accuracy"], workspace=Workspace(key=b"k", num_draws=50))
    extras = Extras(receipt=judged.receipt, save_system=save_system)
    parts = {"findings": judged.findings, "policy": parse_policy(text.encode()), "folder": folder, "signer": signer}
    file_dossier(judged.audit, extras=extras, **parts)
    return folder


@dataclass
class Caller:
    """Calls the service as a client with the key would, without a network."""

    gate: Gate
    service: Service

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**BEARER, **options.pop("headers", {})}
        headers = {name: value for name, value in headers.items() if value is not None}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.gate), base_url="http://here") as client:
            return await client.request(method, path, headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self.send("GET", path, **options))

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        return asyncio.run(self.send("POST", path, content=content, headers=headers, **options))

    def predict(self, *instances: dict[str, Any]) -> httpx.Response:
        return self.post("/v1/predict", {"instances": list(instances)})


@contextmanager
def calling(served: Served, **worker: Any) -> Iterator[Caller]:
    own = Worker(served.answer, **worker)
    own.start()
    try:
        yield Caller(*build(served, own, key_of(KEY)))
    finally:
        own.stop(5)


class Echo:
    """A model whose answer is its first input, so that every caller knows its own rows."""

    offers = frozenset({"query"})
    outputs_are = "probabilities"
    digest = "e" * 64
    num_bytes = 0

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def outputs(self, inputs: Array) -> Array:
        self.sizes.append(len(inputs))
        share = inputs[:, :1] / np.float32(100)
        return np.concatenate([1 - share, share], axis=1)
