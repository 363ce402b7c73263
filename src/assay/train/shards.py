"""Checkpoints of sharded runs: every process writes what it holds, and any number of processes can read it again.

A checkpoint is a folder `step-000000123` with one `part-R.safetensors` for each process, `state.json` and `SHA256SUMS`
over all of them. A tensor that was spread lies in the parts row by row (dimension 0), in the order of the processes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import safetensors.torch
import torch
from torch import Tensor
from torch import distributed as dist

from assay.errors import Problem, StorageError
from assay.storage import read_regular, read_verified, staged_folder, write_atomic
from assay.values import canonical

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

NUMBERS, SUMS = "state.json", "SHA256SUMS"


Like = Callable[[str], Tensor | None]  # by the name of a saved tensor: how it lies now


def no_like(name: str) -> None:
    """Nothing is spread."""


@dataclass(frozen=True)
class Span:
    """Rows `first` to `last` (without it) of dimension 0: what one process holds of a tensor."""

    first: int
    last: int


def is_spread(tensor: Tensor | None) -> TypeGuard[DTensor]:
    """Whether other processes hold parts of it. Importing what spreads tensors takes a second; without it none is."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def span(num_rows: int, rank: int, size: int) -> Span:
    """What process `rank` of `size` holds: `ceil(n / size)` rows each, the last ones fewer or none (`torch.chunk`).

    >>> [span(7, rank, 3) for rank in range(3)]
    [Span(first=0, last=3), Span(first=3, last=6), Span(first=6, last=7)]
    """
    step = -(-num_rows // size)
    return Span(min(rank * step, num_rows), min((rank + 1) * step, num_rows))


def save_shards(final: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Write the folder `final`, at once or not at all; every process of the team must call this at the same point.

    Raises StorageError on every process when one of them cannot write.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    spread = {name: list(tensor.shape) for name, tensor in tensors.items() if is_spread(tensor)}
    local = {name: _local(tensor) for name, tensor in sorted(tensors.items())}
    content = safetensors.torch.save(local)
    gathering = final.with_name(f".{final.name}.parts")
    if rank == 0:
        shutil.rmtree(gathering, ignore_errors=True)
        gathering.mkdir(parents=True)
    dist.barrier()
    told = torch.zeros(33, dtype=torch.uint8)  # a flag and a digest; torch's way to gather objects would unpickle them
    told[1:] = torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)
    try:
        write_atomic(gathering / part_name(rank), content)
    except StorageError:
        told[0] = 1
    found = [torch.empty_like(told) for _ in range(size)]
    dist.all_gather(found, told)
    failed = [place for place in range(size) if found[place][0]]
    if failed:
        what = f"process {failed[0]} of {size} could not write its part of {final}"
        raise StorageError(Problem(what, next="Look at the disk there; the checkpoint before stays"))
    if rank == 0:
        state = canonical({**numbers, "size": size, "spread": spread}).encode()
        sums = {part_name(place): bytes(one[1:].tolist()).hex() for place, one in enumerate(found)}
        sums[NUMBERS] = hashlib.sha256(state).hexdigest()
        with staged_folder(final) as staged:
            for place in range(size):
                (gathering / part_name(place)).rename(staged / part_name(place))
            write_atomic(staged / NUMBERS, state)
            write_atomic(staged / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())
        shutil.rmtree(gathering, ignore_errors=True)
    dist.barrier()


def load_shards(path: Path, like: Like) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors laid out as `like(name)` is here and now, whatever the number of processes that wrote them.

    A tensor that was not spread comes from the first process. Every file is verified by digest before it is parsed.
    Raises StorageError for a damaged file.
    """
    lines = [line.split("  ") for line in read_regular(path / SUMS).decode("ascii", "replace").splitlines()]
    sums = {line[1]: line[0] for line in lines if len(line) == 2}
    if NUMBERS not in sums:
        raise StorageError(Problem(f"{path / SUMS} is damaged"))
    numbers: dict[str, Any] = json.loads(read_verified(path / NUMBERS, sums[NUMBERS]))
    spread, writers = numbers.pop("spread"), numbers.pop("size")
    found: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {name: [] for name in spread}
    for rank in range(writers):
        here = safetensors.torch.load(read_verified(path / part_name(rank), sums.get(part_name(rank), "")))
        for name, shape in spread.items():
            held, own = span(shape[0], rank, writers), _own(like(name), shape)
            first, last = max(held.first, own.first), min(held.last, own.last)
            if first < last:
                parts[name].append(here[name][first - held.first : last - held.first].clone())
        if rank == 0:
            found = {name: tensor for name, tensor in here.items() if name not in spread}
    return found | {name: _spread(parts[name], like(name), shape) for name, shape in spread.items()}, numbers


def laid_out(tensors: Mapping[str, Tensor], like: Like) -> dict[str, Tensor]:
    """Whole tensors, each cut down to what this process is to hold of it."""
    found = {}
    for name, tensor in tensors.items():
        target = like(name)
        is_cut = is_spread(target) and target.shape == tensor.shape
        own = _own(target, list(tensor.shape)) if is_cut else None
        found[name] = tensor if own is None else _spread([tensor[own.first : own.last]], target, list(tensor.shape))
    return found


def part_name(rank: int) -> str:
    """The file of one process."""
    return f"part-{rank:05d}.safetensors"


def _local(tensor: Tensor) -> Tensor:
    held = tensor.detach()
    held = held.to_local() if is_spread(held) else held
    return held.cpu().contiguous().clone()


def _own(tensor: Tensor | None, shape: list[int]) -> Span:
    """The rows that this process wants of a tensor."""
    if is_spread(tensor):
        return span(shape[0], dist.get_rank(), dist.get_world_size())
    return Span(0, shape[0])


def _spread(parts: list[Tensor], like: Tensor | None, shape: list[int]) -> Tensor:
    whole = torch.cat(parts) if parts else torch.zeros((0, *shape[1:]))
    if not is_spread(like):
        return whole
    from torch.distributed.tensor import DTensor

    local = whole.to(like.to_local().device)
    made: Tensor = DTensor.from_local(
        local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride(), run_check=False
    )
    return made
