"""How large the stored weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay import stats
from assay.registry import probe
from assay.stats import Estimate
from assay.values import Measurement

if TYPE_CHECKING:
    from assay.access.handles import Meter


@probe("energy", tasks=("classification", "regression"), cost=lambda sizes: {})
def model_bytes(meter: Meter) -> list[Measurement]:
    """Bytes of the model's stored weights.

    Definition: as the model reports it (for a module: sum over parameters and buffers of count x bytes each; for a
    file: its length).
    Shapes: one number; runs no row.
    Direction: lower is better.
    Limits: not the memory that running takes (activations, the runtime), and a pruned weight that is stored as a zero
    still counts. Exact, so the bounds are the value.
    Source: none needed; a count.

    >>> counted(1024).value
    1024.0
    """
    return [stats.measured(counted(meter.num_bytes), "model_bytes", unit="bytes", better="lower", headline=True)]


def counted(num_bytes: int | None) -> Estimate:
    """A count as an estimate; None when it cannot be known."""
    if num_bytes is None:
        return Estimate(None, None, None, "exact count", None, "the system does not tell how large it is")
    return Estimate(float(num_bytes), float(num_bytes), float(num_bytes), "exact count")
