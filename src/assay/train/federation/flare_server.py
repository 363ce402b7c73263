"""The aggregator as a workflow of NVIDIA FLARE. Importing this needs nvflare; see `assay.train.federation.flare`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.numpy
import torch
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.model_controller import ModelController
from torch import Tensor

from assay.storage import write_atomic
from assay.train.federation.flare import PLAN, RESULT, START, TOLD
from assay.train.federation.local_work import Correction, LocalSettings, Update, received
from assay.train.federation.rounds import FederatedSettings, Federation

FIRST_SECONDS = 60  # more in the first round, in which clients start


class RemoteWork:
    """Clients in processes or places of their own, asked through FLARE.

    Who has not answered in time, or not with finite weights of the right number and counts of rows and steps, is not
    asked again: one lost client would otherwise cost every round its whole time.
    """

    def __init__(self, controller: ModelController, plan: dict[str, Any]) -> None:
        self.controller, self.plan = controller, plan
        self.num_parameters = int(plan["num_parameters"])
        self.gone: list[list[int]] = []  # by round

    def updates(self, start: Tensor, clients: Sequence[int], number: int, correction: Correction) -> Iterator[Update]:
        """What came back in time, in the order of `clients`."""
        left = set().union(*self.gone)
        names = {self.plan["sites"][client]: client for client in clients if client not in left}
        if not names:
            self.gone.append(sorted(clients))
            return
        task = {"seed": self.plan["seed"], "local": self.plan["settings"]["local"], "number": number}
        told = FLModel(params={"weights": start.numpy().copy()}, meta={"assay": json.dumps(task)})
        seconds = int(self.plan["round_seconds"]) + (0 if number else FIRST_SECONDS)
        answers = self.controller.send_model_and_wait(
            task_name="train", targets=list(names), data=told, min_responses=len(names), timeout=seconds
        )
        found = {}
        for answer in answers or ():
            client = names.get((answer.meta or {}).get("client_name"))
            if client is None:
                continue
            update = received(client, (answer.params or {}).get("change"), answer.meta.get("assay"), like=start)
            if update is not None:
                found[client] = update
        self.gone.append(sorted(set(clients) - set(found)))
        for client in sorted(found):
            yield found[client]


class Averaging(ModelController):  # type: ignore[misc]
    """Runs `Federation` over the clients of a FLARE job; reads its plan and writes its result in `folder`."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def run(self) -> None:
        """All rounds; the result is written even if clients were lost."""
        folder = Path(self.folder)
        plan = json.loads((folder / PLAN).read_text("utf-8"))
        told = plan["settings"]
        settings = FederatedSettings(**{**told, "local": LocalSettings(**told["local"])})
        start = torch.from_numpy(safetensors.numpy.load((folder / START).read_bytes())["weights"])
        work = RemoteWork(self, plan)
        rows = [0] * len(plan["sites"])  # the aggregator is not told beforehand
        federation = Federation(work, start, rows, settings=settings, seed=plan["seed"])
        tally = federation.run()
        write_atomic(folder / RESULT, safetensors.numpy.save({"weights": federation.weights.numpy()}))
        write_atomic(folder / TOLD, json.dumps({**asdict(tally), "gone": work.gone}).encode())
