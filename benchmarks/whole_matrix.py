"""The whole matrix on four architectures: ours, the sum of separate tools, and the floor.

    python benchmarks/whole_matrix.py [--only mlp,cnn,lstm,transformer] [--systems 12] [--train 8000] [--test 4000]
        [--boot 100] [--explained 16] [--jobs 1] [--data FOLDER] [--out FILE.json]

Twelve systems an architecture (the trained one, and treatments and pairs of them) on eight dimensions: MLP on Adult,
LeNet on Fashion-MNIST (groups: how bright), LSTM and Transformer on reviews in four domains. Making the systems costs
every side the same and is printed apart.
Ours: `engine.audit` of each with every default probe and model extraction, and `matrix.compare`, cold.
Tools, one by one for each system, see tools.py: fairlearn, shap, lime, captum, timed calls, and sixteen trainings of
each system for a likelihood-ratio attack (a training as ours measured it, times sixteen; times four is shown too).
Model extraction has no tool installed: the students' trainings alone stand on every side.
AutoAttack is left out on both sides. Floor: the rows of our ledger in large calls (those of latencies in calls as small
as what they measure), twice that for a row whose gradient is taken, and the trainings that ours ran: one recipe trains
four reference models, however many systems use them.
Equality first: error rates by group are the same numbers as a plain count, which is fairlearn's. CPU seconds; `--jobs`
works on so many at once (architectures side by side, then systems of one), each on one thread. With `--data` (see
packed.py) no package is needed to read the data.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from assay import engine, registry  # noqa: E402
from assay.errors import AssayError  # noqa: E402
from assay.matrix import Matrix, compare  # noqa: E402
from assay.models import Architecture  # noqa: E402
from assay.observe import Workspace  # noqa: E402
from assay.probes.security import model_extraction as extraction  # noqa: E402
from assay.story import treat  # noqa: E402
from assay.tasks import task_of  # noqa: E402
from assay.train import TrainRecipe, TrainSettings, train_system  # noqa: E402
from assay.values import Audit, Data, Fitted, Recipe, Split, System  # noqa: E402
from benchmarks.packed import fewer, load  # noqa: E402
from benchmarks.tools import Amount, costs  # noqa: E402

MODEL_STAGE = ("quantize_int8", "prune_magnitude", "factor_low_rank", "temperature_scaling", "retrain_last_layer")
TEXT = (*MODEL_STAGE, "group_thresholds", "distill", "dp_sgd", "weigh_classes", "group_dro", "reweigh_groups")
TREATMENTS = {
    "mlp": (
        *(MODEL_STAGE[:2]), *MODEL_STAGE[3:], "group_thresholds", "distill", "dp_sgd", "adversarial_training",
        "reweigh_groups", "group_dro", "reweigh_groups+quantize_int8",
    ),
    "cnn": (
        *MODEL_STAGE, "distill", "dp_sgd", "adversarial_training", "weigh_classes", "group_dro",
        "prune_magnitude+temperature_scaling",
    ),
    "lstm": TEXT,
    "transformer": TEXT,
}  # fmt: skip
SETS = {"mlp": "adult", "cnn": "fashion_mnist", "lstm": "sentiment", "transformer": "sentiment"}
ASKED_TOO = ("model_extraction",)  # a deep probe, for the dimension that the default ones leave out
LIRA, FEW = 16, 4


@dataclass(frozen=True)
class Timed:
    """A recipe that notes the CPU seconds of each training."""

    inner: Recipe
    seconds: dict[str, list[float]] = field(compare=False, repr=False)

    @property
    def digest(self) -> str:
        """Of what is timed: nothing measured depends on the clock."""
        return self.inner.digest

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train, and note how long."""
        began = time.process_time()
        found = self.inner.fit(split, data, seed)
        self.seconds.setdefault(self.digest, []).append(time.process_time() - began)
        return found


def recipe_of(name: str, data: Data) -> TrainRecipe:
    """Small networks of each kind, some seconds of training at most."""
    known: dict[str, dict[str, Any]] = {
        "mlp": {"hidden": [64, 64], "num_bins": 32},
        "cnn": {"widths": [8, 16], "hidden": [64]},
        "lstm": {"dim": 32, "num_hidden": 32, "vocab_size": 4000},
        "transformer": {"dim": 32, "vocab_size": 4000},
    }
    built = {"cnn": "cnn_lenet"}.get(name, name)
    settings = TrainSettings(epochs=3 if name in ("lstm", "transformer") else 6, batch_size=128)
    return TrainRecipe(Architecture(built, known[name]), task_of(data), settings)


def make(name: str, data: Data, num: int) -> tuple[list[System], dict[str, str], float]:
    """The systems, the treatments that did not fit and why, and what making them took."""
    began = time.process_time()
    baseline = train_system(data, name=name, recipe=recipe_of(name, data))
    systems, errored = [baseline], {}
    for steps in TREATMENTS[name][: num - 1]:
        try:
            systems.append(replace(treat(baseline, steps), name=f"{name}+{steps}"))
        except AssayError as error:
            errored[steps] = str(error)
    return systems, errored, time.process_time() - began


@contextmanager
def students_timed() -> Iterator[list[float]]:
    """CPU seconds of each student that model extraction trains: whoever measures extraction trains them."""
    module: Any = extraction
    train = module.imitate
    spent: list[float] = []

    def imitate(*given: Any, **options: Any) -> Any:
        began = time.process_time()
        found = train(*given, **options)
        spent.append(time.process_time() - began)
        return found

    module.imitate = imitate
    try:
        yield spent
    finally:
        module.imitate = train


def ours(systems: Sequence[System]) -> tuple[list[Audit], Matrix, dict[str, float]]:
    """Audit and compare, cold; CPU seconds of both parts, and of the students of model extraction among them."""
    names = [name for name, one in registry.PROBES.items() if not one.deep or name in ASKED_TOO]
    workspace = Workspace(key=b"benchmark")
    began = time.process_time()
    with students_timed() as students:
        audits = [engine.audit(one, probes=names, workspace=workspace) for one in systems]
    audited = time.process_time()
    matrix = compare(audits, workspace=workspace)
    ended = time.process_time()
    return audits, matrix, {"audits": audited - began, "comparing": ended - audited, "students": sum(students)}


def bare_row(system: System) -> float:
    """CPU seconds of one model row in the best of three sizes of large calls."""
    inputs = system.data.splits["test"].inputs
    found = []
    for size in (256, 1024, 4096):
        batch = inputs[np.arange(size) % len(inputs)]
        system.model.outputs(batch)
        began = time.process_time()
        system.model.outputs(batch)
        found.append((time.process_time() - began) / size)
    return min(found)


def timed_row(system: System, sizes: Sequence[int]) -> float:
    """CPU seconds a row in calls of these sizes, as latencies are made of: there a large call is no substitute."""
    inputs, spent = system.data.splits["test"].inputs, 0.0
    for size in sizes:
        batch = inputs[np.arange(size) % len(inputs)]
        system.model.outputs(batch)
        began = time.process_time()
        for _ in range(20):
            system.model.outputs(batch)
        spent += (time.process_time() - began) / 20
    return spent / sum(sizes)


def passes_floor(audit: Audit, in_turns: float) -> float:
    """CPU seconds of the rows that an audit ran, in large calls; a row with a gradient counts twice.

    Only rows of latencies (and those `in_turns` of the comparison) are of calls as small as what they measure.
    """
    kinds = {kind: num * (2 if "gradient" in kind else 1) for kind, num in audit.ledger.items() if kind != "references"}
    timings = sum(kinds.pop(kind) for kind in list(kinds) if kind.startswith("passes, batch=")) + in_turns
    known = {one.slice for one in audit.measurements if one.metric == "latency_p50" and one.slice.startswith("batch=")}
    sizes = sorted(int(one.removeprefix("batch=")) for one in known)
    return sum(kinds.values()) * bare_row(audit.system) + (timings * timed_row(audit.system, sizes) if sizes else 0.0)


def unequal(audits: Sequence[Audit]) -> float:
    """Largest difference of error rates by group to a plain count, which is what fairlearn's frame gives."""
    found = []
    for one in audits:
        known = {m.slice: m.value for m in one.measurements if m.metric == "error_rate" and m.value is not None}
        test = one.system.data.splits["test"]
        right = np.asarray(one.observations["test"].arrays["predictions"]) == test.labels
        column = test.groups.columns[0]
        for code, category in enumerate(column.categories):
            mine, rows = known.get(f"{column.name}={category}"), test.groups.codes[:, 0] == code
            if mine is not None and rows.any():
                found.append(abs(1 - mine - float(right[rows].mean())))
    return max(found, default=float("nan"))


_SHARED: dict[str, Any] = {}  # what forked workers read


def _tool_costs(index: int) -> dict[str, float | str]:
    warnings.filterwarnings("ignore")
    if not _SHARED.get("warm"):  # importing a tool and compiling its parts is not what it costs
        costs(_SHARED["systems"][index], Amount(boot=2, explained=1))
        _SHARED["warm"] = True
    return costs(_SHARED["systems"][index], _SHARED["amount"])


def beside(systems: Sequence[System], amount: Amount, jobs: int, work: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """What `work` gives, and the costs of the separate tools: after it, or beside it in `jobs` further processes."""
    _SHARED.update(systems=systems, amount=amount)
    if jobs < 1:
        return work(), [_tool_costs(index) for index in range(len(systems))]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        waiting = pool.map_async(_tool_costs, range(len(systems)), chunksize=1)
        return work(), waiting.get()


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One architecture: everything that is printed."""
    data = fewer(load(SETS[name], given.data), given.train, given.test)
    systems, errored, made = make(name, data, given.systems)
    seconds: dict[str, list[float]] = {}
    timed = [replace(one, recipe=Timed(one.recipe, seconds)) if one.recipe is not None else one for one in systems]
    amount = Amount(given.boot, given.explained, LIRA)
    (audits, matrix, own), found = beside(systems, amount, given.jobs - 1, lambda: ours(timed))
    trainings = [float(np.mean(seconds[one.recipe.digest])) if one.recipe else 0.0 for one in systems]
    tools = [{tool: spent for tool, spent in one.items() if isinstance(spent, float)} for one in found]
    missing = {f"{tool}: {spent}": 0 for one in found for tool, spent in one.items() if isinstance(spent, str)}
    turns = matrix.ledger.get("timing in turns", 0) / len(systems)
    passes = sum(passes_floor(one, turns) for one in audits)
    trained = sum(sum(one) for one in seconds.values()) + own["students"]
    tools.append({"students of extraction": own["students"]})
    alone = sum(sum(one.values()) for one in tools)
    whole = own["audits"] + own["comparing"]
    return {
        "architecture": name, "systems": [one.name for one in systems], "errored": errored, "missing": list(missing),
        "train": len(data.splits["train"]), "test": len(data.splits["test"]), "boot": given.boot,
        "dimensions": sorted({one.dimension for one in chain(*(audit.measurements for audit in audits)) if one.value}),
        "measurements": sum(len(one.measurements) for one in audits), "columns": len(matrix.keys),
        "unequal": unequal(audits), "rows": sum(sum(one.ledger.values()) for one in audits),
        "ledger": {one.system.name: dict(one.ledger) for one in audits}, "compare ledger": dict(matrix.ledger),
        "num_trainings": sum(len(one) for one in seconds.values()), "making": made, "ours": {**own, "whole": whole},
        "tools": {tool: sum(one.get(tool, 0.0) for one in tools) for tool in dict.fromkeys(chain(*tools))},
        "trainings": {str(num): num * sum(trainings) for num in (LIRA, FEW)},
        "floor": {"passes": passes, "trainings": trained, "whole": passes + trained},
        "ours / tools": whole / (alone + LIRA * sum(trainings)),
        "ours / tools, four trainings": whole / (alone + FEW * sum(trainings)),
        "ours / floor": whole / (passes + trained),
    }  # fmt: skip


def show(one: Mapping[str, Any]) -> str:
    """One architecture in lines."""
    tools = "; ".join(f"{name} {spent:.1f}" for name, spent in one["tools"].items())
    lines = [
        f"{one['architecture']}: {len(one['systems'])} systems x {len(one['dimensions'])} dimensions "
        f"({one['columns']} columns, {one['measurements']:,} measurements), {one['train']:,} training and "
        f"{one['test']:,} test rows; error rates by group equal within {one['unequal']:.1e}",
        f"  ours      {one['ours']['whole']:9.1f} CPU s ({one['ours']['comparing']:.1f} of it comparing), "
        f"{one['rows']:,} model rows, {one['num_trainings']} trainings",
        f"  tools     {sum(one['tools'].values()) + one['trainings']['16']:9.1f} CPU s: {tools}; "
        f"16 trainings each {one['trainings']['16']:.1f} (4 each {one['trainings']['4']:.1f})",
        f"  floor     {one['floor']['whole']:9.1f} CPU s: passes {one['floor']['passes']:.1f}, trainings "
        f"{one['floor']['trainings']:.1f}   (making the systems, on every side: {one['making']:.1f})",
        f"  ours / tools {one['ours / tools']:.3f} (at most 0.2; with four trainings each "
        f"{one['ours / tools, four trainings']:.3f})   ours / floor {one['ours / floor']:.2f} (at most 1.5)",
    ]
    lines += [f"  errored: {name}: {why}" for name, why in one["errored"].items()]
    return "\n".join(
        lines + ([f"  left out, so that the sum is too small: {'; '.join(one['missing'])}"] if one["missing"] else [])
    )


def side_by_side(names: Sequence[str], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Each architecture in a process of its own, and as many workers in each as are left."""
    each = str(max(1, given.jobs // len(names)))
    options = [f"--{name}={getattr(given, name)}" for name in ("systems", "train", "test", "boot", "explained")]
    options += [f"--data={given.data}"] if given.data else []
    command = [sys.executable, __file__, "--json", *options]
    running = [
        subprocess.Popen([*command, f"--jobs={each}", f"--only={name}"], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    told = [one.communicate()[0] for one in running]
    return [json.loads(text)[0] for text, one in zip(told, running, strict=True) if one.returncode == 0]


def arguments() -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SETS))
    for name, number in {"systems": 12, "train": 8000, "test": 4000, "boot": 100, "explained": 16, "jobs": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure, and print."""
    given = arguments()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    registry.load()
    names = given.only.split(",")
    found = side_by_side(names, given) if given.jobs > 1 and len(names) > 1 else [measure(one, given) for one in names]
    if given.out:
        given.out.write_text(json.dumps(found, indent=1), "utf-8")
    say: Callable[[Any], None] = print
    say(json.dumps(found) if given.json else "\n".join(show(one) for one in found))


if __name__ == "__main__":
    main()
