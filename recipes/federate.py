"""Three sites train together and keep their rows: aggregator and clients are processes on this machine (NVIDIA FLARE).

python recipes/federate.py [FOLDER] [--kill 2] [--sites]    needs the extra: pip install 'assay[federation]'
The third site is killed in the middle of round 2 (`--kill 0`: never): training goes on without it, and the dossier says
so. FLARE runs this file in each site's process, with `--start`; there it reads that site's rows. With `--sites`
aggregator and sites have certificates and log in over TLS, as between machines; else FLARE simulates them.
"""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np

import assay
from assay.data import load_adult
from assay.models import Architecture
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings
from assay.train.federation import FederatedSettings, LocalSettings, split_clients
from assay.train.federation.flare import answer_rounds, federate_on_flare
from assay.values import Data, Split

SITES, ROUNDS = 3, 5


def parts() -> tuple[Data, list[Split]]:
    """The declared data, and the training rows of each site. In earnest each site reads a file that only it has."""
    data = load_adult()
    clients = split_clients(data.splits["train"], data, num_clients=SITES, skew="dirichlet:1", seed=0)
    return data, [data.splits["train"].take(rows) for rows in clients]


def site(start: str) -> None:
    """What each site's process does: train on its own rows whenever it is asked."""
    import nvflare.client as flare

    flare.init()
    name, (data, rows) = str(flare.get_site_name()), parts()
    own = replace(data, splits={"train": rows[int(name.removeprefix("site-")) - 1]})

    def accident(number: int) -> None:
        if name == f"site-{SITES}" and str(number + 1) == os.environ["ASSAY_KILL_IN_ROUND"]:
            if os.environ["ASSAY_KILL_SITE"]:  # a machine that goes down takes the site's own process with it
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    answer_rounds(start, own, before_answer=accident)


def main() -> None:
    """Train a start on a few rows of the first site, then together; audit and file what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="demo/federate")
    parser.add_argument("--start", help="given by FLARE to the process of a site")
    parser.add_argument("--kill", default="2", help="round in which the third site's process dies")
    parser.add_argument("--sites", action="store_true", help="with certificates, as between machines")
    if (options := parser.parse_args()).start:
        return site(options.start)
    os.environ |= {"ASSAY_KILL_IN_ROUND": options.kill, "ASSAY_KILL_SITE": "1" if options.sites else ""}
    data, rows = parts()
    few = replace(data, splits={**data.splits, "train": rows[0].take(np.arange(500))})
    recipe = TrainRecipe(Architecture("mlp", {"hidden": [64, 64]}), task_of(data), TrainSettings(epochs=2))
    start = assay.train_system(few, name="start", recipe=recipe)
    settings = FederatedSettings(num_clients=SITES, num_rounds=ROUNDS, local=LocalSettings(batch_size=64))
    how = {"folder": options.folder, "round_seconds": 20, "on_sites": options.sites}
    system = federate_on_flare(start, Path(__file__), settings=settings, **how)
    judged = assay.audit(system, probes=["accuracy", "equalized_odds_difference"])
    dossier = assay.file(judged, Path(options.folder) / "dossier")
    told = dossier.about["system"]["lineage"][-1]["outcome"]
    print({name: told[name] for name in ("run", "rounds", "updates", "clients_gone", "clients_lost")})
    print(f"verdict: {judged.verdict}; evidence {dossier.evidence_id[:16]} in {dossier.path}")


if __name__ == "__main__":
    main()
