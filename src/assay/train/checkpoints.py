"""Checkpoints: a run that was killed at any moment goes on to the same bits.

A checkpoint is a folder `step-000000123` with `state.safetensors`, `state.json` and `SHA256SUMS` over both. It appears
at once or not at all (`assay.storage`), and the last two are kept. Nothing in it is ever run.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from assay.errors import ModelError, Problem, StorageError, UsageError
from assay.meter import Energy, EnergyMeter
from assay.storage import clean_leftovers, make_folder, read_regular, read_verified, staged_folder, write_atomic
from assay.train.shards import Like, laid_out, load_shards, no_like, part_name, save_shards
from assay.train.state import State
from assay.train.workers import Workers
from assay.values import canonical, plain

__all__ = ["Checkpoints", "Saver", "load_newest", "save_checkpoint", "total_energy"]

KEPT = 2
TENSORS, NUMBERS, SUMS, TAINTED = "state.safetensors", "state.json", "SHA256SUMS", "tainted.json"
NAME = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a run is saved; one folder belongs to one run. What is saved does not change the weights.

    A run is saved after every `every_steps` steps (0: never for that reason), once `every_seconds` have passed since
    the last time, and at its end. `accept_tainted` goes on from the last good checkpoint of a run that a loss or
    gradient stopped by not being finite; the facts then say so. Limits: bits are the same only with the same package
    versions and kind of processor; a hook's own hidden state (a closure that counts) is not saved.
    """

    folder: Path
    every_steps: int = 0
    every_seconds: float = 60.0
    accept_tainted: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.every_steps < 0 or not self.every_seconds > 0:
            what = f"every_steps is {self.every_steps} and every_seconds {self.every_seconds}"
            raise UsageError(Problem(what, "0 or more steps, more than 0 seconds"))


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Path:
    """Write one checkpoint, then let go of all but the last two. Raises StorageError when the disk does not take it."""
    final = folder / f"step-{step:09d}"
    packed = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    files = {TENSORS: safetensors.torch.save(packed), NUMBERS: canonical(numbers).encode()}
    clean_leftovers(folder)
    with staged_folder(final) as staged:
        for name, data in files.items():
            write_atomic(staged / name, data, durable=False)  # the folder is fsynced as a whole when it is published
        sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
        write_atomic(staged / SUMS, sums.encode(), durable=False)
    _let_go(folder)
    return final


def _let_go(folder: Path) -> None:
    """Remove all checkpoints but the last two."""
    for old in _all(folder)[:-KEPT]:
        hidden = folder / f".{old.name}.tmp-{secrets.token_hex(8)}"  # a half-removed folder is not to be met by name
        old.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def load_newest(
    folder: Path, run: Mapping[str, str], *, like: Like = no_like
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and numbers of the newest checkpoint that is whole; None where there is none at all.

    `run` says what the run is made of (name to digest), `like` how a tensor is spread over workers now. Raises
    ModelError for a checkpoint of another run, naming what differs; StorageError when checkpoints are there and every
    one of them is damaged.
    """
    make_folder(folder)
    clean_leftovers(folder)
    damaged: list[Problem] = []
    for path in reversed(_all(folder)):
        try:
            found, numbers = load_shards(path, like) if (path / part_name(0)).is_file() else _read(path, like)
        except StorageError as error:
            damaged += error.problems
            continue
        other = sorted(name for name in run | numbers["run"] if run.get(name) != numbers["run"].get(name))
        if other:
            what = f"{path} is of another run: it differs in {', '.join(other)}"
            raise ModelError(Problem(what, "the same data, model, settings and seed", "Name another folder"))
        del numbers["run"]
        return found, numbers
    if damaged:
        raise StorageError([*damaged, Problem(f"no checkpoint in {folder} is whole", next="Name another folder")])
    return None


class Saver:
    """Saves one run when it is due, takes it up again, and marks it where it stops. Without checkpoints: nothing."""

    def __init__(
        self, checkpoints: Checkpoints | None, run: Mapping[str, str], meter: EnergyMeter, workers: Workers
    ) -> None:
        self.checkpoints, self.run, self.meter, self.workers = checkpoints, run, meter, workers
        self.last = time.monotonic()
        self.taint: dict[str, Any] | None = None

    def resume(self, state: State) -> None:
        """Stand where the newest checkpoint was made. Raises ModelError for another run's, or a tainted one."""
        if self.checkpoints is None:
            return
        found = load_newest(self.checkpoints.folder, self.run, like=state.like)
        self.taint = _read_taint(self.checkpoints)
        if found is not None:
            state.load(*found)
            state.at.resumed += 1
            if not self.workers.leads:
                state.at.total = state.at.seen = 0.0
        self.last = time.monotonic()

    def after_step(self, state: State) -> None:
        """Save if it is time."""
        if self.checkpoints is None:
            return
        every = self.checkpoints.every_steps
        # Workers have clocks of their own, and all must save at the same step: then only steps count.
        due = self.workers.size == 1 and time.monotonic() - self.last >= self.checkpoints.every_seconds
        if due or (every and state.at.step % every == 0):
            self.save(state)

    def save(self, state: State) -> None:
        """Save now."""
        if self.checkpoints is None:
            return
        tensors, numbers = state.dump()
        numbers |= {"run": dict(self.run), "spent": plain(total_energy(self.meter.read(), state.at.spent))}
        # Each worker has summed the losses of its own rows; one file holds the sum of all.
        numbers["total"], numbers["seen"] = self.workers.sums([state.at.total, state.at.seen])
        if self.workers.is_sharded:
            save_shards(self.checkpoints.folder / f"step-{state.at.step:09d}", tensors, numbers)
        elif self.workers.leads:
            save_checkpoint(self.checkpoints.folder, state.at.step, tensors, numbers)
        if self.workers.is_sharded and self.workers.leads:
            _let_go(self.checkpoints.folder)
        self.last = time.monotonic()

    def stopped(self, what: str, step: int) -> ModelError:
        """The error of a run whose numbers stopped being finite; its folder is marked, its last checkpoint stays."""
        following = "Look for non-finite inputs, or lower the learning rate; the weights of this run are not usable"
        if self.checkpoints is not None and self.workers.leads:
            good = next(reversed(_all(self.checkpoints.folder)), None)
            record = {"what": what, "step": step, "checkpoint": None if good is None else good.name}
            write_atomic(self.checkpoints.folder / TAINTED, canonical(record).encode())
            following += f"; the last good checkpoint is {good}" if good else "; no checkpoint was made before"
        return ModelError(Problem(f"{what} at step {step}", next=following))

    def facts(self, state: State) -> dict[str, Any]:
        """How often the run was taken up again, and what it was tainted by; nothing without checkpoints."""
        if self.checkpoints is None:
            return {}
        return {"resumed": state.at.resumed} | ({"tainted": self.taint} if self.taint else {})


def total_energy(energy: Energy, spent: Mapping[str, Any]) -> Energy:
    """What this process used, and what the run had used before it was taken up again.

    Limits: work that was lost between the last checkpoint and a kill is in neither.
    """
    if not spent:
        return energy
    seconds, cpu = energy.seconds + spent["seconds"], energy.cpu_seconds + spent["cpu_seconds"]
    if energy.joules is None or spent["joules"] is None:
        reason = energy.reason or f"before it was taken up again: {spent['reason']}"
        return Energy(None, None, None, "not measured", energy.source, seconds, cpu, reason)
    joules = {name: getattr(energy, name) + spent[name] for name in ("joules", "low", "high")}
    return replace(energy, **joules, seconds=seconds, cpu_seconds=cpu)


def _read_taint(checkpoints: Checkpoints) -> dict[str, Any] | None:
    """What `stopped` noted, if anything. Raises ModelError unless the caller accepts it."""
    path = checkpoints.folder / TAINTED
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(read_regular(path))
    if checkpoints.accept_tainted:
        return record
    what = f"the run in {checkpoints.folder} is tainted: {record['what']} at step {record['step']}"
    following = "Train with other settings in another folder"
    if record["checkpoint"]:
        following += f", or go on from {record['checkpoint']} with Checkpoints(..., accept_tainted=True)"
    raise ModelError(Problem(what, next=following))


def _all(folder: Path) -> list[Path]:
    """Checkpoints from old to new."""
    return sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else []


def _read(path: Path, like: Like) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and numbers, each file verified by digest before it is parsed. Raises StorageError."""
    lines = [line.split("  ") for line in read_regular(path / SUMS).decode("ascii", "replace").splitlines()]
    sums = {line[1]: line[0] for line in lines if len(line) == 2}
    if set(sums) != {TENSORS, NUMBERS}:
        raise StorageError(Problem(f"{path / SUMS} is damaged"))
    numbers: dict[str, Any] = json.loads(read_verified(path / NUMBERS, sums[NUMBERS]))
    return laid_out(safetensors.torch.load(read_verified(path / TENSORS, sums[TENSORS])), like), numbers
