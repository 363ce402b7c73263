"""A whole audit of one system, against the same kinds of numbers from separate tools, run one by one.

    python benchmarks/whole_audit.py [--rows 64] [--boot 100]

The system is the default network on Adult (16,281 test rows). Ours: `engine.audit` with every default probe, cold,
reference models included. The tools, each at its defaults and on the same model: fairlearn's MetricFrame with resampled
intervals for five metrics by sex x race; shap's KernelExplainer and lime's tabular explainer on as many rows as ours
explains; captum's integrated gradients with infidelity and max-sensitivity; four trainings for membership (the
trainings and their passes alone, as any tool needs them).
Three limits, each with the four trainings as our own audit timed them (trained again they take up to a sixth more or
less on a busy machine, which would be most of the ratio):
  rows    as many model rows as our audit ran, in large calls; a row whose gradient is taken counts twice.
  calls   the same, but the calls that are small because smallness is what they measure (latencies, and batches of one
          and sixteen rows of numeric noise) are run again, each as small as it was.
  draws   the same and the random numbers of three sets of resamples of the test rows (the system's, the one that all
          systems share, and the members'): no interval of a continuous number does without them.
Equality first: selection rates of all groups are the same numbers.
Then what each probe took above its own part of `calls`, the largest first.
CPU seconds on one thread, once each.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

import assay  # noqa: E402
from assay import engine  # noqa: E402
from assay.access.references import halves  # noqa: E402
from assay.estimation.cells import generator  # noqa: E402
from assay.models.adapters.module import ModuleModel  # noqa: E402
from assay.observe import Ledger, Workspace  # noqa: E402
from assay.values import Array, Audit, System  # noqa: E402
from benchmarks.group_metrics import peer as fairlearn_frame  # noqa: E402
from benchmarks.whole_matrix import Timed, bare_row  # noqa: E402

SMALL = ("latency", "numeric_noise")  # probes that measure small calls
SETS = 3  # of resamples of all test rows
SHOWN = 15  # probes in the account


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and its CPU seconds."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def group_codes(system: System) -> Array:
    """One code for sex x race of each test row."""
    codes = system.data.splits["test"].groups.codes.astype(np.int64)
    found: Array = codes[:, 0] * (codes[:, 1].max() + 1) + codes[:, 1]
    return found


def chance(system: System) -> Callable[[Array], Array]:
    """Probability of the positive class, of raw rows."""

    def function(inputs: Array) -> Array:
        outputs = system.model.outputs(np.asarray(inputs, dtype=np.float32))
        found: Array = system.task.probabilities(outputs)[:, 1].astype(np.float64)
        return found

    return function


def explain_with_shap(system: System, rows: Array, background: Array) -> None:
    """KernelExplainer at its defaults, 100 background rows."""
    import shap

    explainer = shap.KernelExplainer(chance(system), background.astype(np.float64))
    explainer.shap_values(rows.astype(np.float64), silent=True)


def explain_with_lime(system: System, rows: Array, train: Array) -> None:
    """The tabular explainer at its defaults: 5,000 samples a row."""
    from lime.lime_tabular import LimeTabularExplainer

    function = chance(system)
    explainer = LimeTabularExplainer(train.astype(np.float64), mode="classification", random_state=0)
    for row in rows:
        explainer.explain_instance(
            row.astype(np.float64), lambda inputs: np.column_stack([1 - function(inputs), function(inputs)])
        )


def explain_with_captum(system: System, rows: Array) -> None:
    """Integrated gradients of the encoded rows, infidelity and max-sensitivity, one call each."""
    from captum.attr import IntegratedGradients
    from captum.metrics import infidelity, sensitivity_max

    module: Any = system.model.module  # type: ignore[attr-defined]
    batch = torch.from_numpy(rows.astype(np.float32))
    numeric = torch.nan_to_num(batch)
    method = IntegratedGradients(module)
    found = method.attribute(numeric, target=1)

    def moved(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = 0.1 * torch.randn_like(inputs)
        return noise, inputs - noise

    infidelity(module, moved, numeric, found, target=1, n_perturb_samples=10)
    sensitivity_max(lambda inputs: method.attribute(inputs, target=1), numeric)


def reference_trainings(system: System) -> float:
    """Four models on halves of the training rows, as a membership attack needs them; CPU seconds of training alone."""
    train, spent = system.data.splits["train"], 0.0
    recipe: Any = system.recipe
    for number, mask in enumerate(halves(train.rows, 4, "benchmark")):
        began = time.process_time()
        fitted = recipe.fit(train.take(np.flatnonzero(mask)), system.data, 1000 + number)
        spent += time.process_time() - began
        fitted.model.outputs(train.inputs)
        fitted.model.outputs(system.data.splits["test"].inputs)
    return spent


@dataclass
class Seen:
    """What our audit did, probe by probe: CPU seconds, rows (with a gradient twice), and calls by rows."""

    seconds: dict[str, float] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    calls: dict[str, Counter[int]] = field(default_factory=dict)


@contextmanager
def watched() -> Iterator[Seen]:
    """Notes what each probe takes and runs; what it needs made first (the references) is under "needs of ..."."""
    seen, now = Seen(), [""]
    places: list[tuple[Any, str, Any]] = [
        (engine, "measure", engine.measure), (engine, "_active_needs", engine._active_needs),
        (ModuleModel, "outputs", ModuleModel.outputs), (Ledger, "add", Ledger.add),
    ]  # fmt: skip

    def noted(work: Callable[..., Any], prefix: str) -> Callable[..., Any]:
        def one(probe: Any, *given: Any) -> Any:
            now[0], began = prefix + probe.name, time.process_time()
            try:
                return work(probe, *given)
            finally:
                seen.seconds[now[0]] = seen.seconds.get(now[0], 0.0) + time.process_time() - began
                now[0] = ""

        return one

    def called(model: ModuleModel, inputs: Array) -> Array:
        seen.calls.setdefault(now[0], Counter())[len(inputs)] += 1
        found: Array = places[2][2](model, inputs)
        return found

    def counted(ledger: Ledger, kind: str, num_rows: int) -> None:
        seen.rows[now[0]] += num_rows * (2 if "gradient" in kind else 1)
        places[3][2](ledger, kind, num_rows)

    theirs = (noted(engine.measure, ""), noted(engine._active_needs, "needs of "), called, counted)
    try:
        for (where, name, _), own in zip(places, theirs, strict=True):
            setattr(where, name, own)
        yield seen
    finally:
        for where, name, before in places:
            setattr(where, name, before)


def called_again(system: System, calls: Counter[int]) -> float:
    """CPU seconds of bare calls of the same sizes, after three to warm up."""
    inputs, spent = system.data.splits["test"].inputs, 0.0
    for size, num in calls.items():
        batch = inputs[:size]
        for _ in range(3):
            system.model.outputs(batch)
        began = time.process_time()
        for _ in range(num):
            system.model.outputs(batch)
        spent += time.process_time() - began
    return spent


def random_numbers(num_rows: int, num_draws: int) -> None:
    """As many uniform numbers as one set of resamples takes, from the generator that makes them."""
    rng, room = generator(b"key", "limit"), np.empty(num_rows)
    for _ in range(num_draws):
        rng.random(out=room)


def account(system: System, seen: Seen, trainings: float, row: float) -> tuple[dict[str, float], list[str]]:
    """The three limits, and what the probes with the largest overheads took above their own part of the second."""
    small = {name: called_again(system, seen.calls[name]) for name in SMALL}
    floor = {name: small.get(name, seen.rows[name] * row) for name in {*seen.seconds, *seen.rows}}
    floor["needs of membership_inference"] += trainings
    rows = sum(seen.rows.values()) * row + trainings
    draws = sum(timed(lambda: random_numbers(len(system.data.splits["test"]), 1000))[1] for _ in range(SETS))
    above = {name: seconds - floor[name] for name, seconds in seen.seconds.items()}
    lines = [
        f"    {name:34} {1e3 * above[name]:8.0f} ms above {1e3 * floor[name]:8.0f} ms"
        for name in sorted(above, key=above.__getitem__, reverse=True)[:SHOWN]
    ]
    return {"rows": rows, "calls": sum(floor.values()), "draws": sum(floor.values()) + draws}, lines


def check_equal(system: System, audited: Audit, frame: Any) -> float:
    """Largest difference of accuracy by group and selection rate by group to fairlearn's."""
    columns = system.data.splits["test"].groups.columns
    width = len(columns[1].categories)
    differences = []
    for code in frame.by_group.index:
        first, second = columns[0].categories[code // width], columns[1].categories[code % width]
        where = f"{columns[0].name}={first} & {columns[1].name}={second}"
        ours = audited.find("selection_rate", where).value
        differences.append(abs(float(ours or 0.0) - float(frame.by_group.loc[code, "selection_rate"])))
    return max(differences)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--boot", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    system = assay.train_system(assay.load_adult())
    test, train = (system.data.splits[name] for name in ("test", "train"))
    spent: dict[str, list[float]] = {}
    watching = replace(system, recipe=Timed(system.recipe, spent)) if system.recipe is not None else system
    with watched() as seen:
        audited, whole = timed(lambda: engine.audit(watching, workspace=Workspace(key=b"benchmark")))
    labels, predictions = test.labels.astype(np.int64), audited.observations["test"].arrays["predictions"]
    rows, background = test.inputs[: given.rows], train.inputs[:100]
    tools: dict[str, Callable[[], Any]] = {
        f"fairlearn, 5 metrics, {given.boot} resamples": lambda: fairlearn_frame(
            (labels, group_codes(system), predictions.astype(np.int64)), given.boot
        ),
        f"shap Kernel, {given.rows} rows": lambda: explain_with_shap(system, rows, background),
        f"lime, {given.rows} rows": lambda: explain_with_lime(system, rows, train.inputs),
        f"captum, {given.rows} rows": lambda: explain_with_captum(system, rows),
        "four reference trainings": lambda: reference_trainings(system),
    }
    found = {name: timed(work) for name, work in tools.items()}
    frame = next(iter(found.values()))[0]
    print(f"equal: selection rates of {len(frame.by_group)} groups within {check_equal(system, audited, frame):.1e}")
    for name, (_, seconds) in found.items():
        print(f"  {name:40} {seconds:8.2f} CPU s")
    total = sum(seconds for _, seconds in found.values())
    print(f"  {'the tools together':40} {total:8.2f} CPU s")
    count, num_rows = len(audited.measurements), sum(audited.ledger.values())
    trainings = sum(sum(one) for one in spent.values())
    limits, lines = account(system, seen, trainings, bare_row(system))
    print(f"  {f'ours, {count} measurements':40} {whole:8.2f} CPU s, {num_rows:,} model rows")
    print(f"    of it four trainings {trainings:.2f}, outside of probes {whole - sum(seen.seconds.values()):.2f}")
    for name, seconds in limits.items():
        aim = " (at most 1.25)" if name == "calls" else ""
        print(f"  {f'limit {name}':40} {seconds:8.2f} CPU s, ours / that {whole / seconds:.2f}{aim}")
    print("\n".join(lines))
    print(f"ours / tools {whole / total:.3f} (at most 0.2)")


if __name__ == "__main__":
    main()
