"""Every benchmark can be imported and tells its options: what it calls may have changed since it last ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from assay.models import Architecture
from assay.tasks import task_of
from assay.train import TrainRecipe, TrainSettings, train_system
from assay.train.traces import FACT
from support import small_images

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("__"))
# One process for all of them: each alone would import torch anew.
SCRIPT = """
import contextlib, importlib, io, sys

for name in sys.argv[1:]:
    told, module = io.StringIO(), None
    sys.argv = [name, "--help"]
    try:
        with contextlib.redirect_stdout(told):
            module = importlib.import_module("benchmarks." + name)
            if hasattr(module, "argparse") and hasattr(module, "main"):
                module.main()
                told.write("it ran instead of telling its options")
    except SystemExit as end:
        found = "told" if end.code in (0, None) and "usage:" in told.getvalue() else f"ended with {end.code}"
    except ModuleNotFoundError as error:
        found = "absent" if not str(error.name).startswith(("assay", "benchmarks")) else repr(error)
    except Exception as error:
        found = repr(error)
    else:
        found = told.getvalue() or "imported"
    print(name, found.replace("\\n", " "), flush=True)
"""


@pytest.mark.slow
def test_rows_never_drawn_are_those_without_a_loss() -> None:
    """Of the loop's order: a row that no step saw has no loss in its trace."""
    from benchmarks.int8 import never_drawn

    data = small_images(100)
    settings = TrainSettings(batch_size=16, max_steps=2)
    recipe = TrainRecipe(Architecture("cnn_lenet", {"hidden": [4]}), task_of(data), settings, is_traced=True)
    system = train_system(data, recipe=recipe, seed=3)
    unseen = np.isnan(system.facts[FACT]).all(axis=0)
    assert unseen.sum() == 60 - 32
    assert never_drawn(system).rows.tolist() == data.splits["train"].rows[unseen].tolist()


@pytest.mark.slow
def test_every_benchmark_is_imported_and_tells_its_options() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *NAMES],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert list(found) == NAMES, done.stderr[-2000:]
    wrong = {name: told for name, told in found.items() if told not in ("told", "imported", "absent")}
    assert wrong == {}, wrong
    assert sum(told == "told" for told in found.values()) >= 20
