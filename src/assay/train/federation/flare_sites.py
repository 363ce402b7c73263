"""NVIDIA FLARE as between machines, on this one: certificates, an aggregator and clients that log in to it over TLS.

Importing this needs nvflare; see `assay.train.federation.flare`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.job_config.api import FedJob
from nvflare.lighter.prov_utils import prepare_builders
from nvflare.lighter.provision import prepare_project
from nvflare.lighter.provisioner import Provisioner

from assay.errors import ModelError, Problem
from assay.storage import make_folder, write_atomic

SERVER, OWNER, ORG = "localhost", "owner@assay.local", "assay"
PARTS = {SERVER: "server.server_train", "": "client.client_train"}  # under nvflare.private.fed.app
BUILDERS = (
    "workspace.WorkspaceBuilder",
    "static_file.StaticFileBuilder",
    "cert.CertBuilder",
    "signature.SignatureBuilder",
)
ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    BUILDERS[0]: {"template_file": ["master_template.yml"]},
    BUILDERS[1]: {"config_folder": "config"},
}
JOIN_SECONDS, STOP_SECONDS = 180, 20
# How long the aggregator waits, after the last round, for a site that is gone to say how its part ended; FLARE's 900 s.
WAITS = {"NVFLARE_CLIENT_OUTCOME_WAIT_TIMEOUT": "5"}


def provision(folder: Path, sites: Sequence[str], *, workflow: str) -> Path:
    """A start-up kit for aggregator, sites and owner: keys, certificates of one root, and what may be loaded.

    The folder with a kit each. Only `workflow` is added to what the aggregator may load; it listens on a free port of
    this machine, and keeps jobs under `folder`, which nobody else may enter: FLARE leaves the key of the root, with
    which anybody could make a certificate that gets in, for all to read.
    """
    members: list[dict[str, Any]] = [{"name": SERVER, "type": "server", "org": ORG, "fed_learn_port": _free_port()}]
    members += [{"name": name, "type": "client", "org": ORG} for name in sites]
    members += [{"name": OWNER, "type": "admin", "org": ORG, "role": "project_admin"}]
    builders = [{"path": f"nvflare.lighter.impl.{one}", "args": dict(ARGUMENTS.get(one, {}))} for one in BUILDERS]
    about = {"api_version": 3, "name": "assay", "description": "assay", "participants": members, "builders": builders}
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    folder.chmod(0o700)
    with contextlib.redirect_stdout(io.StringIO()):
        Provisioner(str(folder), prepare_builders(about), None).provision(prepare_project(about))
    kits = folder / "assay" / "prod_00"
    local = kits / SERVER / "local"
    told = json.loads((local / "resources.json.default").read_text("utf-8"))
    told["class_allow_list"].append(workflow)
    told["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(folder / "snapshots")
    for one in told["components"]:
        if one["id"] == "job_manager":
            one["args"]["uri_root"] = str(folder / "jobs")
    write_atomic(local / "resources.json", json.dumps(told).encode())
    return kits


def run_on_sites(job: FedJob, kits: Path, sites: Sequence[str], *, seconds: float) -> str:
    """Start aggregator and sites from their kits, submit the job, wait for its end, stop all; FLARE's last word on it.

    Raises ModelError when not all sites have logged in after three minutes, or the job is not over after `seconds`.
    """
    with started(kits, sites), tempfile.TemporaryDirectory() as made:
        session = _logged_in(kits, len(sites))
        try:
            job.export_job(made)
            number = session.submit_job(str(Path(made) / job.name))
            deadline = time.monotonic() + seconds
            while not (status := str(session.get_job_status(number))).startswith("FINISHED"):
                if time.monotonic() > deadline:
                    session.abort_job(number)
                    raise ModelError(
                        Problem(f"the FLARE job was {status} after {seconds:.0f} seconds", next=_logs(kits))
                    )
                time.sleep(1)
            return status
        finally:
            with contextlib.suppress(Exception):  # all processes are stopped below, whether it answers or not
                session.shutdown("all", wait=False)
            _close(session)


@contextmanager
def started(kits: Path, sites: Sequence[str]) -> Iterator[None]:
    """The aggregator's process and each site's; afterwards they and all that they started are gone."""
    begun = []
    try:
        for name in (SERVER, *sites):
            log = (kits / name / "log.txt").open("wb")
            told = [f"uid={name}"] if name != SERVER else []
            part = PARTS.get(name, PARTS[""])
            command = [sys.executable, "-u", "-m", f"nvflare.private.fed.app.{part}", "-m", str(kits / name)]
            command += ["-s", "fed_server.json" if name == SERVER else "fed_client.json"]
            command += ["--set", "secure_train=true", *told, f"org={ORG}", "config_folder=config"]
            with log:
                begun.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=kits / name, env=os.environ | WAITS))
        yield
    finally:
        _stop(kits)
        for one in begun:
            one.wait()


def _stop(kits: Path) -> None:
    """A while for every process on these kits to end by itself, as it was asked; then by force, orphans too."""
    everybody = [one for one in psutil.process_iter(["cmdline"]) if _works_on(kits, one.info["cmdline"] or ())]
    _, left = psutil.wait_procs(everybody, timeout=STOP_SECONDS)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS)


def _works_on(kits: Path, command: Sequence[str]) -> bool:
    """Whether a command line is FLARE's own, with one of these kits."""
    return any("nvflare.private" in part for part in command) and any(str(kits) in part for part in command)


def _logged_in(kits: Path, num_sites: int) -> Session:
    """A session of the owner's, as soon as the aggregator and all sites are there."""
    deadline, session = time.monotonic() + JOIN_SECONDS, None
    while time.monotonic() < deadline:
        try:
            session = session or new_secure_session(OWNER, str(kits / OWNER), timeout=10.0)
            if len(session.get_system_info().client_info) == num_sites:
                return session
        except Exception:  # not there yet: FLARE raises many kinds
            _close(session)
            session = None
        time.sleep(1)
    _close(session)
    raise ModelError(Problem(f"the {num_sites} FLARE sites did not log in in {JOIN_SECONDS} seconds", next=_logs(kits)))


def _close(session: Session | None) -> None:
    """End a session: its threads would keep this process from ending."""
    with contextlib.suppress(Exception):
        if session is not None:
            session.close()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _logs(kits: Path) -> str:
    return f"Their logs are {kits}/*/log.txt"
