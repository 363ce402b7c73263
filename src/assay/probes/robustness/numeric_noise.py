"""How much answers move although the inputs do not: batch size, threads, precision, a second call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.registry import EVERY_TASK, Sizes, probe
from assay.stats import Draws, Estimate
from assay.values import Array, Measurement, Task, modality

if TYPE_CHECKING:
    import torch

    from assay.access.handles import Query

NUM_ROWS = {"table": 500, "image": 200, "text": 200}
BATCHES = (1, 16)
THREADS = 3
NUM_PASSES = 2 + len(BATCHES) + 2  # two alike, each batch size, threads, bfloat16
NO_MODULE = "the system offers no module whose threads and precision could be set"
RANDOM = "the same rows were answered differently: something random runs inside the model (dropout, a seed not set)"


def all_passes(sizes: Sizes) -> dict[str, int]:
    """Every pass over the sample; two fewer are run where there is no module."""
    return {"numeric_noise": NUM_PASSES * min(NUM_ROWS[sizes.modality], sizes.num_test)}


@dataclass(frozen=True)
class Run:
    """What one way of running the same rows answered."""

    outputs: Array  # (n, K) logits
    answers: Array  # (n,)


@probe("robustness", tasks=EVERY_TASK, cost=all_passes)
def numeric_noise(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Largest change of an output, and share of changed answers, when the same rows are run in another way.

    Definition: against one pass over the sample in one batch: a second such pass (`run=again`), batches of 1 and 16
        rows, three threads instead of one, bfloat16 arithmetic (autocast). largest_output_change = max over rows and
        outputs of |difference|;
        numeric_flip_rate = mean[answer differs], decision rule included. A row that errors in one pass alone is
        changed; one that errors in both is errored and counts as unchanged. parts_left_training = #{parts of the
        module that were in training mode}; answers are taken in evaluation mode all the same.
    Shapes: at most 500 keyed rows of a table, 200 pictures or texts, through the query handle; logits (n, K), or
        predicted values (n, 1), of which no answers flip.
    Direction: lower is better; units: outputs, and fraction.
    Limits: this machine and these libraries; another kernel may move more. A difference between two systems below the
        flip rate of both (batch, threads, a second call) cannot be told from noise, and is not called one. Of the
        largest change there is no interval. Threads and precision are those of torch; a black box keeps its own.
        Undefined where the system has no module to set them in.
    Source: Goldberg 1991, What every computer scientist should know about floating-point arithmetic, section 3 (sums
        depend on their order); interval: Wilson (1927).

    >>> import numpy as np
    >>> one = Run(np.array([[0.0, 1.0]]), np.array([1]))
    >>> biggest(one.outputs, one.outputs + 0.25)
    0.25
    """
    kind = modality(query.columns)
    rows = query.rows(NUM_ROWS[kind])
    inputs, groups, sample = query.inputs[rows], query.groups.take(rows), draws.of(rows)
    system = query.system

    def run(batch_size: int = max(len(rows), 1)) -> Run:
        logits = query.fresh_logits(inputs, batch_size=batch_size)
        return Run(logits, system.decision.decide(task.probabilities(logits), inputs, groups))

    module: torch.nn.Module | None = system.model.module if "gradient" in system.offers else None  # type: ignore[attr-defined]
    with _threads(1, module):
        base = run()
        ways: list[tuple[str, Run | None]] = [("run=again", run())]
        ways += [(f"batch={size}", run(size)) for size in BATCHES]
    with _threads(THREADS, module):
        ways.append((f"threads={THREADS}", run() if module is not None else None))
    ways.append(("precision=bfloat16", _in_bfloat16(run) if module is not None else None))
    found = [one for where, way in ways for one in _compared(base, way, sample, task, where)]
    return found + ([] if module is None else [_left_training(module, draws.level)])


def _in_bfloat16(run: Callable[[], Run]) -> Run:
    import torch

    with torch.autocast("cpu", dtype=torch.bfloat16):
        return run()


@contextmanager
def _threads(num: int, module: torch.nn.Module | None) -> Iterator[None]:
    """So many threads inside, as many as before after."""
    if module is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def biggest(first: Array, second: Array) -> float:
    """Largest |difference| of two arrays of outputs, over entries that are finite in both; 0 without any."""
    both = np.isfinite(first) & np.isfinite(second)
    change = np.subtract(first, second, where=both, out=np.zeros(first.shape), dtype=np.float64)
    return float(np.abs(change).max(initial=0.0))


def _compared(base: Run, way: Run | None, draws: Draws, task: Task, where: str) -> list[Measurement]:
    about: dict[str, Any] = {"better": "lower", "slice": where, "attempted": len(base.answers)}
    if way is None:
        none = Estimate(None, None, None, "none", None, NO_MODULE, draws.level)
        pair = [stats.measured(none, "largest_output_change", unit="outputs", **about)]
        flip = [stats.measured(none, "numeric_flip_rate", unit="fraction", **about)]
        return pair + (flip if "probabilities" in task.observables else [])
    errs = [~np.isfinite(one.outputs).all(axis=1) for one in (base, way)]
    differs = np.asarray(np.atleast_2d((base.answers != way.answers).T).any(axis=0))  # in any of several labels
    errored, changed = int((errs[0] | errs[1]).sum()), differs & ~(errs[0] & errs[1])
    change = biggest(base.outputs, way.outputs)
    reason = RANDOM if where == "run=again" and (change > 0 or changed.any()) else "the largest has no interval"
    largest = Estimate(change, None, None, "maximum", None, reason, draws.level)
    found = [stats.measured(largest, "largest_output_change", unit="outputs", errored=errored, **about)]
    if "probabilities" in task.observables:
        counts = draws.counts(changed.astype(np.int64), 2)
        flips = stats.rate(counts[:, 1], counts.sum(axis=1), level=draws.level)
        found.append(stats.measured(flips, "numeric_flip_rate", unit="fraction", errored=errored, **about))
    return found


def _left_training(module: torch.nn.Module, level: float) -> Measurement:
    """Parts of the module that were in training mode: a model that drops units at random until told otherwise."""
    parts = list(module.modules())
    left = sum(part.training for part in parts)
    reason = f"{left} of {len(parts)} parts were left in training mode; answers are taken in evaluation mode"
    count = Estimate(float(left), float(left), float(left), "exact count", None, reason if left else "", level)
    return stats.measured(count, "parts_left_training", unit="count", better="lower", attempted=len(parts))
