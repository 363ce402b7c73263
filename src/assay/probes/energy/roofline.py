"""How much arithmetic and memory an answer takes, and how much of the machine it gets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.models.adapters.module import evaluation
from assay.models.cost import card
from assay.probes.energy._timing import REPEATS, passes_of, percentile
from assay.registry import EVERY_TASK, probe
from assay.stats import Estimate
from assay.values import Array, Measurement

if TYPE_CHECKING:
    import torch

    from assay.access.timings import Meter

BATCH = 64
SIDE = 512  # of the square matrices whose product gives the peak
WORDS = 1 << 23  # float32 numbers that are copied for the bandwidth: 32 MiB, more than caches hold
ROUNDS = 5
NO_MODULE = "the system has no module whose operations could be counted"


@dataclass(frozen=True)
class Machine:
    """Best of some rounds on this machine, now: operations and bytes a second."""

    peak: float
    bandwidth: float


@probe("energy", tasks=EVERY_TASK, cost=lambda sizes: {"roofline": BATCH, **passes_of(BATCH)})
def roofline(meter: Meter) -> list[Measurement]:
    """Operations and bytes of one answer, their ratio, and the share of the attainable speed that is reached.

    Definition: flops_per_example from torch's counter; bytes_per_example = (weights + 2 x outputs of every layer x
        batch + inputs) / batch, batch = 64; arithmetic_intensity = operations / bytes; attained_share = operations a
        second at the median of 40 passes / min(peak, intensity x bandwidth), peak from a 512 x 512 float32 product and
        bandwidth from a copy of 32 MiB (read and written), the best of five rounds, once a process.
    Shapes: four numbers; the passes of 64 rows that are timed, and one whose outputs are counted.
    Direction: operations and bytes lower, attained share higher is better, intensity neither; units FLOP, bytes, FLOP
        per byte, share.
    Limits: bytes are what must move if nothing stays in a cache and no layers are fused, so the roof is a low one and
        a small model may pass it. Bounds are those of the median time alone. A black box tells no operations.
    Source: Williams, Waterman and Patterson 2009, Roofline, section 3; bounds: David and Nagaraja 2003, section 7.1.

    >>> roof(Machine(peak=100.0, bandwidth=10.0), 2.0), roof(Machine(100.0, 10.0), 50.0)
    (20.0, 100.0)
    """
    import torch

    system = meter.system
    flops = card(system.model, system.data).get("flops_per_example")
    if flops is None:
        return [_one(Estimate(None, None, None, "none", None, NO_MODULE), *about) for about in METRICS]
    module: torch.nn.Module = system.model.module  # type: ignore[attr-defined]
    inputs = system.data.splits["test"].inputs
    meter.ledger.add("roofline", BATCH)
    num_bytes = moved_bytes(system.model, module, inputs[np.arange(BATCH) % len(inputs)]) / BATCH
    machine = _machine_of(torch.get_num_threads())
    seconds = percentile(meter.passes(BATCH, REPEATS[BATCH]).seconds, 0.5)
    best = roof(machine, flops / num_bytes)
    attained = [None if s is None else flops * BATCH / s / best for s in (seconds.value, seconds.high, seconds.low)]
    share = Estimate(attained[0], attained[1], attained[2], seconds.method, None, seconds.reason)
    exact = [Estimate(float(x), float(x), float(x), "exact count") for x in (flops, num_bytes, flops / num_bytes)]
    return [_one(found, *about) for found, about in zip([*exact, share], METRICS, strict=True)]


METRICS: tuple[tuple[str, str, Any], ...] = (
    ("flops_per_example", "FLOP", "lower"),
    ("bytes_per_example", "bytes", "lower"),
    ("arithmetic_intensity", "FLOP per byte", "neither"),
    ("attained_share", "share", "higher"),
)


def _one(found: Estimate, metric: str, unit: str, better: Any) -> Measurement:
    return stats.measured(found, metric, unit=unit, better=better)


def roof(machine: Machine, intensity: float) -> float:
    """Operations a second that can be attained at this intensity."""
    return min(machine.peak, intensity * machine.bandwidth)


@cache  # of a process: systems that are compared stand under one roof
def _machine_of(num_threads: int) -> Machine:
    return measured_machine()


def measured_machine() -> Machine:
    """Peak of a float32 product and bandwidth of a copy, the best of `ROUNDS` rounds in turns."""
    import torch

    one, two = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
    source, target = torch.ones(WORDS), torch.empty(WORDS)
    products, copies = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        torch.mm(one, two)
        between = time.perf_counter()
        target.copy_(source)
        products.append(between - started)
        copies.append(time.perf_counter() - between)
    return Machine(2 * SIDE**3 / min(products), 8 * WORDS / min(copies))


def moved_bytes(model: Any, module: torch.nn.Module, rows: Array) -> float:
    """Bytes of one batch: the weights once, every layer's output written and read, the inputs read."""
    import torch

    total = 0

    def count(layer: torch.nn.Module, _: Any, answer: Any) -> None:
        nonlocal total
        if isinstance(answer, torch.Tensor):
            total += 2 * answer.numel() * answer.element_size()

    leaves = [part for part in module.modules() if not list(part.children())]
    hooks = [part.register_forward_hook(count) for part in leaves]
    try:
        with evaluation(module):
            model.outputs(rows)
    finally:
        for hook in hooks:
            hook.remove()
    size = sum(len(text.encode()) for text in rows.tolist()) if rows.dtype.kind == "T" else rows.nbytes
    return float((model.num_bytes or 0) + total + size)
