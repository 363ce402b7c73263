"""The shared pass: each row goes through the model once, and every passive probe reads what was recorded."""

from __future__ import annotations

import hmac
import os
import re
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from assay.errors import BudgetError, ModelError, Problem
from assay.evidence.receipts import instant
from assay.meter import EnergyMeter, environment
from assay.registry import NEEDS_GRADIENT
from assay.storage.cache import Cache, Entry
from assay.values import Array, Observation, Progress, Split, System, digest_of, plain, quiet

if TYPE_CHECKING:
    import torch

Answer = TypeVar("Answer")
BATCH = 8192
MOST_COLUMNS, _NUMBERS = 256, 1 << 19  # of a table with more columns a batch has so many numbers
WHITE_BATCH = 1024  # with gradients every activation is kept
HALVED: dict[str, int] = {}  # rows a batch by system, where BATCH rows did not fit into memory


@dataclass(frozen=True)
class Workspace:
    """Where and how audits run: cache folder, the owner's draw key, draws, level, reference models, row budget."""

    folder: Path | None = None
    key: bytes = field(default=b"", repr=False)
    num_draws: int = 1000
    level: float = 0.95
    num_references: int = 4
    row_budget: int = 100_000_000  # ten million rows of data with four reference models take 52 million
    progress: Progress = quiet
    derived_key: bytes = field(default=b"", repr=False)  # of one test split, from a sealed part; instead of `key`
    memory: dict[str, Entry] = field(default_factory=dict, repr=False, compare=False)  # used when there is no folder

    @property
    def cache(self) -> Cache:
        """What was run before: in the folder, or else for as long as this value lives."""
        return Cache(self.folder, self.memory)

    @property
    def key_id(self) -> str:
        """Names the draw key without giving it away."""
        return digest_of(["draw key", self.key.hex()])[:16]

    def split_key(self, split_digest: str) -> bytes:
        """The key of the draws of one test split: HMAC-SHA-256 under the owner's key, so it tells nothing of that."""
        return self.derived_key or hmac.digest(self.key or b"no owner key", split_digest.encode(), "sha256")

    def quietly(self) -> Workspace:
        """The same, without progress messages."""
        return replace(self, progress=quiet)


@dataclass
class Ledger:
    """Counts model rows as they are run; the one mutable thing here, because counting is what it is for."""

    budget: int
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, num_rows: int) -> None:
        """Count rows before they are run. Raises BudgetError when that would pass the budget."""
        total = self.total + num_rows
        if total > self.budget:
            what = f"{kind} asks for {num_rows:,} more model rows, {total:,} in all"
            raise BudgetError(Problem(what, f"at most {self.budget:,}", "Raise the row budget or choose fewer probes"))
        self.rows[kind] = self.rows.get(kind, 0) + num_rows

    @property
    def total(self) -> int:
        """All rows so far."""
        return sum(self.rows.values())


def run_model(system: System, inputs: Array) -> Array:
    """Raw inputs `(N, ...)` to logits `(N, K)` float32, in batches. Raises ModelError for a wrong number of answers.

    Where memory runs out the batch is halved, for this system from then on, down to one row; `batch_facts` says so.
    """
    parts, start, size = [], 0, min(_rows_a_batch(inputs), HALVED.get(system.digest, BATCH))
    while start < max(len(inputs), 1):
        batch = inputs[start : start + size]
        try:
            logits = system.task.logits(system.model.outputs(batch), system.model.outputs_are)
        except Exception as error:  # that of ONNX Runtime is no RuntimeError
            if len(batch) < 2 or not _out_of_memory(error):
                raise
            size = HALVED[system.digest] = len(batch) // 2
            continue
        if len(logits) != len(batch):
            raise ModelError(
                Problem(
                    f"the model answered {len(logits)} rows of {len(batch)}", "one answer per row", "Fix its output"
                )
            )
        parts.append(logits)
        start += size
    return np.concatenate(parts)


def _rows_a_batch(inputs: Array) -> int:
    """Fewer of a wide table: what an encoding makes in between stays in a cache (half the time at 10,000 columns)."""
    num_columns = inputs.shape[1] if inputs.ndim == 2 else 1
    return BATCH if num_columns <= MOST_COLUMNS else max(16, _NUMBERS // num_columns)


def halving(system: System, size: int, run: Callable[[int], Answer]) -> Answer:
    """`run(rows a batch)`, again with half as many where memory runs out, down to one; remembered as in `run_model`."""
    while True:
        size = min(size, HALVED.get(system.digest, size))
        try:
            return run(size)
        except Exception as error:
            if size < 2 or not _out_of_memory(error):
                raise
            HALVED[system.digest] = size // 2


_NO_ROOM = re.compile(r"out of memory|can't allocate memory|failed to allocate memory|alloc_failed", re.IGNORECASE)


def _out_of_memory(error: Exception) -> bool:
    """NumPy's MemoryError, torch's OutOfMemoryError, and what torch's other devices, cuBLAS and ONNX Runtime say."""
    told = type(error).__name__ == "OutOfMemoryError" or _NO_ROOM.search(str(error)) is not None
    return told or isinstance(error, MemoryError)


def batch_facts(system: System) -> dict[str, int]:
    """For the record of an audit: how many rows a batch had in the end, where memory ran out."""
    return {"rows a batch": HALVED[system.digest]} if system.digest in HALVED else {}


def answers(system: System, split: Split, logits: Array) -> dict[str, Array]:
    """Everything that follows from logits without running the model: probabilities, predictions, losses."""
    probabilities = system.task.probabilities(logits)
    arrays = {
        "logits": logits,
        "probabilities": probabilities,
        "predictions": system.decision.decide(probabilities, split.inputs, split.groups),
        "losses": system.task.losses(split.labels, logits),
    }
    return {name: array for name, array in arrays.items() if name in system.task.observables}


def observation_key(system: System, split_name: str, want: frozenset[str]) -> list[Any]:
    """Under which the record of a pass is remembered."""
    white = sorted(want & NEEDS_GRADIENT)
    return ["observation", 1, system.digest, system.data.splits[split_name].digest, white]


def observe(
    system: System, split_name: str, *, want: frozenset[str], workspace: Workspace, ledger: Ledger
) -> Observation:
    """One pass over a split, recording what the probes want; from the cache when it was run before."""
    split = system.data.splits[split_name]
    white = sorted(want & NEEDS_GRADIENT)
    key = observation_key(system, split_name, want)
    stored = workspace.cache.get(key)
    if stored is not None:
        arrays, facts = stored
        return Observation(
            arrays=arrays, split_digest=split.digest, system_digest=system.digest, split=split_name, **facts
        )
    meter, started = EnergyMeter(), time.perf_counter()
    meter.start()
    ledger.add(f"{split_name} pass", len(split))
    if white:
        logits, extra = _white_box_pass(system, split)
    else:
        logits, extra = run_model(system, split.inputs), {}
    # Of other splits only logits are ever asked for: a training split may be most of the memory there is.
    arrays = answers(system, split, logits) if split_name == "test" else {"logits": logits}
    arrays |= {name: extra[name] for name in white}
    facts = {
        "seconds": time.perf_counter() - started,
        "joules": plain(meter.stop()),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        # When: the policy must have been fixed before.
        "environment": {**environment(), **batch_facts(system), "instant": instant()},
    }
    workspace.cache.put(key, arrays, facts)
    return Observation(arrays=arrays, split_digest=split.digest, system_digest=system.digest, split=split_name, **facts)


def one_thread() -> None:
    """Run torch on one thread, unless OMP_NUM_THREADS says otherwise.

    Two threads wait for each other at every layer; on models this small that costs more than it gains (the demo on a
    busy machine: 271 s with two threads, 67 s with one), and timings depend on what else runs.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def module_of(system: System) -> torch.nn.Module:
    """The differentiable module of a white-box system. Raises ModelError for a system that offers no gradient."""
    module = getattr(system.model, "module", None)
    if "gradient" not in system.offers or module is None:
        raise ModelError(Problem(f"{system.name} offers no gradient", ", ".join(sorted(system.offers))))
    return module  # type: ignore[no-any-return]


def loss_gradients(module: torch.nn.Module, inputs: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Logits `(M, K)`, losses `(M,)` and their gradients `(M, ...)` with respect to raw inputs, in evaluation mode.

    Raises ModelError for texts, which have no gradient.
    """
    import torch

    if inputs.dtype.kind == "T":
        raise ModelError(Problem("texts have no gradient", "numbers or pixels", "Take it at the embeddings"))

    from assay.models.adapters.module import evaluation

    with evaluation(module):
        batch = torch.from_numpy(np.array(inputs, dtype=np.float32)).requires_grad_(True)
        logits = module(batch)
        target = torch.from_numpy(np.array(labels))
        if target.ndim == 2:  # several labels a row
            each = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
            losses = each.mean(dim=1)
        elif logits.shape[1] > 1:
            losses = torch.nn.functional.cross_entropy(logits, target.long(), reduction="none")
        else:
            losses = (logits[:, 0] - target.float()) ** 2
        (gradients,) = torch.autograd.grad(losses.sum(), batch)
    return logits.detach().numpy(), losses.detach().numpy(), torch.nan_to_num(gradients).numpy()


def _white_box_pass(system: System, split: Split) -> tuple[Array, Mapping[str, Array]]:
    import torch

    module = module_of(system)
    linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
    if not linear:
        raise ModelError(Problem(f"{system.name} has no linear layer to read embeddings from"))
    return halving(system, WHITE_BATCH, lambda size: _white_batches(system, split, linear[-1], size))


def _white_batches(system: System, split: Split, last: torch.nn.Linear, size: int) -> tuple[Array, Mapping[str, Array]]:
    import torch

    module, seen = module_of(system), list[torch.Tensor]()
    hook = last.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    logits, gradients = [], []
    try:
        for start in range(0, len(split), size):
            rows = slice(start, start + size)
            if system.data.modality == "text":
                outputs = system.model.outputs(split.inputs[rows])
            else:
                outputs, _, gradient = loss_gradients(module, split.inputs[rows], split.labels[rows])
                gradients.append(gradient)
            logits.append(system.task.logits(outputs, system.model.outputs_are))
    finally:
        hook.remove()
    extra: dict[str, Any] = {"embeddings": torch.cat(seen).float().numpy()}
    extra |= {"input_gradients": np.concatenate(gradients)} if gradients else {}
    return np.concatenate(logits), extra
