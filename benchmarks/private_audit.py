"""What one training, seen from inside, shows of a private trainer with a seeded bug; and what shuffling gives away.

Run: python benchmarks/private_audit.py adult [--epochs 15] [--epsilon 3]   (about 5 to 10 s a line on one core)
     python benchmarks/private_audit.py shuffle   (about 40 s: bounds that one run proves with Poisson coins and with
     shuffled batches at equal noise, simulated, the best score known; the claim is that of Poisson coins)
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

from assay.access.canaries import watched_training
from assay.data import load_adult
from assay.models import Architecture
from assay.observe import Workspace
from assay.probes.privacy._one_run import best_bound
from assay.probes.privacy._steps import likelihood_ratio
from assay.probes.privacy.one_run_audit_of_steps import one_run_audit_of_steps
from assay.stats import make_draws
from assay.tasks import Argmax, task_of
from assay.train import TrainRecipe
from assay.treatments.train._accountant import noise_for
from assay.treatments.train.dp_sgd import DpRecipe, DpSettings
from assay.values import System

BUGS = ("", "no_noise", "clipped_by_batch", "shuffled", "realised_size", "too_little_noise")


def adult(epochs: int, epsilon: float) -> None:
    """One line for the correct trainer and for each bug."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import private_kit

    data = load_adult()
    task, draws = task_of(data), make_draws(b"key", "split", [np.arange(50) % 2])
    recipe = DpRecipe(TrainRecipe(Architecture("mlp"), task), DpSettings(epsilon=epsilon, epochs=epochs))
    no_model: Any = None  # only its recipe is looked at
    for bug in BUGS:
        patch, began = pytest.MonkeyPatch(), time.process_time()
        if bug:
            getattr(private_kit, bug)(patch)
        released = watched_training(System("adult", no_model, data, task, Argmax(), recipe), Workspace())
        patch.undo()
        found: dict[str, Any] = {
            one.metric: one for one in one_run_audit_of_steps(SimpleNamespace(released=released), draws)
        }
        noise, batches = found["noise_against_claim"], found["batches_p_value"]
        print(
            f"{bug or 'correct':17} audited {found['steps_audited_epsilon'].value:5.2f} of {epsilon:g}  noise "
            f"{noise.value:.3f} [{noise.low:.3f}, {noise.high:.3f}]  p {batches.value:8.2g} ({batches.reason})  "
            f"{time.process_time() - began:.1f} CPU s",
            flush=True,
        )


def proved(kind: str, size: tuple[int, int, int], noise: float, rng: np.random.Generator) -> float:
    """The bound from m canaries, T / epochs batches an epoch."""
    num, epochs, batches = size
    if kind == "poisson":
        drawn = rng.random((epochs * batches, num)) < 1 / batches
    else:
        drawn = np.zeros((epochs, batches, num), dtype=bool)
        np.put_along_axis(drawn, rng.integers(0, batches, (epochs, 1, num)), True, axis=1)
        drawn = drawn.reshape(epochs * batches, num)
    included = rng.random(num) < 0.5
    sums = (drawn & included) + noise * rng.standard_normal(drawn.shape)
    return best_bound(likelihood_ratio(sums, noise, 1 / batches), included, delta=1e-5, one_sided=True)[0]


def shuffle() -> None:
    """Means of three runs."""
    rng = np.random.default_rng(0)
    for epochs, batches in ((1, 10), (1, 50), (5, 10), (15, 10), (15, 50)):
        for epsilon in (0.8, 2.0, 4.0, 8.0):
            noise = noise_for(epsilon, 1 / batches, epochs * batches, delta=1e-5)
            line = f"epochs {epochs:2} batches {batches} claim {epsilon:3} noise {noise:.3f}"
            for num in (1000, 5000):
                size = (num, epochs, batches)
                means = [
                    float(np.mean([proved(kind, size, noise, rng) for _ in range(3)]))
                    for kind in ("poisson", "shuffle")
                ]
                line += "  m {}: poisson {:.2f}, shuffled {:.2f}".format(num, *means)
            print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("adult", "shuffle"))
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--epsilon", type=float, default=3.0)
    told = parser.parse_args()
    if told.what == "adult":
        adult(told.epochs, told.epsilon)
    else:
        shuffle()
