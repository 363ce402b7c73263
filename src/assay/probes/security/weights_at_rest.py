"""Whether whoever reads the disk reads the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assay import stats
from assay.registry import probe
from assay.stats import Estimate
from assay.values import Measurement

if TYPE_CHECKING:
    from assay.access.timings import Meter


@probe("security", tasks=("classification", "regression"), cost=lambda sizes: {})
def weights_at_rest(meter: Meter, facts: Mapping[str, Any]) -> list[Measurement]:
    """Bytes of weights that can be read, without a key, where the system is stored.

    Definition: 0 where the system stores its weights encrypted (`is_encrypted` of the facts, as `encrypt_weights` sets
    it and `save_system` does), else all of them.
    Shapes: one number; runs no row.
    Direction: lower is better.
    Limits: of the system's own folder; says nothing of copies made before, of other files, of memory, or of what its
    answers give away (see model extraction). Exact, so the bounds are the value.
    Source: none needed; a count. ISO/IEC 27001:2022, Annex A 8.24 asks for rules on the use of cryptography.

    >>> readable(1024, {}).value, readable(1024, {"is_encrypted": True}).value
    (1024.0, 0.0)
    """
    return [stats.measured(readable(meter.num_bytes, facts), "readable_bytes", unit="bytes", better="lower")]


def readable(total: int | None, facts: Mapping[str, Any]) -> Estimate:
    """All bytes, or none of them; None when it cannot be known."""
    if facts.get("is_encrypted") is True:
        return Estimate(0.0, 0.0, 0.0, "exact count")
    if total is None:
        return Estimate(None, None, None, "exact count", None, "the system does not tell how large it is")
    return Estimate(float(total), float(total), float(total), "exact count")
