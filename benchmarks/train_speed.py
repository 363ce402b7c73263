"""Training speed: ours, a plain PyTorch loop with a DataLoader, Lightning, and the bare limit, interleaved in one run.

Run: python benchmarks/train_speed.py [--rounds 5] [--lightning] [--json FILE]. Lightning needs the peer extra.
Equality first: in float32, with the same seed, order and memory layout, our weights and the plain loop's agree to
1e-5. Then CPU seconds of training on one thread for the same examples (modules built and texts encoded before): an own
convolutional network on pictures, the default MLP on Adult, a GRU on texts. The limit is the bare forward, backward and
optimizer step on one batch that is already in place. The loop's overhead is told step by step: after each of our steps
a twin of the module makes a bare one on a batch cut before, so that both meet the same machine. The share of the peak
is counted operations over the time and the rate of a matrix product measured in the same round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from assay.data import load_adult
from assay.models import build, tensors
from assay.tasks import Classification
from assay.train import Hooks, TrainSettings, describe_costs, fit
from assay.train.schedules import learning_rate
from assay.train.updates import make_optimizer
from assay.values import Array, Column, Groups, Split, texts

Ran = tuple[nn.Module, float]  # trained, and the CPU seconds of training alone: built and encoded before
STEPS = 12  # a run; the first ones warm up in every loop alike


class SmallNet(nn.Module):
    """Three convolutions with BatchNorm and pooling, 64,026 parameters, for pictures of 28 x 28 in grey."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (1, 16, 48, 128), []
        for before, width in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        self.body, self.head = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(128, 10)

    def encode(self, inputs: Array) -> Tensor:
        """Pixels as they are."""
        return torch.from_numpy(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, 1, 28, 28) to (n, 10)."""
        return self.head(self.body(inputs.float() / 255))


class Words(nn.Module):
    """Embedding, GRU, mean over words: 10,000 words, 64 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.recurrent = nn.Embedding(10_000, 64, padding_idx=0), nn.GRU(64, 64, batch_first=True)
        self.head = nn.Linear(64, 2)

    def encode(self, inputs: Array) -> Tensor:
        """Words are their numbers."""
        return torch.tensor([[int(word) for word in text.split()] for text in inputs.tolist()])

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, 40) to (n, 2)."""
        return self.head(self.recurrent(self.embedding(tokens))[0].mean(dim=1))


@dataclass
class Work:
    """The same module, rows, batch and settings for every loop."""

    name: str
    make: Callable[[], nn.Module]
    split: Split
    task: Classification
    columns: tuple[Column, ...]
    settings: TrainSettings


def works() -> list[Work]:
    """The pieces of work that are timed, by name."""
    rng = np.random.default_rng(0)

    def split(inputs: Array, num_classes: int) -> Split:
        num = len(inputs)
        groups = Groups(np.zeros((num, 0), dtype=np.int16), ())
        return Split(inputs, rng.integers(0, num_classes, num), groups, np.arange(1, num + 1))

    def seeded(kind: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            torch.manual_seed(0)
            return kind()

        return make

    adult = load_adult()

    def mlp() -> nn.Module:
        made: Any = build("mlp", columns=adult.columns, num_outputs=2, params={"hidden": [64, 64], "num_bins": 32})
        made.fit_encoding(adult.splits["train"])
        return made

    settings = TrainSettings(epochs=1, batch_size=128, max_steps=STEPS)
    pixels = rng.integers(0, 256, (128 * STEPS, 1, 28, 28), dtype=np.uint8)
    lines = texts(" ".join(map(str, rng.integers(1, 10_000, 40))) for _ in range(128 * STEPS))
    ten = Classification(tuple("0123456789"))
    image = (Column("image", "image", low=0, high=255, shape=(1, 28, 28)),)
    text = (Column("text", "text", language="en"),)
    two = Classification(("no", "yes"), "yes")
    rows = adult.splits["train"].take(np.arange(512 * 40))
    return [
        Work("small CNN", seeded(SmallNet), split(pixels, 10), ten, image, settings),
        Work("MLP on Adult", seeded(mlp), rows, two, adult.columns, replace(settings, batch_size=512, max_steps=40)),
        Work("GRU on text", seeded(Words), split(lines, 2), two, text, settings),
    ]


class Raw(Dataset[Any]):
    """Rows of the split, one at a time: what a DataLoader is usually given."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.inputs[row], self.labels[row]


def plain_loop(work: Work, *, layout: torch.memory_format = torch.contiguous_format, seed: int = 0) -> Ran:
    """The loop of the tutorials, with our optimizer, schedule and clipping."""
    module, settings = work.make().to(memory_format=layout), work.settings  # type: ignore[call-overload]
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(work.split), generator=order)  # our order, so that weights can be compared
    pairs = Raw(tensors(module, work.split.inputs), torch.from_numpy(work.split.labels))
    optimizer = make_optimizer(module, settings)
    module.train()
    began = time.process_time()
    for step, (inputs, labels) in enumerate(DataLoader(pairs, settings.batch_size, sampler=rows.tolist()), 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), labels).backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.max_grad_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(step, settings.max_steps, settings)
        optimizer.step()
        if step == settings.max_steps:
            break
    return module.eval(), time.process_time() - began


def ours(work: Work, **change: Any) -> Ran:
    module = work.make()
    hooks = Hooks(columns=work.columns)
    facts = fit(module, work.split, task=work.task, settings=replace(work.settings, **change), hooks=hooks)
    return module, facts["cpu_seconds"]


def bare(work: Work, *, bfloat16: bool = False) -> Ran:
    """Forward, backward and optimizer step on one batch in place, in the layout and precision of our loop."""
    module, settings = work.make(), work.settings
    inputs = tensors(module, work.split.inputs[: settings.batch_size])
    labels = torch.from_numpy(work.split.labels[: settings.batch_size])
    if inputs.ndim == 4:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(module, settings)
    module.train()
    began = time.process_time()
    for _ in range(settings.max_steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = module(inputs)
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs.float(), labels).backward()
        optimizer.step()
    return module, time.process_time() - began


def overhead(work: Work, *, bfloat16: bool = False, num_steps: int = 0) -> float:
    """Time of our steps over bare ones, less 1: medians of CPU time, our step and a bare one in turn.

    Ours is all that `fit` does from one step to the next: rows, loss, clipping, checks, progress, ends of epochs.
    """
    twin, inputs, labels = work.make(), tensors(work.make(), work.split.inputs), torch.from_numpy(work.split.labels)
    precision: Any = "bfloat16" if bfloat16 else "float32"
    num_steps = num_steps or 8 * work.settings.max_steps
    settings = replace(work.settings, epochs=10**6, max_steps=num_steps, precision=precision)
    if inputs.ndim == 4:
        twin.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(twin.train(), settings)
    batches = itertools.cycle(zip(inputs.split(settings.batch_size), labels.split(settings.batch_size), strict=True))
    times: list[float] = []

    def bare_step(_: nn.Module) -> None:
        batch, right = next(batches)
        times.append(time.thread_time())
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = twin(batch)
        optimizer.zero_grad()
        nn.functional.cross_entropy(outputs.float(), right).backward()
        optimizer.step()
        del outputs  # what it kept for the backward pass is let go in its own time
        times.append(time.thread_time())

    hooks = Hooks(columns=work.columns, after_step=bare_step)
    fit(work.make(), work.split, task=work.task, settings=settings, hooks=hooks)
    taken = np.diff(times)[num_steps // 10 * 2 :]  # bare, ours, bare, ...: the first tenth warms up
    return float(np.median(taken[1::2]) / np.median(taken[::2]) - 1)


def lightning_loop(work: Work) -> Ran:
    """Lightning's Trainer, everything optional switched off."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.module = work.make()

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return nn.functional.cross_entropy(self.module(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(self.module, work.settings)

    made = Lit()
    pairs = TensorDataset(tensors(made.module, work.split.inputs), torch.from_numpy(work.split.labels))
    trainer = lightning.Trainer(
        max_steps=work.settings.max_steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    began = time.process_time()
    trainer.fit(made, DataLoader(pairs, work.settings.batch_size, shuffle=True))
    return made.module, time.process_time() - began


def peak(bfloat16: bool = False, size: int = 1024) -> float:
    """Operations a second of a square matrix product, one thread."""
    kind = torch.bfloat16 if bfloat16 else torch.float32
    left, right = torch.randn(size, size, dtype=kind), torch.randn(size, size, dtype=kind)
    left @ right
    began = time.process_time()
    for _ in range(3):
        left @ right
    return 3 * 2 * size**3 / (time.process_time() - began)


def difference(work: Work, layout: torch.memory_format) -> float:
    """Largest difference between a weight of ours and of the plain loop after the same steps in float32.

    With sgd: Adam divides by the size of a gradient, and so turns the rounding of one that is nearly 0 (another
    memory layout sums in another order) into a whole step, in either loop.
    """
    work = replace(work, settings=replace(work.settings, optimizer="sgd", learning_rate=0.01))
    pairs = zip(ours(work)[0].parameters(), plain_loop(work, layout=layout)[0].parameters(), strict=True)
    return max(float((one - two).abs().max()) for one, two in pairs)


def measure(work: Work, rounds: int, lightning: bool) -> dict[str, Any]:
    """Median examples a CPU second of every loop, and medians of the ratios taken round by round."""
    loops: dict[str, Callable[[], Ran]] = {
        "ours float32": lambda: ours(work),
        "ours bfloat16": lambda: ours(work, precision="bfloat16"),
        "plain DataLoader": lambda: plain_loop(work),
        "bare limit float32": lambda: bare(work),
        "bare limit bfloat16": lambda: bare(work, bfloat16=True),
    }
    if lightning:
        loops["Lightning"] = lambda: lightning_loop(work)
    taken: dict[str, list[float]] = {name: [] for name in loops}
    peaks: list[float] = []
    for call in loops.values():
        call()  # what is imported or compiled late
    for _ in range(rounds):
        for name, call in loops.items():
            taken[name].append(call()[1])
        peaks.append(peak())
    examples = work.settings.max_steps * work.settings.batch_size

    def ratio(one: str, two: str) -> float:
        return statistics.median(a / b for a, b in zip(taken[two], taken[one], strict=True))

    operations = 3 * describe_costs(work.make(), work.columns, inputs=work.split.inputs[:16])["flops_per_example"]
    found: dict[str, float] = {
        f"{name}: examples/s": round(examples / statistics.median(times)) for name, times in taken.items()
    }
    for kind in ("float32", "bfloat16"):
        found[f"ours {kind} / plain"] = round(ratio(f"ours {kind}", "plain DataLoader"), 2)
        if lightning:
            found[f"ours {kind} / Lightning"] = round(ratio(f"ours {kind}", "Lightning"), 2)
        found[f"overhead over bare {kind}"] = round(overhead(work, bfloat16=kind == "bfloat16"), 3)
        share = [operations * examples / t / p for t, p in zip(taken[f"ours {kind}"], peaks, strict=True)]
        found[f"share of the float32 matrix peak, ours {kind}"] = round(statistics.median(share), 3)
    return found | {"float32 matrix peak, GFLOP/s": round(statistics.median(peaks) / 1e9)}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lightning", action="store_true")
    parser.add_argument("--only", default="", help="part of a name: CNN, MLP, GRU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = {}
    for work in (one for one in works() if options.only in one.name):
        image = work.columns[0].kind == "image"
        apart = difference(work, torch.channels_last if image else torch.contiguous_format)
        assert apart <= 1e-5, f"{work.name}: weights differ by {apart}"
        found = {"largest difference of a weight": apart}
        if image:
            found["the same, other memory layout"] = difference(work, torch.contiguous_format)
        found |= measure(work, options.rounds, options.lightning)
        results[work.name] = found
        print(f"{work.name}: {describe_costs(work.make(), work.columns, inputs=work.split.inputs[:16])}")
        for name, value in found.items():
            print(f"  {name:48} {value:,.3g}" if value < 100 else f"  {name:48} {value:,.0f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
