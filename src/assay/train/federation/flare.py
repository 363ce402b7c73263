"""Federated training between processes, on NVIDIA FLARE: the same rounds and the same work, with clients of their own.

`federate_on_flare` starts an aggregator and its clients on this machine, over loopback; each client runs a script that
calls `answer_rounds` with its own rows: in FLARE's simulator, or in provisioned sites as between machines.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from assay.errors import MissingExtraError, ModelError, Problem
from assay.models.adapters.module import ModuleModel
from assay.storage import write_atomic
from assay.train.federation.local_work import FlatWeights, LocalSettings, LocalWork
from assay.train.federation.rounds import FederatedSettings
from assay.train.recipe import TrainRecipe
from assay.values import Data, Step, System, plain

PLAN, START, RESULT, TOLD = "plan.json", "start.safetensors", "result.safetensors", "result.json"
WORKFLOW = "assay.train.federation.flare_server.Averaging"
SPARE_SECONDS = 180  # for a job on sites to be handed out, and its clients to start


def federate_on_flare(
    system: System,
    script: str | Path,
    *,
    settings: FederatedSettings,
    folder: str | Path,
    round_seconds: int = 60,
    on_sites: bool = False,
) -> System:
    """Train `system` further with clients in processes of their own; the result has no recipe: rows are elsewhere.

    Each client runs `script` with `--start` and the folder of the system. A client that has not answered a round after
    `round_seconds` (a minute more in the first, in which clients start) is left out from then on; the outcome says how
    many were. `folder` keeps the plan, the result and FLARE's logs. Without losses the weights are those of the
    simulation from the same start, to the bit. `on_sites`: aggregator and clients get keys and certificates of one
    root, log in over TLS with both sides' certificates, and the job is submitted to them, as it is between machines
    (some 20 s to begin with); else FLARE's job simulator runs them, without certificates.
    Limits: the aggregator is trusted with every update; epsilon and secure sums are simulated only; everything on this
    machine. Raises MissingExtraError without nvflare, ModelError for what cannot be run so, and when the job fails.
    """
    if importlib.util.find_spec("nvflare") is None:
        raise MissingExtraError("nvflare", "federation")
    folder, script = Path(folder).resolve(), Path(script).resolve()
    recipe, model = _checked(system, settings, script)
    module = copy.deepcopy(model.module)
    flat = FlatWeights(module)
    _write(system, folder, settings, flat, round_seconds)
    status = (_run_on_sites if on_sites else _run_simulated)(folder, script, settings, round_seconds)
    if status or not (folder / TOLD).is_file():
        what = f"the FLARE job ended with status {status or 0} and {'a' if (folder / TOLD).is_file() else 'no'} result"
        raise ModelError(Problem(what, next=f"Its logs are in {folder / 'flare'}"))
    told = json.loads((folder / TOLD).read_text("utf-8"))
    flat.values.copy_(torch.from_numpy(safetensors.numpy.load((folder / RESULT).read_bytes())["weights"]))
    flat.release()
    gone = {client for one in told.pop("gone") for client in one}
    curve = told.pop("curve")
    run = "NVIDIA FLARE, sites with certificates" if on_sites else "NVIDIA FLARE, its simulator"
    outcome = {"run": run, "clients": settings.num_clients, "clients_gone": len(gone), **told}
    outcome["aggregator"] = "it sees every client's update"
    parameters = {**plain(settings), "round_seconds": round_seconds}
    step = Step("federated_averaging", "train", parameters, system.digest, outcome)
    wrapped = recipe.wrap(module.eval(), system.data.columns)
    facts = {**outcome, "curve": curve}
    name, lineage = f"{system.name}+federated_averaging", (*system.lineage, step)
    return replace(system, name=name, model=wrapped, recipe=None, lineage=lineage, facts=facts)


def answer_rounds(start: str | Path, data: Data, *, before_answer: Callable[[int], None] | None = None) -> int:
    """A client's side: train on `data`'s training rows when asked, and answer, until the run is over; rounds answered.

    Called in a process that FLARE started. `start` is the folder of the system that all sites begin with, `data` this
    site's own rows, declared as everybody's are. `before_answer(number)` is called after each round's work. Raises
    ModelError when the system is not one of these columns, or its recipe no plain one.
    """
    import nvflare.client as flare

    from assay.models.store import load_parts, read_manifest, recipe_from_json

    flare.init()
    client = int(str(flare.get_site_name()).rsplit("-", 1)[1]) - 1
    recipe, model = recipe_from_json(read_manifest(start)["recipe"], data), load_parts(start, data).model
    if not isinstance(recipe, TrainRecipe) or not isinstance(model, ModuleModel):
        raise ModelError(Problem(f"{start} was not trained by a plain recipe", "TrainRecipe"))
    split, work, answered = data.splits["train"], None, 0
    nobody = np.zeros(0, dtype=np.int64)
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        task = json.loads(received.meta["assay"])
        if work is None:
            rows = [nobody] * client + [np.arange(len(split))]
            local = LocalSettings(**task["local"])
            work = LocalWork(model.module, split, rows, recipe=recipe, settings=local, seed=task["seed"])
            work.columns = data.columns
            model.module.train()
        weights = torch.from_numpy(np.array(received.params["weights"], dtype=np.float32))
        for update in work.updates(weights, [client], int(task["number"]), lambda _: None):
            if before_answer is not None:
                before_answer(int(task["number"]))
            about = {"loss": update.loss, "num_steps": update.num_steps, "num_rows": update.num_rows}
            change = {"change": update.change.numpy().copy()}
            flare.send(flare.FLModel(params=change, meta={"assay": json.dumps(about)}))
        answered += 1
    return answered


def _checked(system: System, settings: FederatedSettings, script: Path) -> tuple[TrainRecipe, ModuleModel]:
    num = settings.num_clients
    fine = {
        f"the recipe is a {type(system.recipe).__name__}": isinstance(system.recipe, TrainRecipe),
        f"the model is a {type(system.model).__name__}": isinstance(system.model, ModuleModel),
        f"num_clients is {num}": num is not None and num >= 2,
        f"algorithm is {settings.algorithm!r}": settings.algorithm != "scaffold",
        "epsilon, secure_sum or drop_rate is set": not (settings.epsilon or settings.secure_sum or settings.drop_rate),
        f"there is no script {script}": script.is_file(),
    }
    allowed = "a plain recipe, a module, 2 clients or more, fedavg or fedprox, no epsilon, secure sum or drop rate"
    wrong = [Problem(what, allowed) for what, is_fine in fine.items() if not is_fine]
    recipe, model = system.recipe, system.model
    if wrong or not isinstance(recipe, TrainRecipe) or not isinstance(model, ModuleModel):
        raise ModelError(wrong)
    return recipe, model


def _write(system: System, folder: Path, settings: FederatedSettings, flat: FlatWeights, round_seconds: int) -> None:
    """All that the sites begin with: the system, its weights as one vector, the plan, and what FLARE may load."""
    from assay.models.store import save_system

    local = folder / "flare" / "local"
    local.mkdir(parents=True, exist_ok=True)
    for stale in (RESULT, TOLD):
        (folder / stale).unlink(missing_ok=True)
    save_system(system, folder / "system")
    sites = [f"site-{number + 1}" for number in range(int(settings.num_clients or 0))]
    plan: dict[str, Any] = {"settings": asdict(settings), "seed": system.seed, "sites": sites}
    plan |= {"round_seconds": round_seconds, "num_parameters": flat.num_parameters}
    write_atomic(folder / PLAN, json.dumps(plan).encode())
    write_atomic(folder / START, safetensors.numpy.save({"weights": flat.values.numpy()}))
    allowed = {"format_version": 2, "class_allow_list": [WORKFLOW]}
    write_atomic(local / "resources.json", json.dumps(allowed).encode())


def _run_simulated(folder: Path, script: Path, settings: FederatedSettings, _: int) -> str:
    """Run the job to its end in FLARE's simulator; what went wrong."""
    num = int(settings.num_clients or 0)
    job = _job(folder, script, num)
    status = int(job.simulator_run(str(folder / "flare"), threads=num, log_config="ERROR") or 0)
    return str(status) if status else ""


def _run_on_sites(folder: Path, script: Path, settings: FederatedSettings, round_seconds: int) -> str:
    """Run the job to its end in sites with certificates; what went wrong."""
    from assay.train.federation.flare_sites import provision, run_on_sites

    num = int(settings.num_clients or 0)
    sites = [f"site-{number + 1}" for number in range(num)]
    kits = provision(folder / "flare" / "sites", sites, workflow=WORKFLOW)
    seconds = SPARE_SECONDS + settings.num_rounds * round_seconds
    status = run_on_sites(_job(folder, script, num), kits, sites, seconds=seconds)
    return "" if status == "FINISHED:COMPLETED" else status


def _job(folder: Path, script: Path, num_clients: int) -> Any:
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

    from assay.train.federation.flare_server import Averaging

    job = FedJob(name="averaging", min_clients=1)
    job.to_server(Averaging(str(folder)))
    for number in range(num_clients):
        told = f"--start {folder / 'system'}"
        job.to(ScriptRunner(str(script), told, framework=FrameworkType.NUMPY), f"site-{number + 1}")
    return job
