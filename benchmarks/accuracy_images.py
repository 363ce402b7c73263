"""How right small networks are on Fashion-MNIST and MNIST, and what that costs: seeds, mean and 95 % t-interval.

Trained on all published training rows with the settings of `assay.train.images`, which were chosen on rows held out of
the training split (batch, rate and mirror for `fashion` on one run; numbers of passes by cost). The test split is read
once a seed, at the end. Through `assay.train.fit`, one thread a seed.
Run: python -m benchmarks.accuracy_images [fashion_small|fashion|mnist] --seeds 5 [--first 0]
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from assay.data.sources.fashion_mnist import load_fashion_mnist
from assay.data.sources.mnist import load_mnist
from assay.models import describe
from assay.models.adapters.module import ModuleModel
from assay.train.images import image_recipe

FLIPPED = {"augment": ["flip"], "mirrored": True}
SETS: dict[str, tuple[Any, dict[str, Any], float, int]] = {  # loader, of `image_recipe`, goal in %, most parameters
    "fashion_small": (load_fashion_mnist, {"epochs": 12, **FLIPPED}, 92.5, 100_000),
    "fashion": (load_fashion_mnist, {"epochs": 8, "depths": [1, 1, 1], **FLIPPED}, 93.0, 1_000_000),
    "mnist": (load_mnist, {"epochs": 6, "augment": ["crop:2"]}, 99.4, 100_000),
}
CHANGED: dict[str, dict[str, Any]] = {
    "fashion_small": {"batch_size": 256, "learning_rate": 8e-3},
    "mnist": {},
}  # settings unlike the recipe's
CHANGED["fashion"] = CHANGED["fashion_small"]
FASHION = "2 convolutions, < 100 k: 92.5; ~500 k: 93.4; DenseNet-BC 768 k: 95.4; WRN-40-4 8.9 M: 96.7"
PEERS = {  # % right, parameters: figures their authors gave, not measured here
    "fashion_small": FASHION,
    "fashion": FASHION,
    "mnist": "< 100 k: 99.2; DENSER: 99.7",
}


def run(name: str, seed: int) -> tuple[float, float, int]:
    """Share of test rows answered rightly, CPU seconds of training, parameters."""
    load, options, *_ = SETS[name]
    data = load(validation=0.0, fetch=True)
    recipe = image_recipe(data, **options)
    recipe = replace(recipe, settings=replace(recipe.settings, **CHANGED[name]))
    began = time.process_time()
    fitted = recipe.fit(data.splits["train"], data, seed)
    seconds = time.process_time() - began
    test, model = data.splits["test"], fitted.model
    assert isinstance(model, ModuleModel)
    right = float((model.outputs(test.inputs).argmax(axis=1) == test.labels).mean())
    return right, seconds, describe(model.module)["num_parameters"]


def show(name: str, found: list[tuple[float, float, int]]) -> None:
    """Print the seeds of one set, their mean and interval, and whether the goal was reached."""
    right, seconds = 100 * np.array([one[0] for one in found]), np.array([one[1] for one in found])
    half = math.nan
    if len(found) > 1:
        half = float(stats.t.ppf(0.975, len(found) - 1)) * right.std(ddof=1) / math.sqrt(len(found))
    _, _, goal, most = SETS[name]
    told = "reached" if right.mean() >= goal and found[0][2] <= most else "not reached"
    print(f"{name}: {found[0][2]:,} parameters, {SETS[name][1] | CHANGED[name]}")
    print(f"  test accuracy by seed: {', '.join(f'{one:.2f}' for one in right)} %")
    print(f"  mean {right.mean():.2f} %, 95 % t-interval {right.mean() - half:.2f} to {right.mean() + half:.2f}")
    print(f"  CPU seconds a seed: {', '.join(f'{one:.0f}' for one in seconds)}, mean {seconds.mean():.0f}")
    print(f"  goal {goal} % with at most {most:,} parameters: {told} by the mean")
    print(f"  elsewhere: {PEERS[name]}", flush=True)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], help="which sets; both when none is named")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=1, help="seeds trained at the same time")
    given = parser.parse_args()
    for name in given.sets or SETS:
        with ProcessPoolExecutor(given.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting = [pool.submit(run, name, seed) for seed in range(given.first, given.first + given.seeds)]
            show(name, [one.result() for one in waiting])


if __name__ == "__main__":
    main()
