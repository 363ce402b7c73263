"""Half of all units taken out: ours, Torch-Pruning and the limit, on Adult and Fashion-MNIST.

Same network, same share of every group, same validation rows; accuracy on the test rows before and after the same
short training, latency interleaved in one run. Two limits: time that falls with the parameters, or with the operations;
and a network that was never larger, built at the widths that are left, which no way of pruning can outrun: what it
misses of the first, the shape misses. Equality first: all must be of the same size. `--widths` trains nothing: it
times such networks at shares of 0.3 to 0.7, as they come and with widths of the nearest multiple of 16.
Run: python benchmarks/pruning.py [--rounds 9] [--only VGG] [--widths]
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
import warnings
from dataclasses import replace
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from assay.data.sources.catalogue import open_named
from assay.models import Architecture, build, describe, tensors
from assay.models.adapters.module import ModuleModel
from assay.observe import module_of
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, describe_costs, fit, train_system
from assay.treatments._pruning import strongest
from assay.treatments.model.prune_channels import prune_channels
from assay.values import Data, System

SHARE, BATCH = 0.5, 32
CASES = {
    "MLP 512-512, Adult": ("adult", Architecture("mlp", {"hidden": [512, 512]}), 20_000, 6),
    "VGG, Fashion": ("fashion_mnist", Architecture("cnn_vgg", {"widths": [32, 64], "hidden": 128}), 2_500, 4),
    "LeNet 16-32, Fashion": (
        "fashion_mnist",
        Architecture("cnn_lenet", {"widths": [16, 32], "hidden": [120, 84]}),
        5_000,
        4,
    ),
    "residual, Fashion": ("fashion_mnist", Architecture("cnn_residual", {"width": 64}), 2_500, 4),
}
MULTIPLE = 16  # channels that a kernel computes at once
SHARES = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
SIZES = (1, 64)
SECONDS = 0.03  # of one network in one round


def fewer(data: Data, num: int) -> Data:
    """The first rows of the training split, 1,000 of the validation and 2,000 of the test split."""
    splits = dict(data.splits)
    for name, most in (("train", num), ("validation", 1000), ("test", 2000)):
        splits[name] = splits[name].take(np.arange(min(most, len(splits[name]))))
    return replace(data, splits=splits)


def peer(system: System, *, taylor: bool) -> nn.Module:
    """Torch-Pruning: groups by its dependency graph, the head's outputs and the encoding left alone."""
    import torch_pruning as tp

    module, split = copy.deepcopy(module_of(system)), system.data.splits["validation"]
    module.requires_grad_(True)
    example = tensors(module, split.inputs[:2]).float()
    kind = tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2)
    ignored = [module.head]
    pruner = tp.pruner.BasePruner(module, example, importance=kind, pruning_ratio=SHARE, ignored_layers=ignored)
    if taylor:
        inputs, labels = tensors(module, split.inputs).float(), torch.from_numpy(np.asarray(split.labels))
        for start in range(0, len(inputs), BATCH):
            at = slice(start, start + BATCH)
            functional.cross_entropy(module(inputs[at]), labels[at]).backward()
    pruner.step()
    return module.eval()


def fresh(architecture: Architecture, data: Data, share: float, multiple: int = 1) -> nn.Module:
    """The same architecture built with smaller widths: never larger, never pruned, never trained."""

    def fewer_of(given: Any) -> Any:
        if not isinstance(given, int):
            return [fewer_of(one) for one in given]
        return len(strongest(torch.arange(float(given)), share, multiple=multiple))

    params = {name: fewer_of(value) for name, value in architecture.params.items()}
    columns, num = data.columns, len(data.classes)
    module = build(architecture.name, columns=columns, num_outputs=num, params=params)
    cast(Any, module).fit_encoding(data.splits["train"])
    return module.eval()


def accuracy(module: nn.Module, data: Data) -> float:
    """Share of test rows answered rightly."""
    test = data.splits["test"]
    return float((ModuleModel(module.eval()).outputs(test.inputs).argmax(1) == test.labels).mean())


def trained(module: nn.Module, system: System) -> nn.Module:
    """A copy after one epoch at a quarter of the rate."""
    module = copy.deepcopy(module).requires_grad_(True)
    settings = TrainSettings(epochs=1, batch_size=128, learning_rate=1e-3)
    fit(module, system.data.splits["train"], task=system.task, settings=settings, seed=1)
    return module.eval()


def times(modules: dict[str, nn.Module], inputs: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of one call of each module in each round."""
    found: dict[str, list[float]] = {name: [] for name in modules}
    rows = {name: tensors(module, inputs) for name, module in modules.items()}

    def seconds(name: str, repeats: int) -> float:
        began = time.process_time()
        for _ in range(repeats):
            modules[name](rows[name])
        return time.process_time() - began

    with torch.inference_mode():
        repeats = {}
        for name in modules:
            number = 1
            while seconds(name, number) < SECONDS:  # the clock may move in steps of ten milliseconds
                number *= 2
            repeats[name] = number
        for _ in range(rounds):
            for name in modules:
                found[name].append(seconds(name, repeats[name]) / repeats[name])
    return found


def report(name: str, system: System, architecture: Architecture, rounds: int) -> None:
    """One table."""
    data, whole = system.data, module_of(system)
    made = {
        "before": whole,
        "ours, taylor": prune_channels(system, sparsity=SHARE).model.module,
        "ours, magnitude": prune_channels(system, sparsity=SHARE, importance="magnitude").model.module,
        "peer, taylor": peer(system, taylor=True),
        "peer, magnitude": peer(system, taylor=False),
        "never larger": fresh(architecture, data, SHARE),
    }
    counts = {way: describe(module)["num_parameters"] for way, module in made.items()}
    rows = data.splits["test"].inputs
    operations = {
        way: describe_costs(module, data.columns, inputs=rows[:16])["flops_per_example"] for way, module in made.items()
    }
    assert len({count for way, count in counts.items() if way != "before"}) == 1, counts
    num, ops = counts["before"] / counts["ours, taylor"], operations["before"] / operations["ours, taylor"]
    print(f"{name}: {counts['before']:,} parameters to {counts['ours, taylor']:,} (x{num:.2f}), operations x{ops:.2f}")
    print(f"  {'':18}{'accuracy':>10}{'trained':>10}", end="")
    print("".join(f"{f'batch {size}':>26}" for size in SIZES))
    timed = {size: times(made, rows[:size], rounds) for size in SIZES}
    for way, module in made.items():
        told = f"  {way:18}{'-':>10}{'-':>10}"
        if way != "never larger":
            told = f"  {way:18}{accuracy(module, data):10.4f}{accuracy(trained(module, system), data):10.4f}"
        for size in SIZES:
            ratios = [a / b for a, b in zip(timed[size]["before"], timed[size][way], strict=True)]
            ratio = statistics.median(ratios)
            shares = f"{ratio / num:4.0%}/{ratio / ops:4.0%}"
            told += f"{1e6 * statistics.median(timed[size][way]):9.0f} us x{ratio:5.2f} {shares}"
        print(told, flush=True)
    print("  (x: times faster than before; shares: of what parameters / operations promise)")
    limits = {
        size: statistics.median(
            a / b for a, b in zip(timed[size]["ours, taylor"], timed[size]["never larger"], strict=True)
        )
        for size in SIZES
    }
    told = ", ".join(f"batch {size} {limit:.2f}" for size, limit in limits.items())
    print(f"  time of ours / of the network that was never larger: {told}", flush=True)


def widths(name: str, data: Data, architecture: Architecture, rounds: int) -> None:
    """Networks built at many widths: the time of each, and of the same at the nearest multiple of 16."""
    rows = data.splits["test"].inputs
    made = {"before": fresh(architecture, data, 0.0)}
    for share in SHARES:
        made |= {f"{share} {step}": fresh(architecture, data, share, step) for step in (1, MULTIPLE)}
    timed = {size: times(made, rows[:size], rounds) for size in SIZES}
    costs = {
        way: (
            describe(module)["num_parameters"],
            describe_costs(module, data.columns, inputs=rows[:16])["flops_per_example"],
        )
        for way, module in made.items()
    }
    print(f"{name}: times faster than before, and share of what parameters / operations promise")
    print(f"  {'share out':12}" + "".join(f"{f'batch {size}, {step}':>26}" for step in ("as is", 16) for size in SIZES))
    for share in SHARES:
        told = f"  {share:<12}"
        for step in (1, MULTIPLE):
            way = f"{share} {step}"
            num, ops = (a / b for a, b in zip(costs["before"], costs[way], strict=True))
            for size in SIZES:
                pairs = zip(timed[size]["before"], timed[size][way], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                told += f"{f'x{ratio:.2f} {ratio / num:.0%}/{ratio / ops:.0%}':>26}"
        print(told, flush=True)


def main() -> None:
    """Train, prune, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="")
    parser.add_argument("--widths", action="store_true", help="train nothing: time networks built at many widths")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name, (source, architecture, num, epochs) in CASES.items():
        if options.only not in name:
            continue
        data = fewer(open_named(source), num)
        if options.widths:
            widths(name, data, architecture, options.rounds)
            continue
        recipe = TrainRecipe(architecture, task_of(data), TrainSettings(epochs=epochs, batch_size=128))
        report(name, train_system(data, name=source, recipe=recipe), architecture, options.rounds)


if __name__ == "__main__":
    main()
