"""Running the command line, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from assay.cli import main
from assay.values import Data

Run = Callable[..., "Ran"]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls the command line here, as `assay ARGUMENTS` would; nothing printed before counts."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(one) for one in arguments])
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Ran(stopped.value.code, said.out, said.err)

    return run


def start(*arguments: object, cwd: Path, home: Path, **options: object) -> subprocess.Popen[str]:
    """The command line in a process of its own, with pipes: no terminal."""
    environment = {**os.environ, "ASSAY_HOME": str(home), "OMP_NUM_THREADS": "1", "COVERAGE_PROCESS_START": ""}
    command = [sys.executable, "-m", "assay.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def write_table(path: Path, num: int = 300, seed: int = 0) -> Path:
    """Loans whose repayment follows age and hours, with one sensitive column."""
    rng = np.random.default_rng(seed)
    age, hours = rng.integers(18, 80, num), rng.integers(1, 99, num)
    sex, job = rng.choice(["f", "m"], num), rng.choice(["a", "b", "c"], num)
    paid = np.where(0.05 * (age - 50) + 0.04 * (hours - 50) + rng.logistic(0, 0.7, num) > 0, "yes", "no")
    rows = [",".join(map(str, row)) for row in zip(age, hours, job, sex, paid, strict=True)]
    path.write_text("age,hours,job,sex,paid\n" + "\n".join(rows) + "\n")
    return path


def write_reviews(path: Path, data: Data) -> Path:
    """Texts as a table: said, mood, topic."""
    lines = [
        f"{said},{data.classes[label]},{data.group_columns[0].categories[code]}"
        for split in data.splits.values()
        for said, label, code in zip(split.inputs, split.labels, split.groups.codes[:, 0], strict=True)
    ]
    path.write_text("\n".join(["said,mood,topic", *lines]) + "\n")
    return path


def write_pictures(path: Path, data: Data) -> Path:
    """Pictures as a file of tensors, with the names of classes and of one group."""
    parts, group = list(data.splits.values()), data.group_columns[0]
    tensors = {
        "images": np.concatenate([one.inputs for one in parts]),
        "labels": np.concatenate([one.labels for one in parts]),
        f"group.{group.name}": np.concatenate([one.groups.codes[:, 0] for one in parts]).astype(np.int64),
    }
    names = {"classes": data.classes, f"group.{group.name}": group.categories}
    save_file(tensors, path, metadata={name: json.dumps(one) for name, one in names.items()})
    return path


def write_policy(path: Path, **bounds: float) -> Path:
    """A policy with one rule, accuracy at least so much."""
    rules = "".join(
        f'[[rule]]\nid = "{name}"\nmetric = "{name}"\nat_least = {bound}\n' for name, bound in bounds.items()
    )
    path.write_text(f'name = "own"\nversion = "1"\n{"".join(rules)}')
    return path
