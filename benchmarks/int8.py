"""8-bit models on one core: ours, torch eager, ONNX Runtime in float32 and in its best 8 bits, torchao compiled.

An MLP on Adult, a convolutional network on Fashion-MNIST and a Transformer on film reviews, trained here for a moment;
one row and 64 rows a call, encoded already, CPU microseconds a call, interleaved. First: that the float32 graph answers
as torch does, how many test rows each is right on, and by how much the group (for pictures: class) that loses most
loses, with a simultaneous 95 % band over the groups. `quantize_dynamic` and `quantize_static` of onnxruntime are at
their best settings known to us (per channel; QDQ; the same calibration rows). torchao needs a C++ compiler.
`--unseen` times nothing: it counts what is lost on the whole test split and on the training rows that the 120 steps
never drew together, since test rows alone leave the interval of a class wide. (The channels' means, or the vocabulary,
were fitted on those rows too; float32 and 8 bits share them.) Beside it: what is lost with weights rounded each for
itself, paired; `--seeds 3` trains as many networks.
Run: python -m benchmarks.int8 [--rounds 9] [--only MLP CNN Transformer] [--no-torchao] [--unseen [--seeds 3]]
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from assay.data.adult import load_adult
from assay.data.sources.fashion_mnist import load_fashion_mnist
from assay.data.sources.sentiment import load_sentiment
from assay.models import Architecture, tensors
from assay.models.adapters.module import evaluation
from assay.models.adapters.onnx import exported, parsed, session_of
from assay.models.by_onnxruntime import lean
from assay.models.kernels import written_out
from assay.models.quantised_graph import unpacked
from assay.observe import module_of
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.treatments.model.quantize_static import quantize_static
from assay.treatments.model.run_by_onnxruntime import run_by_onnxruntime
from assay.values import Array, Split, System

SIZES = (1, 64)
SECONDS = 0.03  # of one way in one round
CALIBRATION = 200
DRAWS = 2000
SMALLEST = 50  # rows of a group
LARGEST = 10_000  # test rows
SETS: dict[str, tuple[Callable[..., Any], str, dict[str, Any], TrainSettings]] = {
    "MLP": (load_adult, "mlp", {"hidden": [1024, 1024]}, TrainSettings(batch_size=256, max_steps=120)),
    "CNN": (load_fashion_mnist, "cnn_vgg", {}, TrainSettings(batch_size=64, max_steps=120, precision="bfloat16")),
    "Transformer": (
        load_sentiment,
        "transformer",
        {"dim": 128, "num_layers": 2, "num_hidden": 512, "vocab_size": 8000},
        TrainSettings(batch_size=64, max_steps=120),
    ),
}
WAYS = ("torch", "ORT float32", "ORT dynamic", "ORT static", "torchao", "ours int8", "its module")
PEERS = WAYS[1:5]
OURS = {"torch": "its module"}  # what is compared with a session is a session, with a module a module


@dataclass(frozen=True)
class Trained:
    """A system, the two that are treated, and where onnxruntime's own are."""

    plain: System
    float32: System
    int8: System
    folder: Path


def make(name: str, folder: Path, seed: int) -> Trained:
    """Train, treat, and let onnxruntime quantise the same graph with the same calibration rows."""
    load, kind, params, settings = SETS[name]
    data = load(**({} if name == "MLP" else {"fetch": True}))
    recipe = TrainRecipe(Architecture(kind, params), task_of(data), settings)
    plain = train_system(data, name=name, recipe=recipe, seed=seed)
    made = Trained(plain, run_by_onnxruntime(plain), quantize_static(plain, calibration_num=CALIBRATION), folder)
    from onnxruntime import quantization

    rows = data.splits["validation"].inputs
    picked = np.linspace(0, len(rows) - 1, min(len(rows), CALIBRATION)).round().astype(np.int64)
    given = fed(plain, rows[picked]).numpy()
    module: Any = copy.deepcopy(module_of(plain))  # as torch exports it, not as ours is prepared for that
    with evaluation(module), written_out(module), torch.no_grad():
        proto = exported(module, fed(plain, rows[:3]))
    lean(proto)  # quantize_dynamic fails on the shapes in between that the exporter writes
    (folder / "float.onnx").write_bytes(proto.SerializeToString())

    class Rows(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"inputs": given[start : start + 64]} for start in range(0, len(given), 64)])

        def get_next(self) -> Any:
            return next(self.left, None)

    if name != "CNN":  # on convolutions it is several times slower than float32
        quantization.quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", per_channel=True)
    quantization.quantize_static(folder / "float.onnx", folder / "static.onnx", Rows(), per_channel=True)
    return made


def fed(system: System, rows: Array) -> torch.Tensor:
    """Raw rows as what the graphs take."""
    given = tensors(module_of(system), rows)
    return given.float() if given.dtype == torch.uint8 else given


def ways_of(made: Trained, *, with_torchao: bool) -> dict[str, Callable[[torch.Tensor], Any]]:
    """One call by each way, from encoded rows to outputs."""
    found: dict[str, Callable[[torch.Tensor], Any]] = {"torch": module_of(made.plain)}
    for name, file in (("ORT float32", "float"), ("ORT dynamic", "dynamic"), ("ORT static", "static")):
        path = made.folder / f"{file}.onnx"
        if path.is_file():
            session = session_of(parsed(path.read_bytes(), str(path)), str(path))
            found[name] = lambda rows, session=session: session.run(["outputs"], {"inputs": rows.numpy()})[0]
    if with_torchao and made.plain.name != "CNN":  # torchao has linear layers only
        found["torchao"] = torchao_of(module_of(made.plain))
    module = cast(Any, made.int8.model).module
    graph = session_of(unpacked(parsed(module.content(), "ours")), "ours")
    found["ours int8"] = lambda rows: graph.run(["outputs"], {"inputs": rows.numpy()})[0]
    return found | {"its module": module}


def torchao_of(module: nn.Module) -> Callable[[torch.Tensor], Any]:
    """Dynamic activations and 8-bit weights, compiled: uncompiled it is slower than float32 at batch 1."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    small = copy.deepcopy(module)
    quantize_(small, Int8DynamicActivationInt8WeightConfig())
    compiled: Callable[[torch.Tensor], Any] = torch.compile(small, dynamic=False)
    return compiled


def time_of(ways: dict[str, Callable[[torch.Tensor], Any]], rows: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a call by each way in each round, after two to warm up."""
    counts: dict[str, int] = {}
    for name, way in ways.items():
        way(rows), way(rows)
        began = time.process_time()
        way(rows)
        counts[name] = max(1, round(SECONDS / max(1e-6, time.process_time() - began)))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            for _ in range(counts[name]):
                way(rows)
            found[name].append((time.process_time() - began) / counts[name])
    return found


def groups_of(classes: Sequence[str], rows: Sequence[Split]) -> dict[str, Array]:
    """Which of the rows are in each group, or class where no groups are declared."""
    columns = rows[0].groups.columns
    if not columns:
        labels = np.concatenate([part.labels for part in rows])
        return {name: labels == code for code, name in enumerate(classes)}
    found, codes = {}, np.concatenate([part.groups.codes for part in rows])
    for place, column in enumerate(columns):
        for code, name in enumerate(column.categories):
            found[f"{column.name}={name}"] = codes[:, place] == code
    return {name: at for name, at in found.items() if at.sum() >= SMALLEST}


def never_drawn(system: System) -> Split:
    """The training rows that were in no batch: the order is the loop's, drawn by the seed."""
    train, settings = system.data.splits["train"], cast(TrainRecipe, system.recipe).settings
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(system.seed))
    return train.take(np.sort(order[settings.max_steps * settings.batch_size :].numpy()))


def worst_drop(groups: dict[str, Array], before: Array, after: Array) -> str:
    """The largest drop of a group's accuracy in points, and its part of a simultaneous band over all groups."""
    lost = before.astype(float) - after
    means = np.array([lost[at].mean() for at in groups.values()])
    errors = np.array([lost[at].std() / np.sqrt(at.sum()) + 1 / at.sum() for at in groups.values()])
    rng = np.random.default_rng(0)
    # Lost answers are whole: sums are drawn as the counts of -1, 0 and 1 that they are made of.
    drawn = np.stack(
        [
            rng.multinomial(at.sum(), [np.mean(lost[at] == step) for step in (-1, 0, 1)], DRAWS) @ [-1, 0, 1] / at.sum()
            for at in groups.values()
        ]
    )
    width = np.quantile((np.abs(drawn - means[:, None]) / errors[:, None]).max(axis=0), 0.95)
    worst = int(means.argmax())
    name, at = list(groups.items())[worst]
    counts = f"{(lost[at] > 0).sum()} lost, {(lost[at] < 0).sum()} won of {at.sum():,}"
    band = f"{100 * (means - width * errors)[worst]:+.2f} to {100 * (means + width * errors)[worst]:+.2f}"
    return f"{name} {100 * means[worst]:+.2f} points ({band}), {counts}, of {len(groups)} groups"


def quality(name: str, made: Trained, *, unseen: bool) -> None:
    """Equality and accuracy, before any timing."""
    test = made.plain.data.splits["test"]
    part = test.take(np.arange(min(len(test), LARGEST)))
    rows = part.inputs
    plain, float32, int8 = (one.model.outputs(rows) for one in (made.plain, made.float32, made.int8))
    gap = np.abs(float32 - plain).max() / np.abs(plain).max()
    assert gap < 1e-4, gap
    right = [answers.argmax(axis=1) == part.labels for answers in (plain, int8)]
    whole = list(made.int8.lineage[-1].outcome["arithmetic"].values())
    static = session_of(parsed((made.folder / "static.onnx").read_bytes(), "static"), "static")
    given = [fed(made.plain, rows[start : start + 500]).numpy() for start in range(0, len(rows), 500)]
    peer = np.concatenate([static.run(["outputs"], {"inputs": one})[0] for one in given]).argmax(axis=1)
    classes = made.plain.data.classes
    print(
        f"{name}: {made.plain.model.num_bytes:,} bytes, ours int8 {made.int8.model.num_bytes:,}; "
        f"float32 graph equal to {gap:.0e}; layers in whole numbers {whole.count('int8')} of {len(whole)}"
    )
    print(
        f"  right on {len(rows):,} of {len(test):,} test rows: {100 * right[0].mean():.2f} %, ours int8 "
        f"{100 * right[1].mean():.2f} %, ORT static {100 * (peer == part.labels).mean():.2f} %; "
        f"largest drop of a group: {worst_drop(groups_of(classes, [part]), *right)}",
        flush=True,
    )
    more = never_drawn(made.plain)
    if unseen and len(more):
        nearest = quantize_static(made.plain, rounding="nearest", calibration_num=CALIBRATION)
        right += [nearest.model.outputs(rows).argmax(axis=1) == part.labels]
        others = [
            one.model.outputs(more.inputs).argmax(axis=1) == more.labels for one in (made.float32, made.int8, nearest)
        ]
        before, *after = (np.concatenate(pair) for pair in zip(right, others, strict=True))
        print(f"  with {len(more):,} training rows never drawn, seed {made.plain.seed}: {100 * before.mean():.2f} %")
        for way, found in zip(("ours int8", "  nearest"), after, strict=True):
            told = worst_drop(groups_of(classes, [part, more]), before, found)
            moved = f"{100 * (found != before).mean():.2f} % changed"
            print(f"    {way} {100 * found.mean():.2f} %, {moved}; largest drop: {told}", flush=True)


def interval(ratios: list[float]) -> str:
    """Median of ratios with a 95 % bootstrap interval over rounds."""
    drawn = np.median(np.random.default_rng(0).choice(ratios, (DRAWS, len(ratios))), axis=1)
    return f"{statistics.median(ratios):.2f} ({np.quantile(drawn, 0.025):.2f}-{np.quantile(drawn, 0.975):.2f})"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=sorted(SETS), nargs="*", default=list(SETS))
    parser.add_argument("--no-torchao", action="store_true")
    parser.add_argument("--unseen", action="store_true", help="more rows for what is lost; no timing")
    parser.add_argument("--seeds", type=int, default=1, help="networks trained, with --unseen")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    lines = [f"{'model':12}{'rows':>5}" + "".join(f"{way:>14}" for way in WAYS)]
    lines[0] += f"{'torch / its module':>20}{'best peer / ours':>20}  best peer"
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False):
        for name in options.only:
            (Path(folder) / name).mkdir()
            for seed in range(options.seeds if options.unseen else 1):
                made = make(name, Path(folder) / name, seed)
                quality(name, made, unseen=options.unseen)
            if options.unseen:
                continue
            ways = ways_of(made, with_torchao=not options.no_torchao)
            for size in SIZES:
                with torch.no_grad():
                    rows = fed(made.plain, made.plain.data.splits["test"].inputs[:size])
                    found = time_of(ways, rows, options.rounds)
                peer = min((way for way in PEERS if way in found), key=lambda way: statistics.median(found[way]))
                ratios = [
                    [a / b for a, b in zip(found[way], found[OURS.get(way, "ours int8")], strict=True)]
                    for way in ("torch", peer)
                ]
                told = "".join(
                    f"{1e6 * statistics.median(found[way]):14,.0f}" if way in found else f"{'-':>14}" for way in WAYS
                )
                lines.append(f"{name:12}{size:>5}{told}{interval(ratios[0]):>20}{interval(ratios[1]):>20}  {peer}")
                print(lines[-1], file=sys.stderr, flush=True)
    if options.unseen:
        return
    print("\nCPU microseconds a call, one thread (median of rounds; ratios: median and 95 % interval over rounds)")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
