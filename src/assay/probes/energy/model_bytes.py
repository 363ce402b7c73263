"""How large the stored weights are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assay import stats
from assay.registry import EVERY_TASK, probe
from assay.stats import Estimate
from assay.values import Measurement

if TYPE_CHECKING:
    from assay.access.timings import Meter


@probe("energy", tasks=EVERY_TASK, cost=lambda sizes: {}, version=2)
def model_bytes(meter: Meter, facts: Mapping[str, Any]) -> list[Measurement]:
    """Bytes of the model's stored weights, and of what loading them has in memory at once.

    Definition: as the model reports it (for a module: sum over parameters and buffers of count x bytes each; for a
    file: its length). load_bytes = the model and the largest file of its weights beside it: all of them, unless they
    are stored in several (`largest_shard` of the facts).
    Shapes: two numbers; runs no row.
    Direction: lower is better.
    Limits: not the memory that running takes (activations, the runtime), and a pruned weight that is stored as a zero
    still counts. Exact, so the bounds are the value.
    Source: none needed; a count.

    >>> counted(1024).value, load_bytes(1024, {"largest_shard": 100})
    (1024.0, 1124)
    """
    total = meter.num_bytes
    return [
        stats.measured(counted(total), "model_bytes", unit="bytes", better="lower", headline=True),
        stats.measured(counted(load_bytes(total, facts)), "load_bytes", unit="bytes", better="lower"),
    ]


def load_bytes(total: int | None, facts: Mapping[str, Any]) -> int | None:
    """The model and its largest file of weights; what was pruned later is no larger than it is."""
    return None if total is None else total + min(total, int(facts.get("largest_shard", total)))


def counted(num_bytes: int | None) -> Estimate:
    """A count as an estimate; None when it cannot be known."""
    if num_bytes is None:
        return Estimate(None, None, None, "exact count", None, "the system does not tell how large it is")
    return Estimate(float(num_bytes), float(num_bytes), float(num_bytes), "exact count")
