"""On a GPU: training speed beside a plain loop and bare steps, and joules beside the counter they come from.

Run: python benchmarks/gpu.py [--rounds 5] [--json FILE]. Needs CUDA and pynvml; says so and stops where there is none.
Loops are interleaved, seconds are of the clock, kernels waited for. Equality first: in float32 with the same seed,
order and layout our weights and the plain loop's agree to 1e-4 after a pass (sgd; sums on a GPU have no fixed order).
The plain loop takes batches from a DataLoader with four workers and pinned memory; bare steps run on one batch in
place. Energy: NVML's own counter read just before and after the same window; the interval the meter states must hold
it, and what metering costs is the time of a start and a stop over the window.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from assay.data.sources.catalogue import open_named
from assay.meter import EnergyMeter
from assay.models import build
from assay.tasks import task_of
from assay.train import Hooks, TrainSettings, describe_costs, fit
from assay.train.schedules import learning_rate
from assay.train.updates import make_optimizer
from assay.values import Data, Split

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "residual 83 k": ("cnn_residual", {}),
    "residual 1.3 M": ("cnn_residual", {"width": 128}),
}
SETTINGS = TrainSettings(epochs=1, batch_size=512, optimizer="sgd", learning_rate=0.01, warmup=0.0)


def made(kind: str, data: Data, train: Split) -> nn.Module:
    """The same untrained module every time."""
    torch.manual_seed(0)
    name, params = KINDS[kind]
    module: Any = build(name, columns=data.columns, num_outputs=10, params=params)
    module.fit_encoding(train)
    return module


def ours(kind: str, data: Data, train: Split, **change: Any) -> tuple[nn.Module, float]:
    module = made(kind, data, train)
    facts = fit(
        module, train, task=task_of(data), settings=replace(SETTINGS, **change), hooks=Hooks(columns=data.columns)
    )
    return module, facts["seconds"]


def plain(kind: str, data: Data, train: Split, *, num_workers: int = 4) -> tuple[nn.Module, float]:
    """The loop of the tutorials on a GPU, in our order and layout."""
    module = made(kind, data, train).cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    pairs = TensorDataset(torch.from_numpy(train.inputs), torch.from_numpy(train.labels).long())
    optimizer, steps = make_optimizer(module, SETTINGS), -(-len(train) // SETTINGS.batch_size)
    loader = DataLoader(pairs, SETTINGS.batch_size, sampler=order.tolist(), num_workers=num_workers, pin_memory=True)
    module.train()
    began = time.perf_counter()
    for step, (inputs, labels) in enumerate(loader, 1):
        here, right = inputs.cuda(non_blocking=True), labels.cuda(non_blocking=True)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(here), right).backward()
        nn.utils.clip_grad_norm_(module.parameters(), SETTINGS.max_grad_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(step, steps, SETTINGS)
        optimizer.step()
    torch.cuda.synchronize()
    return module.cpu().to(memory_format=torch.contiguous_format).eval(), time.perf_counter() - began


def bare(kind: str, data: Data, train: Split, *, bfloat16: bool = False) -> tuple[nn.Module, float]:
    """Forward, backward and optimizer step on one batch that is on the GPU already."""
    module = made(kind, data, train).cuda().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    inputs = torch.from_numpy(train.inputs[: SETTINGS.batch_size]).cuda()
    labels = torch.from_numpy(train.labels[: SETTINGS.batch_size]).long().cuda()
    optimizer, steps = make_optimizer(module, SETTINGS), -(-len(train) // SETTINGS.batch_size)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
            outputs = module(inputs)
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs.float(), labels).backward()
        optimizer.step()
    torch.cuda.synchronize()
    return module, time.perf_counter() - began


def peak(size: int = 8192) -> float:
    """Operations a second of a bfloat16 matrix product on random numbers."""
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        left @ right
    torch.cuda.synchronize()
    return 10 * 2 * size**3 / (time.perf_counter() - began)


def speed(kind: str, data: Data, train: Split, rounds: int) -> dict[str, Any]:
    """Equality, then medians of every loop."""
    pairs = zip(ours(kind, data, train)[0].parameters(), plain(kind, data, train)[0].parameters(), strict=True)
    apart = max(float((one - two).abs().max()) for one, two in pairs)
    loops: dict[str, Callable[[], tuple[nn.Module, float]]] = {
        "ours float32": lambda: ours(kind, data, train),
        "ours bfloat16": lambda: ours(kind, data, train, precision="bfloat16"),
        "plain, 4 workers": lambda: plain(kind, data, train),
        "plain, no workers": lambda: plain(kind, data, train, num_workers=0),
        "bare float32": lambda: bare(kind, data, train),
        "bare bfloat16": lambda: bare(kind, data, train, bfloat16=True),
    }
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for call in loops.values():
        call()
    for _ in range(rounds):
        for name, call in loops.items():
            taken[name].append(call()[1])
    found: dict[str, Any] = {"largest difference of a weight": apart}
    found |= {f"{name}: examples/s": round(len(train) / statistics.median(times)) for name, times in taken.items()}
    operations = (
        3 * describe_costs(made(kind, data, train), data.columns, inputs=train.inputs[:16])["flops_per_example"]
    )
    best = statistics.median(taken["ours bfloat16"])
    return found | {"share of the bfloat16 peak": round(operations * len(train) / best / peak(), 4)}


def energy(kind: str, data: Data, train: Split, windows: int = 10) -> dict[str, Any]:
    """Windows of training with the counter read beside the meter."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    held, overheads, last, told, source = 0, [], 0.0, 0.0, ""
    for _ in range(windows):
        meter = EnergyMeter()
        torch.cuda.synchronize()
        began = time.perf_counter()
        meter.start()
        first = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        started = time.perf_counter()
        ours(kind, data, train, epochs=3)
        torch.cuda.synchronize()
        worked = time.perf_counter() - started
        last = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - first) * 1e-3
        found = meter.stop()
        overheads.append((time.perf_counter() - began - worked) / worked)
        gpu = [
            reader.total(found.seconds, found.cpu_seconds)
            for reader in meter._readers
            if "Nvml" in type(reader).__name__
        ]
        held += bool(gpu) and gpu[0].joules is not None and gpu[0].low <= last <= gpu[0].high
        told, source = found.joules or 0.0, f"{found.provenance}: {found.source}"
    return {
        "windows": windows,
        "the stated interval holds the counter": held,
        "overhead of metering": statistics.median(overheads),
        "last window, counter joules": last,
        "last window, meter joules (CPU part included)": told,
        "source": source,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("No CUDA device here: run this on a machine with a GPU and a CUDA build of torch.")
    data = open_named("fashion_mnist")
    train = data.splits["train"]
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for kind in KINDS:
        results[kind] = speed(kind, data, train, options.rounds)
        print(kind, json.dumps(results[kind], indent=1), flush=True)
    results["energy"] = energy("residual 1.3 M", data, train)
    print("energy", json.dumps(results["energy"], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), "utf-8")


if __name__ == "__main__":
    main()
