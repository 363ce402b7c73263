"""Two processes train as one does, to rounding; a killed team goes on with another number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from assay.errors import UsageError
from assay.train.checkpoints import Checkpoints, load_newest
from assay.train.distributed import Team, team
from assay.train.shards import span
from assay.values import Array
from train.distributed_child import data_of, recipe_of, write

CHILD = Path(__file__).with_name("distributed_child.py")


def run(kind: str, mode: str, folder: Path, *, size: int = 2, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    """A team of `size` processes, started by torchrun."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "--master-port", "0"]
    command += ["--standalone", str(CHILD), kind, mode, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"KILL_AT": str(kill_at)} if kill_at else {})
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)


def alone(kind: str, folder: Path) -> tuple[dict[str, Array], dict[str, object]]:
    """The same training by this process."""
    folder.mkdir(exist_ok=True)
    data = data_of(kind)
    recipe = replace(recipe_of(kind), checkpoints=Checkpoints(folder / "checkpoints", every_steps=3))
    write(recipe.fit(data.splits["train"], data, 7), folder)
    return told(folder)


def told(folder: Path) -> tuple[dict[str, Array], dict[str, object]]:
    return load_file(folder / "weights.safetensors"), json.loads((folder / "told.json").read_text())


def same(ours: tuple[dict[str, Array], dict[str, object]], theirs: tuple[dict[str, Array], dict[str, object]]) -> None:
    assert ours[0].keys() == theirs[0].keys()
    for name, array in ours[0].items():
        np.testing.assert_allclose(array, theirs[0][name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(ours[1]["curve"], theirs[1]["curve"], atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("table", "replicas"), ("table", "shards"), ("text", "shards"), ("gru", "replicas"), ("image", "replicas")],
)
def test_two_processes_are_one_to_rounding(tmp_path: Path, kind: str, mode: str) -> None:
    done = run(kind, mode, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    theirs = told(tmp_path / "two")
    assert theirs[1]["workers"] == 2
    same(theirs, alone(kind, tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 3), (3, 1), (2, 2)])
def test_a_killed_team_goes_on_with_another_number_of_processes(tmp_path: Path, sizes: tuple[int, int]) -> None:
    folder = tmp_path / "run"
    killed = run("table", "shards", folder, size=sizes[0], kill_at=8)
    assert killed.returncode != 0
    assert not (folder / "told.json").exists()
    assert sorted(path.name for path in (folder / "checkpoints").glob("step-*")) == ["step-000000003", "step-000000006"]
    if sizes[1] == 1:
        found = alone("table", folder)
    else:
        done = run("table", "shards", folder, size=sizes[1])
        assert done.returncode == 0, done.stderr
        found = told(folder)
    assert found[1]["resumed"] == 1
    same(found, alone("table", tmp_path / "unbroken"))


@pytest.mark.slow
def test_a_damaged_part_is_refused_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    assert run("table", "shards", tmp_path / "run", kill_at=8).returncode != 0
    newest = tmp_path / "run" / "checkpoints" / "step-000000006" / "part-00001.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    numbers = json.loads((tmp_path / "run" / "checkpoints" / "step-000000003" / "state.json").read_text())
    found = load_newest(tmp_path / "run" / "checkpoints", numbers["run"])
    assert found is not None
    assert found[1]["step"] == 3
    made = recipe_of("table").make_module(data_of("table").splits["train"], data_of("table"), 0)
    assert found[0]["module.body.0.weight"].shape == made.state_dict()["body.0.weight"].shape


@pytest.mark.slow
def test_a_checkpoint_of_one_process_is_taken_up_by_two(tmp_path: Path) -> None:
    whole = alone("table", tmp_path / "one")
    folder = tmp_path / "two"
    (folder / "checkpoints").mkdir(parents=True)
    first = tmp_path / "one" / "checkpoints" / "step-000000009"
    assert first.is_dir()
    first.rename(folder / "checkpoints" / first.name)
    done = run("table", "shards", folder)
    assert done.returncode == 0, done.stderr
    same(told(folder), whole)


@pytest.mark.slow
def test_the_command_line_trains_with_a_team(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
        "assay.cli",
    ]
    command += ["train", "adult", "--set", "epochs=1", "--distribute", "shards", "--json", "--out", "system"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["facts"]["workers"] == 2
    again = [sys.executable, "-m", "assay.cli", "train", "adult", "--set", "epochs=1", "--json", "--out", "one"]
    alone_told = subprocess.run(again, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path).stdout
    assert told["facts"]["train_loss"] == pytest.approx(json.loads(alone_told)["facts"]["train_loss"], abs=1e-3)


@pytest.mark.parametrize(("num_rows", "size"), [(7, 3), (8, 3), (2, 4), (0, 2), (9, 1)])
def test_spans_are_those_of_torch_chunk(num_rows: int, size: int) -> None:
    import torch

    lengths = [len(part) for part in torch.chunk(torch.arange(num_rows), size)] if num_rows else []
    spans = [span(num_rows, rank, size) for rank in range(size)]
    assert [one.last - one.first for one in spans if one.last > one.first] == [length for length in lengths if length]
    assert spans[0].first == 0
    assert spans[-1].last == num_rows
    assert all(one.last == other.first for one, other in pairwise(spans))


def test_outside_of_a_team_it_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="torchrun"), team():
        pass
    with pytest.raises(UsageError, match="replicas, shards"), team("half"):  # type: ignore[arg-type]
        pass


def test_a_team_ends_when_its_one_thread_has_let_go_of_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it lets go while the interpreter ends, which ends the process by SIGABRT. Here it is late.

    With two threads the last collective would say nothing of what the other thread still holds.
    """
    import torch
    from torch import distributed as dist

    held, all_reduce = [], dist.all_reduce

    def late(tensor: object) -> None:
        all_reduce(tensor)
        held.append(tensor)
        threading.Timer(0.1, held.clear).start()

    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    with team():
        backend = dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
        assert backend.options._threads == 1
        monkeypatch.setattr(dist, "all_reduce", late)
    assert held == []


def test_batch_norm_on_cpus_is_refused() -> None:
    import torch

    normed = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    with pytest.raises(UsageError, match="norm=group"):
        Team("replicas", 0, 2, torch.device("cpu")).ready(normed)


def test_every_row_is_in_one_part_and_the_shares_are_one() -> None:
    import torch

    for num in (1, 2, 5, 40):
        batch = torch.arange(num)
        parts = [Team("replicas", rank, 3, torch.device("cpu")).rows(batch) for rank in range(3)]
        assert sum(share for _, share in parts) == pytest.approx(1)
        counted = torch.cat([rows for rows, share in parts if share])
        assert counted.tolist() == batch.tolist()
