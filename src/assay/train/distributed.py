"""Training by many processes that `torchrun` started: replicas (DDP) or shards (FSDP2), on PyTorch's own engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from assay.errors import Problem, UsageError

Mode = Literal["replicas", "shards"]


@dataclass(frozen=True)
class Team:
    """The processes of one `torchrun`: each trains on its part of every batch, and all keep equal weights.

    `replicas` hold whole weights and average gradients (DDP); `shards` hold 1/size of every weight, gradient and
    optimizer state, and gather a layer when it runs (FSDP2). Every process draws the same batches in the same order,
    so W processes train as one does, to rounding; dropout and augmentation draw anew in each. Limits: every process
    reads all of the data; BatchNorm needs a GPU, where its statistics are shared.
    """

    mode: Mode
    rank: int
    size: int
    device: torch.device

    @property
    def is_sharded(self) -> bool:
        """Whether this process holds a part of every weight."""
        return self.mode == "shards"

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress: the one of rank 0."""
        return self.rank == 0

    def ready(self, module: nn.Module) -> Callable[[Tensor], Tensor]:
        """The module, spread over the team, with the weights of rank 0. Raises UsageError for BatchNorm on CPUs."""
        normed = [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
        if normed and self.device.type == "cpu" and self.size > 1:
            what = f"BatchNorm ({normed[0]}) has no statistics of the whole batch when {self.size} processes share it"
            raise UsageError(Problem(what, "norm=group, or GPUs", "Train with --set norm=group"))
        if normed:
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, src=0)
        if self.mode == "replicas":
            wrapped: Callable[[Tensor], Tensor] = DistributedDataParallel(module)
            return wrapped
        for child in module.children():
            if any(True for _ in child.parameters()):
                fully_shard(child)
        fully_shard(module)
        return module

    def rows(self, batch: Tensor) -> tuple[Tensor, float]:
        """The part of this process of a batch's rows, and its share; one row without weight where none is left."""
        mine = torch.tensor_split(batch, self.size)[self.rank]
        return (mine, len(mine) / len(batch)) if len(mine) else (batch[:1], 0.0)

    def backward(self, mean: Tensor, share: float) -> None:
        """Gradients of the whole batch's mean loss: the engine averages over processes, so each weighs share * size."""
        (mean * (share * self.size)).backward()  # type: ignore[no-untyped-call]

    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over the team."""
        total = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def whole(self, tensor: Tensor) -> Tensor:
        """A sharded tensor put together; any other as it is. Every process must call it at the same point."""
        found = tensor.detach()
        return found.full_tensor() if isinstance(found, DTensor) else found


@contextmanager
def team(mode: Mode = "replicas") -> Iterator[Team]:
    """The team that `torchrun` started this process in: gloo on CPUs, NCCL on GPUs. Raises UsageError outside of one.

    `torchrun --nproc-per-node 2 script.py`, and in the script: `with team("shards") as workers: ...`.
    """
    if mode not in ("replicas", "shards"):
        raise UsageError(Problem(f"mode {mode!r} is not known", "replicas, shards"))
    missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        what = f"this process is in no team: {', '.join(missing)} not set"
        raise UsageError(Problem(what, "a process of torchrun", "Run: torchrun --nproc-per-node 2 ..."))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Team(mode, dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
