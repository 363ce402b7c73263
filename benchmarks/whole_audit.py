"""A whole audit of one system, against the same kinds of numbers from separate tools, run one by one.

    python benchmarks/whole_audit.py [--rows 64] [--boot 100]

The system is the default network on Adult (16,281 test rows). Ours: `engine.audit` with every default probe, cold,
reference models included. The tools, each at its defaults and on the same model: fairlearn's MetricFrame with resampled
intervals for five metrics by sex x race; shap's KernelExplainer and lime's tabular explainer on as many rows as ours
explains; captum's integrated gradients with infidelity and max-sensitivity; four trainings for membership (the
trainings and their passes alone, as any tool needs them). Limit: as many model rows as our audit ran, in large calls,
and the same four trainings. That limit counts the references' own passes twice, a row whose gradient is taken as one
that is only answered, and timed calls of one row as part of a large call; whole_matrix.py counts the references once,
gradients twice and timed calls as small as they are, and that limit is printed too.
Equality first: selection rates of all groups are the same numbers.
CPU seconds on one thread, once each: the ratios are far from the noise.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
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
from assay.observe import Workspace  # noqa: E402
from assay.values import Array, Audit, System  # noqa: E402
from benchmarks.group_metrics import peer as fairlearn_frame  # noqa: E402
from benchmarks.whole_matrix import passes_floor  # noqa: E402


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


def bare_passes(system: System, num_rows: int) -> None:
    """So many model rows in large calls, and nothing else."""
    inputs = system.data.splits["test"].inputs
    for start in range(0, num_rows, len(inputs)):
        system.model.outputs(inputs[: min(len(inputs), num_rows - start)])


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
    audited, whole = timed(lambda: engine.audit(system, workspace=Workspace(key=b"benchmark")))
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
    num_rows = sum(rows for kind, rows in audited.ledger.items())
    _, passes = timed(lambda: bare_passes(system, num_rows))
    limit = passes + found["four reference trainings"][1]
    print(f"  {'the tools together':40} {total:8.2f} CPU s")
    count = len(audited.measurements)
    print(f"  {f'ours, {count} measurements':40} {whole:8.2f} CPU s, {num_rows:,} model rows")
    print(f"  {'limit: the same rows, the same trainings':40} {limit:8.2f} CPU s")
    counted = passes_floor(audited, 0.0) + found["four reference trainings"][0]
    print(f"  {'limit as the matrix counts it':40} {counted:8.2f} CPU s, ours / that {whole / counted:.2f}")
    print(f"ours / tools {whole / total:.3f} (at most 0.2)   ours / limit {whole / limit:.2f} (at most 1.25)")


if __name__ == "__main__":
    main()
