"""Memory and time of load, train, audit and file by rows: is ten million rows within 1.5 GiB above the interpreter?

    python -m benchmarks.scale --rows 10000000
    python -m benchmarks.scale --census

A made Parquet file (seeded, written a million rows at a time): seven numbers, two group columns, a label whose best
possible AUC is 0.802 (accuracy 0.726). The story runs in a child process that made nothing: `read_table`, the default
recipe, every probe with four reference models, a signed dossier. Memory is the highest resident size of each step
(Linux `VmHWM`, set back between steps) less what the interpreter and all imports take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
STEP = 1_000_000
LIMIT = 1536  # MiB above the interpreter
THREADS = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
Step = dict[str, Any]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--census", action="store_true", help="Census-KDD instead of made rows (fetches it)")
    parser.add_argument("--file", type=Path, default=None, help="a Parquet file that `make` wrote before")
    parser.add_argument("--json", action="store_true", help="print the steps as JSON")
    parser.add_argument("--brief", action="store_true", help="one pass of a small network: for memory alone")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(story(asked.child, is_brief=asked.brief)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source = "census" if asked.census else str(asked.file or Path(folder) / "made.parquet")
        if not asked.census and asked.file is None:
            command = [sys.executable, "-c", f"from benchmarks.scale import make; make({source!r}, {int(asked.rows)})"]
            subprocess.run(command, check=True, cwd=ROOT, env=os.environ | THREADS)
        steps = run_child(source, Path(folder), is_brief=asked.brief)
    print(json.dumps(steps) if asked.json else table(steps))
    peak = max(step["peak_mib"] for step in steps)
    assert peak <= LIMIT, f"{peak:.0f} MiB above the interpreter; at most {LIMIT}"


def run_child(source: str, folder: Path, *, is_brief: bool = False) -> list[Step]:
    """The story in a process of its own, with a home of its own; its steps."""
    command = [sys.executable, "-m", "benchmarks.scale", "--child", source, *(["--brief"] if is_brief else [])]
    own = THREADS | {"ASSAY_HOME": str(folder / "home")}
    done = subprocess.run(command, check=True, cwd=ROOT, env=os.environ | own, stdout=subprocess.PIPE)
    found: list[Step] = json.loads(done.stdout)
    return found


def make(path: str, rows: int) -> None:
    """Write the file; chunk `i` is of seed `i`, so that a longer file begins with the rows of a shorter one."""
    import polars as pl

    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, rows, STEP):
            part = made_rows(min(STEP, rows - start), start // STEP)
            pl.DataFrame(part).write_parquet(Path(folder) / f"{start:012d}.parquet")
        pl.scan_parquet(Path(folder) / "*.parquet").sink_parquet(path, row_group_size=250_000)


def made_rows(rows: int, seed: int) -> dict[str, Any]:
    """Columns of `rows` people: a logistic label of age, hours, a product of two numbers, and sex."""
    rng = np.random.default_rng(seed)
    age, hours = rng.integers(17, 91, rows), rng.uniform(1, 99, rows).astype(np.float32)
    numbers = rng.normal(size=(rows, 5)).astype(np.float32)
    sex, race = rng.integers(0, 2, rows), rng.choice(5, rows, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    score = 0.03 * (age - 50) + 0.02 * (hours - 50) + numbers[:, 0] + 0.5 * numbers[:, 1] * numbers[:, 2]
    paid = score + 0.3 * (sex - 0.5) + rng.logistic(size=rows) > 0
    return {
        "age": age.astype(np.int16),
        "hours": hours,
        **{f"x{index}": numbers[:, index] for index in range(5)},
        "sex": np.array(["Female", "Male"])[sex],
        "race": np.array(["a", "b", "c", "d", "e"])[race],
        "label": np.array(["no", "yes"])[paid.astype(int)],
    }


# ------------------------------------------------------------------ in the child


def story(source: str, *, is_brief: bool = False) -> list[Step]:
    """Load, train, audit, file; seconds of the processor and peak of each, probe by probe."""
    from assay import engine
    from assay import story as verbs
    from assay.data import load_census_kdd, read_table
    from assay.observe import Workspace
    from assay.train import train_system
    from assay.values import plain

    steps = Steps()
    with tempfile.TemporaryDirectory() as folder, watched(engine, steps):
        with steps("load"):
            if source == "census":
                data = load_census_kdd(fetch=True)
            else:
                data = read_table(source, label="label", groups=["sex", "race"])
        steps.rows = sum(len(split) for split in data.splits.values())
        with steps("train"):
            system = train_system(data, recipe=brief(data) if is_brief else None)
        recipe: Any = system.recipe
        steps.note(plain({"settings": recipe.settings.epochs, "curve": system.facts["curve"][-1]}))
        with steps("audit"):
            judged = verbs.audit(system, workspace=Workspace(folder=Path(folder) / "cache", key=b"key"))
        stopped = [one.reason for one in judged.audit.measurements if one.reason.startswith("the probe stopped")]
        assert not stopped, stopped
        with steps("file"):
            verbs.file(judged, Path(folder) / "dossier")
        values = {one.metric: one.value for one in judged.audit.measurements if one.headline}
        steps.note({name: values[name] for name in ("accuracy", "area_under_roc") if name in values})
    return steps.done


def brief(data: Any) -> Any:
    """One pass of a network a tenth as costly as the default: as many rows in memory, less time."""
    from assay.models import Architecture
    from assay.tasks import task_of
    from assay.train import TrainRecipe, TrainSettings

    return TrainRecipe(Architecture("mlp", {"hidden": [32]}), task_of(data), TrainSettings(epochs=1, batch_size=4096))


class Steps:
    """What each step took. One inside another is told apart: its peak counts for both, its seconds for itself too."""

    def __init__(self) -> None:
        import_all()
        self.base = resident("VmRSS")
        self.rows, self.highest = 0, [0.0]
        self.done: list[Step] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        self._look()
        began, index = time.process_time(), len(self.done)
        self.done.append({"step": name, "depth": len(self.highest) - 1})
        self.highest.append(0.0)
        yield
        self._look()
        peak = self.highest.pop()
        self.highest[-1] = max(self.highest[-1], peak)
        seconds = time.process_time() - began
        about = {"rows": self.rows, "base_mib": self.base, "seconds": seconds}
        self.done[index] |= about | {"peak_mib": peak - self.base, "after_mib": resident("VmRSS") - self.base}
        print(f"{name}: {seconds:.1f} s, peak {peak - self.base:.0f} MiB", file=sys.stderr, flush=True)

    def note(self, facts: dict[str, Any]) -> None:
        """Facts beside the latest step."""
        self.done[-1]["facts"] = facts
        print(facts, file=sys.stderr, flush=True)

    def _look(self) -> None:
        self.highest[-1] = max(self.highest[-1], resident("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")


def resident(name: str) -> float:
    """MiB resident now (`VmRSS`), or at most since it was set back (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) / 1024


def import_all() -> None:
    """Everything the story imports, so that none of it counts as memory of the rows."""
    import polars
    import safetensors.numpy
    import scipy.stats
    import torch

    import assay.data.table
    from assay import registry

    registry.load()
    linear = torch.nn.Linear(4, 4)  # the first step of an optimizer imports more
    linear(torch.ones(2, 4)).sum().backward()
    torch.optim.AdamW(linear.parameters()).step()
    polars.DataFrame({"a": [1]}).lazy().collect()
    safetensors.numpy.save({"a": np.ones(1)})
    scipy.stats.binom.ppf(0.5, 10, 0.5)
    assert assay.data.table


@contextmanager
def watched(engine: Any, steps: Steps) -> Iterator[None]:
    """Tell the parts of an audit apart: passes, reference models, each probe."""
    names: dict[str, Callable[..., str]] = {
        "measure": lambda probe, needs: probe.name,
        "observe": lambda system, split, **_: f"pass over {split}",
        "reference_models": lambda *_: "reference models",
        "draws_for": lambda *_: "draws",
    }
    before = {name: getattr(engine, name) for name in names}

    def told(name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with steps(names[name](*args, **options)):
                return before[name](*args, **options)

        return call

    for name in names:
        setattr(engine, name, told(name))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(engine, name, function)


def table(steps: list[Step]) -> str:
    """The steps as text."""
    rows, base = steps[-1]["rows"], steps[-1]["base_mib"]
    lines = [f"{rows:,} rows; the interpreter with all imports {base:.0f} MiB", ""]
    lines.append(f"{'step':<36}{'CPU s':>8}{'rows/s':>12}{'peak MiB':>10}{'after MiB':>10}")
    for step in steps:
        speed = f"{rows / step['seconds']:,.0f}" if step["seconds"] >= 0.05 else ""
        name = "  " * step["depth"] + step["step"]
        peaks = f"{step['peak_mib']:>10.0f}{step['after_mib']:>10.0f}"
        lines.append(f"{name:<36}{step['seconds']:>8.1f}{speed:>12}{peaks}")
    whole = [step for step in steps if not step["depth"]]
    seconds, peak = sum(step["seconds"] for step in whole), max(step["peak_mib"] for step in whole)
    lines.append(f"{'all':<36}{seconds:>8.1f}{rows / seconds:>12,.0f}{peak:>10.0f}")
    told = [f"{step['step']}: {json.dumps(step['facts'])}" for step in steps if "facts" in step]
    return "\n".join([*lines, "", *told])


if __name__ == "__main__":
    main()
