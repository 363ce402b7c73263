"""Robust accuracy of small MNIST networks: ours, AutoAttack, and the bare passes of each.

Run: python benchmarks/robust_accuracy.py [--points 300] [--first 0] [--oracle FOLDER [--again]] [--record FILE]
     [--nets FOLDER] [--case plain-linf adversarial-linf adversarial-l2]
AutoAttack is not on a package index: FOLDER is a checkout of https://github.com/fra31/auto-attack (MIT; the recorded
results are of commit a392200, version "standard", seed 0). Without it the recorded results are read, which count only
for networks with the same digest. Two networks are trained on 15,000 pictures: one plainly, one adversarially (FGSM,
radius 0.2). Equality first: which rows hold under each. Then CPU seconds, model rows, and the limit: the same numbers
of forward and of forward-and-backward rows through the bare network in batches of 250: of the first pictures as they
are, and of the same with noise of the radius, on which pooling takes longer. With --again AutoAttack runs a second time
with seed 1: the rows it then breaks or leaves otherwise are how far any two searches can be expected to agree.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from assay import registry
from assay.access.handles import Query
from assay.data.sources.mnist import load_mnist
from assay.models import Architecture
from assay.models.store import load_system, save_system
from assay.observe import Ledger, Workspace, module_of
from assay.probes.robustness._ensemble import EFFORTS, search
from assay.probes.robustness._scope import Scope
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.units.ranges import ranges
from assay.values import Array, Data, System

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "autoattack.json"
CASES = (("plain", "linf", 0.1), ("adversarial", "linf", 0.2), ("adversarial", "l2", 2.0))
NUM_TRAIN, TRAINED_AT, EPOCHS = 15_000, 0.2, 4
BATCH = 250


@dataclass
class Result:
    """One search of one network."""

    method: str
    holds: list[int]  # test rows that are right and that nothing broke
    cpu_seconds: float
    forward: int  # rows without a gradient
    both: int  # rows forward and backward
    limit_seconds: float = 0.0
    noisy_seconds: float = 0.0  # the limit on pictures with noise

    def line(self, num: int) -> str:
        """As printed."""
        limits = (self.limit_seconds, self.noisy_seconds)
        plain, noisy = (self.cpu_seconds / limit if limit else float("nan") for limit in limits)
        return (
            f"  {self.method:<12} {100 * len(self.holds) / num:6.2f} % {self.cpu_seconds:9.1f} s  "
            f"{self.forward:>10,} forward {self.both:>9,} and backward  {plain:5.2f} x limit, {noisy:5.2f} with noise"
        )


def networks(folder: Path | None, data: Data) -> dict[str, System]:
    """Trained once; from the folder when they are there."""
    names = ("plain", "adversarial")
    if folder is not None and all((folder / name).is_dir() for name in names):
        return {name: load_system(folder / name, data) for name in names}
    settings = TrainSettings(epochs=EPOCHS, batch_size=64, learning_rate=3e-3, weight_decay=1e-4)
    recipe = TrainRecipe(Architecture("cnn_lenet", {"widths": [8, 16], "hidden": [64]}), task_of(data), settings)
    plain = train_system(data, name="plain", recipe=recipe, seed=0)
    treated = registry.TREATMENTS["adversarial_training"].function(plain, radius=TRAINED_AT)
    if folder is not None:
        save_system(plain, folder / "plain")
        save_system(treated, folder / "adversarial")
    return {"plain": plain, "adversarial": treated}


@contextlib.contextmanager
def counted(module: torch.nn.Module) -> Iterator[dict[str, int]]:
    """Rows that go through a module, with and without a gradient."""
    counts = {"forward": 0, "both": 0}

    def count(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        counts["both" if args[0].requires_grad else "forward"] += len(args[0])

    handle = module.register_forward_pre_hook(count)
    try:
        yield counts
    finally:
        handle.remove()


def timed(method: str, system: System, run: Callable[[], Array]) -> Result:
    """Run a search on a system's module, counted."""
    with counted(module_of(system)) as counts:
        began = time.process_time()
        holds = run()
        spent = time.process_time() - began
    return Result(method, np.flatnonzero(holds).tolist(), spent, counts["forward"], counts["both"])


def ours(system: System, rows: range, *, norm: Any, radius: float) -> Result:
    """The probe's search on these rows of the test split."""
    query = Query(system, Workspace(), Ledger(10**10), "adversarial_accuracy")
    known = ranges(query.columns, query.inputs[:1])

    def run() -> Array:
        scope = Scope.of(query, np.arange(rows.start, rows.stop), known, norm=norm, radius=radius, rounded=False)
        found = search(scope, EFFORTS["image"])
        print("  " + ", ".join(f"{name} {int(one.sum())}" for name, one in found.broken.items()) + f" {found.masked}")
        return found.holds

    return timed("ours", system, run)


def autoattack(oracle: Path, system: System, rows: range, *, norm: str, radius: float, seed: int = 0) -> Result:
    """The published code, as it is."""
    sys.path.insert(0, str(oracle))
    from autoattack import AutoAttack

    module, test = module_of(system).eval(), system.data.splits["test"]
    inputs = torch.from_numpy(test.inputs[rows.start : rows.stop]).float() / 255
    labels = torch.from_numpy(test.labels[rows.start : rows.stop]).long()
    name = {"linf": "Linf", "l2": "L2"}[norm]
    attack = AutoAttack(lambda x: module(x * 255), norm=name, eps=radius, version="standard", device="cpu", seed=seed)

    def run() -> Array:
        with contextlib.redirect_stdout(io.StringIO()):
            moved = attack.run_standard_evaluation(inputs, labels, bs=BATCH)
        with torch.no_grad():
            right: Array = (module(moved * 255).argmax(dim=1) == labels).numpy()
        return right

    return timed("AutoAttack", system, run)


def bare(system: System, noise: float = 0.0, num_rounds: int = 9) -> tuple[float, float]:
    """CPU seconds of one row forward, and forward and backward, in batches of 250; uniform noise of so many levels."""
    module, inputs = module_of(system), torch.from_numpy(system.data.splits["test"].inputs[:BATCH]).float()
    spread = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    inputs = (inputs + noise * spread).clamp(0, 255)
    found = []
    for with_gradient in (False, True):
        times = []
        for _ in range(num_rounds):
            batch = inputs.clone().requires_grad_(with_gradient)
            began = time.process_time()
            with torch.set_grad_enabled(with_gradient):
                outputs = module(batch)
            if with_gradient:
                torch.autograd.grad(outputs.sum(), batch)
            times.append(time.process_time() - began)
        found.append(float(np.median(times)) / BATCH)
    return found[0], found[1]


def recorded(system: System, num: int, *, norm: str, radius: float) -> Result | None:
    """What AutoAttack found before, if it was this network and these rows."""
    for one in json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.exists() else []:
        same = one["digest"] == system.model.digest and one["num"] >= num
        if same and (one["norm"], one["radius"]) == (norm, radius):
            holds = [row for row in one["holds"] if row < num]
            return Result("recorded", holds, float("nan"), one["forward"], one["both"])
    return None


def main() -> None:
    """Parse, train, attack, print."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="the first test row: to split the points over processes")
    parser.add_argument("--oracle", type=Path)
    parser.add_argument("--again", action="store_true", help="AutoAttack once more, with seed 1")
    parser.add_argument("--case", nargs="+", choices=[f"{net}-{norm}" for net, norm, _ in CASES])
    parser.add_argument("--record", type=Path)
    parser.add_argument("--nets", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    registry.load()
    data, num, records = load_mnist(fetch=True), options.points, []
    small = Data(**{**vars(data), "splits": {**data.splits, "train": data.splits["train"].take(np.arange(NUM_TRAIN))}})
    systems = networks(options.nets, small)
    for name, norm, radius in CASES:
        if options.case and f"{name}-{norm}" not in options.case:
            continue
        system = systems[name]
        rows = range(options.first, options.first + num)
        print(f"{name} network {system.model.digest[:12]}, {norm}, radius {radius}, {num} test rows", flush=True)
        found = [ours(system, rows, norm=norm, radius=radius)]
        if options.oracle is not None:
            found.append(autoattack(options.oracle, system, rows, norm=norm, radius=radius))
        elif not options.first and (known := recorded(system, num, norm=norm, radius=radius)) is not None:
            found.append(known)
        if options.oracle is not None and options.again:
            again = autoattack(options.oracle, system, rows, norm=norm, radius=radius, seed=1)
            first, second = (set(one.holds) for one in (found[1], again))
            print(f"  AutoAttack, seed 0 alone: {sorted(first - second)}, seed 1 alone: {sorted(second - first)}")
        level = 255 * (radius if norm == "linf" else radius * (3 / 784) ** 0.5)  # uniform noise of the same length
        (forward, both), (noisy, both_noisy) = bare(system), bare(system, level)
        for one in found:
            one.limit_seconds = one.forward * forward + one.both * both
            one.noisy_seconds = one.forward * noisy + one.both * both_noisy
            print(one.line(num), flush=True)
        if len(found) == 2:
            mine, theirs = (set(one.holds) for one in found)
            ratio = found[0].cpu_seconds / found[1].cpu_seconds
            print(f"  held by ours alone: {sorted(mine - theirs)}, by AutoAttack alone: {sorted(theirs - mine)}")
            print(f"  CPU of ours / AutoAttack: {ratio:.2f} (at most 1/3 asked)", flush=True)
            about = {"digest": system.model.digest, "net": name, "norm": norm, "radius": radius, "num": num}
            records.append(about | asdict(found[1]))
    if options.record is not None:
        options.record.write_text(json.dumps(records, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
