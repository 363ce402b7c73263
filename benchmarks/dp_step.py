"""What a step of private training costs: ours, Opacus with hooks and with ghost clipping, and the plain step (limit).

A step is: forward, the clipped sum of the batch's gradients (plain: the summed gradient), and one Adam update; noise is
left out of all. Equality first: ours against gradients of single rows by `torch.func.vmap`. Interleaved; CPU time.
Run: python -m benchmarks.dp_step [--rounds 9]
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.models.transformer import Encoder
from assay.treatments.train._clipped_sums import ClippedSums
from assay.treatments.train._row_gradients import RowGradients

BATCH = 256
NORM = 1.0


class Reader(nn.Module):
    """Tokens `(N, L)` to 2 outputs: embedding, an LSTM or a Transformer block, mean, linear."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        self.kind = kind
        self.body: nn.Module = nn.LSTM(64, 64, batch_first=True) if kind == "LSTM" else Encoder(64, layer_dropout=0.0)
        self.head = nn.Linear(64, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """`(N, L)` to `(N, 2)`."""
        embedded = self.embedding(tokens)
        states = self.body(embedded)[0] if self.kind == "LSTM" else self.body(embedded, tokens >= 0)
        found: Tensor = self.head(states.mean(dim=1))
        return found


def models() -> dict[str, tuple[Callable[[], nn.Module], Tensor, int]]:
    """By name: how to make it, its inputs, its classes."""
    torch.manual_seed(0)
    tokens = torch.randint(0, 1000, (BATCH, 32))
    # Channels innermost for all: the plain step of convolutions and poolings takes half the time so.
    images = torch.randn(BATCH, 1, 28, 28).to(memory_format=torch.channels_last)

    def mlp() -> nn.Module:
        return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))

    def cnn() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 8, 2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Conv2d(16, 32, 4, 2), nn.ReLU(),
            nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10),
        )  # fmt: skip

    return {
        "MLP": (mlp, torch.randn(BATCH, 784), 10),
        "CNN": (cnn, images, 10),
        "LSTM": (lambda: Reader("LSTM"), tokens, 2),
        "Transformer": (lambda: Reader("Transformer"), tokens, 2),
    }


def plain(module: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    """The limit: an ordinary step on the same batch."""
    optimizer = torch.optim.Adam(module.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(module(inputs), labels, reduction="sum").backward()
        optimizer.step()

    return step


def ours(module: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    """One pass, clipped sums, the same update."""
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    clip = ClippedSums(module, max_grad_norm=NORM)
    named = dict(module.named_parameters())

    def losses(outputs: Tensor, at: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, labels[at], reduction="none")

    def step() -> None:
        optimizer.zero_grad()
        sums, _ = clip(inputs, losses)
        for name, parameter in named.items():
            parameter.grad = sums[name]
        optimizer.step()

    return step


def opacus_step(module: nn.Module, inputs: Tensor, labels: Tensor, *, is_ghost: bool) -> Callable[[], None] | None:
    """Opacus' own modules and optimizer, noise multiplier 0; None where it does not know a layer."""
    import opacus
    from opacus.grad_sample.utils import wrap_model
    from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
    from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

    if opacus.validators.ModuleValidator.validate(module):
        return None
    common = {"noise_multiplier": 0.0, "max_grad_norm": NORM, "expected_batch_size": BATCH, "loss_reduction": "sum"}
    adam = torch.optim.Adam(module.parameters(), fused=True)
    if not is_ghost:
        wrapped = wrap_model(module, grad_sample_mode="hooks", loss_reduction="sum")
        optimizer = DPOptimizer(adam, **common)

        def step() -> None:
            optimizer.zero_grad()
            functional.cross_entropy(wrapped(inputs), labels, reduction="sum").backward()
            optimizer.step()

        return step
    ghost = wrap_model(module, grad_sample_mode="ghost", loss_reduction="sum", max_grad_norm=NORM)
    fast = DPOptimizerFastGradientClipping(adam, **common)
    criterion = DPLossFastGradientClipping(ghost, fast, nn.CrossEntropyLoss(reduction="sum"), loss_reduction="sum")

    def ghost_step() -> None:
        fast.zero_grad()
        criterion(ghost(inputs), labels).backward()
        fast.step()

    return ghost_step


def equal(module: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Largest relative difference of a clipped sum to the one from gradients of single rows."""
    found, expected = (
        kind(module, max_grad_norm=NORM)(
            inputs[:32], lambda outputs, at: functional.cross_entropy(outputs, labels[at], reduction="none")
        )[0]
        for kind in (ClippedSums, RowGradients)
    )
    whole = max(float(one.abs().max()) for one in expected.values())
    return max(float((found[name] - one).abs().max()) / whole for name, one in expected.items())


def time_of(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way in each round, after one to warm up."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            for _ in range(3):
                step()
            if number:
                found[name].append((time.process_time() - began) / 3)
    return found


def way_of(name: str, way: str) -> Callable[[], None] | None:
    """One way to take a step of one model; None where a peer refuses it."""
    make, inputs, num_classes = models()[name]
    labels = torch.randint(0, num_classes, (BATCH,), generator=torch.Generator().manual_seed(1))
    if way in ("plain", "ours"):
        return (plain if way == "plain" else ours)(make(), inputs, labels)
    return opacus_step(make(), inputs, labels, is_ghost=way == "ghost")


def peak(name: str, way: str) -> float | None:
    """MiB that three steps add to the largest size of a process of their own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    step = way_of(name, way)
    if step is None:
        return None
    Path("/proc/self/clear_refs").write_text("5")  # the largest size starts anew: importing took more than a step
    before = _status("VmRSS")
    for _ in range(3):
        step()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> float:
    """KiB of one line of this process's status (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    print(f"{'':44}{'CPU time, x plain (median)':>26}{'peak memory, MiB above the start':>36}")
    print(f"{'model':12}{'parameters':>12}{'equal to':>10}{'plain ms':>10}{'ours':>8}{'hooks':>8}{'ghost':>8}", end="")
    print(f"{'plain':>10}{'ours':>8}{'hooks':>8}{'ghost':>8}")
    for name, (make, inputs, num_classes) in models().items():
        labels = torch.randint(0, num_classes, (BATCH,), generator=torch.Generator().manual_seed(1))
        module = make()
        ways = {way: way_of(name, way) for way in ("plain", "ours", "hooks", "ghost")}
        steps = {way: step for way, step in ways.items() if step is not None}
        error = equal(module, inputs, labels)
        found = time_of(steps, rounds)
        ratio = {
            way: statistics.median(a / b for a, b in zip(found[way], found["plain"], strict=True)) for way in found
        }
        size = sum(one.numel() for one in module.parameters())
        told = "".join(
            f"{ratio[way]:8.2f}" if way in ratio else f"{'refused':>8}" for way in ("ours", "hooks", "ghost")
        )
        print(f"{name:12}{size:12,}{error:10.0e}{1000 * statistics.median(found['plain']):10.1f}{told}", end="")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            peaks = list(pool.map(peak, [name] * 4, ["plain", "ours", "hooks", "ghost"]))
        print("  " + "".join(f"{'refused' if one is None else format(one, '.0f'):>8}" for one in peaks), flush=True)


if __name__ == "__main__":
    main()
