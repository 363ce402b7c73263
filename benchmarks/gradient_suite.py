"""Gradient explanations and their checks on 256 inputs: ours, captum by default and tuned, and the limit, in one run.

Run: python benchmarks/gradient_suite.py [--inputs 256] [--rounds 3] [--models mlp,cnn] [--json FILE]. Peer extra.
Work: integrated gradients (50 Gauss-Legendre points), insertion and deletion curves by unit, infidelity and
max-sensitivity (10 moves each, the latter of integrated gradients). Equality first, to 1e-5 of the largest value. Of
the convolutional network we run the first layer once a row, which rounds in another order: a point within rounding of
a kink (ReLU, pooling) then falls on the other side. Up to 5 % of the inputs may differ so, by at most 1e-2 of the
largest, and are told; beside it stands how many of captum's own values differ from those in double precision.
captum by default is one input after the other with the defaults of its functions (timed on every eighth input, times
eight); tuned is all inputs with the fastest internal batch of five; it has no insertion and deletion, so the curves
are a loop over steps there, one step of all inputs a call when tuned. The limit is the same number of rows through the
bare module (forward, or forward and backward), in batches of the size that we use, all in place before; so captum by
default over the limit is the most that any method can reach with the passes that captum makes.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from captum.attr import IntegratedGradients
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from assay.access.entrance import entrance_of
from assay.access.gradients import pull_back
from assay.access.handles import _rows_a_batch
from assay.data import load_adult
from assay.explain import quality
from assay.explain.gradients import Inside, Pull, integrated_gradients, integrated_inside, of_logit, rule_of
from assay.models import Architecture
from assay.observe import module_of
from assay.probes.transparency._curves import mean_row
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.units import Ground, of
from assay.values import Array, System

STEPS, MOVES = 50, 10
Suite = dict[str, Array]


@dataclass
class Work:
    """One model, its inputs and the draws that all methods share."""

    name: str
    module: nn.Module
    rows: Array
    start: Array
    target: Array
    ground: Ground
    noise: Array  # (R, K, ...)
    ranks: Array  # (R, 1, U)

    def outputs(self, inputs: Array) -> Array:
        """Logits, in batches."""
        size = 8192 if inputs.ndim == 2 else 512
        with torch.inference_mode():
            parts = [
                self.module(torch.from_numpy(np.ascontiguousarray(inputs[at : at + size], dtype=np.float32)))
                for at in range(0, len(inputs), size)
            ]
        return torch.cat(parts).numpy()


def work_of(name: str, system: System, num: int) -> Work:
    """Test rows, the mean row as start, and keyed draws."""
    rng, data = np.random.default_rng(0), system.data
    rows = data.splits["test"].inputs[:num].astype(np.float32)
    background = data.splits["train"].inputs[:200]
    start = mean_row(background, data.columns).astype(np.float32)
    units = of(data.columns)
    scale = 0.02 * (255.0 if rows.ndim == 4 else rows.std(axis=0))
    noise = (rng.standard_normal((num, MOVES, *rows.shape[1:])) * scale).astype(np.float32)
    ranks = rng.random((num, 1, units.count)).argsort(axis=2)
    module = module_of(system).eval()
    work = Work(name, module, rows, start, np.zeros(num, int), Ground(start[None], units), noise, ranks)
    work.target = work.outputs(rows).argmax(axis=1)
    return work


def ours(work: Work) -> Suite:
    """The library's own functions, as the probes call them."""
    size = _rows_a_batch(work.rows)
    entrance = entrance_of(work.module, work.rows) if work.rows.ndim == 4 else None

    def through(module: nn.Module) -> Pull:
        def pull(points: Array, at: Array, objective: Callable[[Array, Array], Array]) -> tuple[Array, Array]:
            return pull_back(module, points, lambda f, place: objective(f, at[place]), batch_size=size)

        return pull

    def explain(inputs: Array, owner: Array) -> Array:
        objective, start = of_logit(work.target[owner]), work.start[None]
        if entrance is None:
            return integrated_gradients(through(work.module), inputs, start, objective, num_steps=STEPS)
        inside = Inside(entrance.enter, entrance.back, through(entrance.rest))
        return integrated_inside(inside, inputs, start, objective, num_steps=STEPS)

    values = explain(work.rows, np.arange(len(work.rows)))
    return {
        "integrated gradients": values,
        "insertion and deletion": quality.areas(
            work.outputs, work.rows, work.ground, ranks=work.ranks, target=work.target
        )[:, 0, 0],
        "infidelity": quality.infidelity(work.outputs, work.rows, values, moves=work.noise, target=work.target),
        "max-sensitivity": quality.max_sensitivity(explain, work.rows, values, moves=work.noise),
    }


def theirs(work: Work, rows: slice, *, batch: int | None) -> Suite:
    """captum's, on some of the rows in one go; `batch` is its internal batch of points."""
    inputs, target = torch.from_numpy(work.rows[rows]), torch.from_numpy(work.target[rows])
    start, noise = torch.from_numpy(work.start[None]), torch.from_numpy(work.noise[rows])
    method = IntegratedGradients(work.module)

    def explain(given: Tensor, target: Tensor) -> Tensor:
        return method.attribute(given, start, target=target, n_steps=STEPS, internal_batch_size=batch)

    def drawn() -> Callable[[Tensor], Tensor]:
        used = 0

        def next_moves(given: Tensor) -> Tensor:
            nonlocal used
            num = len(given) // len(inputs)
            found = noise[:, used : used + num].reshape(given.shape)
            used = (used + num) % MOVES
            return found

        return next_moves

    moves = drawn()

    def lose(given: Tensor) -> tuple[Tensor, Tensor]:
        found = moves(given)
        return found, given - found

    values = explain(inputs, target)
    most = None if batch is None else len(inputs) * MOVES
    unfaithful = infidelity(work.module, lose, inputs, values, target=target, n_perturb_samples=MOVES,
                            max_examples_per_batch=most)  # fmt: skip
    again = drawn()
    sensitive = sensitivity_max(explain, inputs, lambda given: given + again(given), n_perturb_samples=MOVES,
                                max_examples_per_batch=most, target=target)  # fmt: skip
    return {
        "integrated gradients": values.detach().numpy(),
        "insertion and deletion": curves(work, rows),
        "infidelity": unfaithful.detach().numpy(),
        "max-sensitivity": sensitive.detach().numpy(),
    }


def curves(work: Work, rows: slice) -> Array:
    """Insertion and deletion areas, one step of these rows a call."""
    inputs, target = torch.from_numpy(work.rows[rows]), torch.from_numpy(work.target[rows])
    ranks, start = torch.from_numpy(work.ranks[rows, 0]), torch.from_numpy(work.start[None])
    owner = getattr(work.ground.units, "owner", None)
    num = ranks.shape[1]
    found = []
    with torch.inference_mode():
        for is_deletion in (False, True):
            points = []
            for step in range(num + 1):
                kept = (ranks < step) ^ is_deletion
                kept = kept if owner is None else kept[:, torch.from_numpy(owner)][:, None]
                outputs = work.module(torch.where(kept, inputs, start))
                points.append(outputs.gather(1, target[:, None])[:, 0])
            found.append(torch.trapezoid(torch.stack(points), dx=1 / num, dim=0))
    return torch.stack(found, dim=1).numpy()


def limit(work: Work) -> tuple[float, int, int]:
    """CPU seconds of the same passes, bare; and how many rows forward, and forward and backward."""
    num, units = len(work.rows), work.ground.count
    white = num * STEPS * (1 + MOVES)
    black = num * 2 * (units - 1) + 1 + num * (1 + MOVES) + num
    size, plain = _rows_a_batch(work.rows), 8192 if work.rows.ndim == 2 else 512
    source = torch.from_numpy(work.rows.repeat(-(-plain // num), axis=0)[:plain])
    started = time.process_time()
    with torch.inference_mode():
        for at in range(0, black, plain):
            work.module(source[: min(plain, black - at)])
    for at in range(0, white, size):
        batch = source[: min(size, white - at)].detach().requires_grad_(True)
        torch.autograd.grad(work.module(batch).sum(), batch)
    return time.process_time() - started, black, white


def check(one: Suite, other: Suite, who: str, rows: slice = slice(None), *, kinks: bool = False) -> None:
    """The largest distance of an input, over the largest value, of each part; with kinks some inputs may be off."""
    for part, values in one.items():
        apart = np.abs(values[rows] - other[part]).reshape(len(other[part]), -1).max(axis=1) / np.abs(other[part]).max()
        odd = apart > 1e-5
        most, told = (0.05, f", {odd.sum()} of {len(odd)} by more than 1e-5") if kinks else (0.0, "")
        print(
            f"equality with {who}: {part}: median {np.median(apart):.1e}, most {apart.max():.1e} of the largest{told}"
        )
        if odd.mean() > most or apart.max() > 1e-2:
            raise SystemExit("they differ: no timing is worth printing")


def in_double(work: Work, rows: slice) -> Array:
    """Integrated gradients of some rows, written out in double precision."""
    module, (places, shares) = copy.deepcopy(work.module).double(), rule_of(STEPS)
    weights, start, found = torch.from_numpy(shares), torch.from_numpy(work.start).double(), []
    for row, target in zip(torch.from_numpy(work.rows[rows]).double(), work.target[rows].tolist(), strict=True):
        points = start + torch.from_numpy(places).reshape(-1, *[1] * row.ndim) * (row - start)
        points.requires_grad_(True)
        (gradient,) = torch.autograd.grad((module(points)[:, target] * weights).sum(), points)
        found.append(((row - start) * gradient.sum(dim=0)).numpy())
    return np.array(found)


def seconds(function: Callable[[], Suite]) -> tuple[float, Suite]:
    """CPU seconds, and the result."""
    started = time.process_time()
    found = function()
    return time.process_time() - started, found


def measure(work: Work, num_rounds: int) -> dict[str, object]:
    """Every method once a round, interleaved; the first round's results are compared before anything is printed."""
    every, singles = slice(None, None, 8), range(0, len(work.rows), 8)
    is_picture = work.rows.ndim == 4

    def one_by_one() -> Suite:
        parts = [theirs(work, slice(at, at + 1), batch=None) for at in singles]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    sizes, sample = [128, 256, 512, 1024, 4096], slice(0, min(8 if is_picture else 64, len(work.rows)))
    speed = [min(seconds(lambda b=b: theirs(work, sample, batch=b))[0] for _ in range(2)) for b in sizes]
    best, records = sizes[int(np.argmin(speed))], []
    for place in range(num_rounds):
        mine, found = seconds(lambda: ours(work))
        tuned, by_batch = seconds(lambda: theirs(work, slice(None), batch=best))
        default, by_one = seconds(one_by_one)
        bare, black, white = limit(work)
        records.append((mine, tuned, 8 * default, bare))
        if not place:
            check(found, by_batch, "captum, tuned", kinks=is_picture)
            check(found, by_one, "captum by default", every, kinks=is_picture)
            if is_picture:
                double = {"integrated gradients": in_double(work, every)}
                for who, one in (("ours", found), ("captum, tuned", by_batch)):
                    check(
                        {"integrated gradients": one["integrated gradients"]},
                        double,
                        f"double, {who}",
                        every,
                        kinks=True,
                    )
    told(work, records, best, (black, white))
    return {"model": work.name, "records": records, "batch": best}


def told(work: Work, records: Sequence[tuple[float, ...]], best: int, passes: tuple[int, int]) -> None:
    """Medians, and ratios round by round."""
    mine, tuned, default, bare = np.median(records, axis=0)
    ratios = np.median([(d / m, t / m, m / b, d / b) for m, t, d, b in records], axis=0)
    print(
        f"\n{work.name}: {len(work.rows)} inputs, {passes[0]:,} rows forward, {passes[1]:,} forward and backward; CPU s"
    )
    print(
        f"  ours {mine:.2f}   captum tuned (batch {best}) {tuned:.2f}   captum default {default:.1f}   limit {bare:.2f}"
    )
    goals = [("captum default / ours", ratios[0], ">=", 50), ("captum tuned / ours", ratios[1], ">=", 2),
             ("ours / limit", ratios[2], "<=", 1.25)]  # fmt: skip
    for name, value, sign, goal in goals:
        is_met = value >= goal if sign == ">=" else value <= goal
        print(f"  {name:<24}{value:6.2f}  (goal {sign} {goal}) -> {is_met}")
    print(f"  {'captum default / limit':<24}{ratios[3]:6.2f}  the most that equal passes allow")


def systems(names: list[str]) -> dict[str, System]:
    """Trained on real data: Adult, and Fashion-MNIST if it is on this machine."""
    found = {}
    if "mlp" in names:
        found["mlp"] = train_system(load_adult())
    if "cnn" in names:
        from assay.data import load_fashion_mnist

        data = load_fashion_mnist()
        recipe = TrainRecipe(Architecture("cnn_lenet"), task_of(data), TrainSettings(epochs=1, batch_size=256))
        found["cnn"] = train_system(data, recipe=recipe)
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="mlp,cnn")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    report = [
        measure(work_of(name, system, chosen.inputs), chosen.rounds)
        for name, system in systems(chosen.models.split(",")).items()
    ]
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1), "utf-8")


if __name__ == "__main__":
    main()
