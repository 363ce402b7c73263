"""Training by many processes that `torchrun` started: replicas (DDP) or shards (FSDP2), on PyTorch's own engine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from assay.errors import Problem, UsageError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

Mode = Literal["replicas", "shards"]
IN_ORDER = "gloo_in_order"  # the name of the backend below
LET_GO_SECONDS = 60.0  # far more than a thread needs that has only to let go


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
    dist.init_process_group("nccl" if on_gpu else IN_ORDER)
    try:
        yield Team(mode, dist.get_rank(), dist.get_world_size(), device)
        if not on_gpu:
            _let_go()
    finally:
        dist.destroy_process_group()


def _gloo_in_order(store: Store, rank: int, size: int, timeout: timedelta) -> dist.ProcessGroupGloo:
    """The gloo backend with one working thread, not two: it lets go of one collective before it begins the next."""
    chosen = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    chosen._devices = [dist.ProcessGroupGloo.create_default_device()]
    chosen._threads = 1
    chosen._timeout = timeout
    return dist.ProcessGroupGloo(store, rank, size, chosen)


dist.Backend.register_backend(IN_ORDER, _gloo_in_order, devices=["cpu"])


def _let_go() -> None:
    """Wait until gloo's thread has dropped the tensors of every collective so far; no other process is asked.

    A collective is told as done before the thread drops its tensors, and to drop one that Python knows it needs the
    interpreter's lock. FSDP2 and DDP keep the group, so the thread outlives the team. On a loaded machine it came so
    late that the interpreter had begun to end, which before Python 3.14 ends the process by SIGABRT; or that DDP waited
    for the thread with the lock held, which the thread waited for (pytorch/pytorch, 190489).

    The one thread takes up the collective below last. It has no number to send, so it needs nobody else; and when only
    this function refers to its tensor again, the thread needs the lock for nothing any more. (A weak reference would
    say so too early: while the tensor is taken apart, its thread takes the lock once more.)
    """
    last = torch.zeros(0)
    before = sys.getrefcount(last)
    dist.all_reduce(last)
    until = time.monotonic() + LET_GO_SECONDS
    while sys.getrefcount(last) > before and time.monotonic() < until:
        time.sleep(1e-3)
