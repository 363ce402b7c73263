"""Kill training runs again and again: `train_kit.py NAME FOLDER SEED`, in a process that a test starts.

Every run is a process of its own, forked from this one (so that torch is imported once), and ends by SIGKILL: right
before the k-th call into the file system, or at a random moment. What the runs came to is printed as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.models.adapters.module import digest_state
from assay.tasks import Classification, Regression
from assay.train import Checkpoints, Hooks, TrainSettings, describe_costs, fit
from assay.train.updates import make_optimizer
from assay.values import Column, Groups, Split, Task, texts

ROWS = 96
CALLS = ("write", "fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "open", "close")
WORDS = ["good", "bad", "fine", "poor", "great", "awful", "film", "plot"]


class Pictures(nn.Module):
    """Convolutions, BatchNorm and dropout: running statistics and a random generator to be saved."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2)
        )
        self.head = nn.Linear(64, 2)

    def encode(self, inputs: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs.float() / 255))


class Sentences(nn.Module):
    """Words by index, a recurrent layer, the mean over words."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS) + 1, 6, padding_idx=0)
        self.recurrent, self.head = kind(6, 8, batch_first=True), nn.Linear(8, 2)

    def encode(self, inputs: np.ndarray[Any, Any]) -> Tensor:
        return torch.tensor([[WORDS.index(word) + 1 for word in text.split()] for text in inputs.tolist()])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(tokens))[0].mean(dim=1))


class Attention(nn.Module):
    """One Transformer layer over the columns of a row, answering with a number."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(self.lift(inputs[:, :, None])).mean(dim=1))


def table() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


def task_of(name: str) -> tuple[nn.Module, Split, Task, TrainSettings, tuple[Column, ...]]:
    """(module, split, task, settings, columns) of one of four tasks, each with other parts of the loop switched on."""
    torch.manual_seed(3)
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, ROWS)
    numbers = (rng.normal(size=(ROWS, 4)) + labels[:, None]).astype(np.float32)
    groups = Groups(np.zeros((ROWS, 0), dtype=np.int16), ())
    rows, classes = np.arange(1, ROWS + 1), Classification(("no", "yes"), "yes")
    if name == "table":
        settings = TrainSettings(epochs=6, batch_size=16, average=0.9, patience=2, class_weights="balanced")
        return table(), Split(numbers, labels, groups, rows), classes, settings, ()
    if name == "image":
        column = Column("image", "image", low=0, high=255, shape=(1, 8, 8))
        pixels = rng.integers(0, 120, (ROWS, 1, 8, 8)) + 100 * labels[:, None, None, None]
        settings = TrainSettings(epochs=5, batch_size=16, optimizer="sgd", average=0.8, augment=("flip", "crop:1"))
        return Pictures(), Split(pixels.astype(np.uint8), labels, groups, rows), classes, settings, (column,)
    if name == "text":
        lines = texts(" ".join(rng.choice(WORDS, 5)) for _ in range(ROWS))
        settings = TrainSettings(epochs=5, batch_size=16, precision="bfloat16", curve="one_cycle", patience=3)
        column = Column("text", "text", language="en")
        return Sentences(nn.GRU), Split(lines, labels, groups, rows), classes, settings, (column,)
    targets = (numbers @ np.array([1, -2, 0.5, 3]) + rng.normal(size=ROWS)).astype(np.float32)
    settings = TrainSettings(epochs=5, batch_size=16, optimizer="adam", decay="matrices", curve="step")
    return Attention(), Split(numbers, targets, groups, rows), Regression(), settings, ()


def count_calls(kill_at: int) -> list[int]:
    """Let every call that changes the file system count, and kill this process right before the `kill_at`-th."""
    made = [0]

    def counted(call: Any) -> Any:
        def replacement(*arguments: Any, **options: Any) -> Any:
            made[0] += 1
            if made[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return replacement

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    return made


def train(name: str, folder: Path, out: Path, kill_at: int) -> None:
    """One run to its end, or to its death."""
    module, split, task, settings, columns = task_of(name)
    learned, watched = split.take(np.arange(72)), split.take(np.arange(72, ROWS))
    made = count_calls(kill_at)
    hooks = Hooks(validation=watched, columns=columns, checkpoints=Checkpoints(folder, every_steps=3))
    facts = fit(module, learned, task=task, settings=settings, seed=11, hooks=hooks)
    calls = made[0]
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in facts["curve"]]
    result = {"weights": digest_state(module, None, "")[0], "curve": curve, "steps": facts["steps"]}
    out.write_text(json.dumps({"result": result, "resumed": facts["resumed"], "calls": calls}))


def run(name: str, folder: Path, out: Path, kill_at: int = 0, seconds: float = 0.0) -> bool:
    """One run in a process of its own, killed after `seconds` if that is not 0; whether it was killed."""
    process = os.fork()
    if process == 0:
        try:
            train(name, folder, out, kill_at)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if seconds:
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"a run of {name} failed")
    return os.WIFSIGNALED(status)


def main(name: str, folder: str, seed: str) -> None:
    """Kill one run at random storage calls and moments until it ends; another at every storage call of one save."""
    root, rng = Path(folder), np.random.default_rng(int(seed))
    describe_costs(table(), (), inputs=np.zeros((1, 4), dtype=np.float32))
    make_optimizer(table(), TrainSettings())  # with the line above: what torch imports late is imported once
    began = time.monotonic()
    run(name, root / "whole", root / "whole.json")
    seconds = time.monotonic() - began
    whole = json.loads((root / "whole.json").read_text())
    killed, ended = {"inside": 0, "between": 0}, []
    while min(killed.values()) < 7:
        out = root / f"broken{len(ended)}"
        where = "inside" if killed["inside"] <= killed["between"] else "between"
        if where == "inside":
            dead = run(name, out, out.with_suffix(".json"), kill_at=int(rng.integers(1, 70)))
        else:
            dead = run(name, out, out.with_suffix(".json"), seconds=rng.uniform(0.02, 0.5 * seconds))
        killed[where] += dead
        if not dead:
            ended.append(json.loads(out.with_suffix(".json").read_text()))
    run(name, out, out.with_suffix(".json"))
    ended.append(json.loads(out.with_suffix(".json").read_text()))
    one_save = whole["calls"] // (whole["result"]["steps"] // 3 + 1)
    same = 0
    positions = range(one_save, 2 * one_save + 1) if name == "table" else ()
    for kill_at in positions:  # within the second save
        there = root / f"at{kill_at}"
        killed["inside"] += run(name, there, root / "at.json", kill_at=kill_at)
        run(name, there, root / "at.json")
        same += json.loads((root / "at.json").read_text())["result"] == whole["result"]
        shutil.rmtree(there)
    found = {"whole": whole, "ended": ended, "killed": killed, "positions": len(positions), "same": same}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:4])
