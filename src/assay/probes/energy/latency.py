"""How long an answer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay import stats
from assay.probes.energy._timing import REPEATS, passes_of, percentile
from assay.registry import EVERY_TASK, probe
from assay.stats import Estimate
from assay.values import Measurement

if TYPE_CHECKING:
    from assay.access.timings import Meter


@probe("energy", tasks=EVERY_TASK, cost=lambda sizes: passes_of(*REPEATS))
def latency(meter: Meter) -> list[Measurement]:
    """Seconds from raw rows to outputs, one row, 8, 64 and 256 rows at a time.

    Definition: the 50th and 99th percentile over timed passes: the ceil(q n)-th smallest of n. Bounds are order
    statistics l and u with P(l <= Binomial(n, q) < u) >= 0.95: no shape of the distribution is assumed.
    throughput = batch size / 50th percentile.
    Shapes: 370 passes of one row, 120 of 8, 40 of 64 and 20 of 256 rows, on test rows that differ each time. Only of
        one row has the 99th percentile an upper bound; of more a rule that it stays below something is inconclusive.
    Direction: seconds lower is better, rows per second higher.
    Limits: this machine, its load and its thread count at that moment; the model alone, without network or queue;
    passes follow each other and are not independent, so a slow spell of the machine is not in the bounds.
    No replicates: timings do not come row by row, and systems are compared by their bounds.
    Source: David and Nagaraja 2003, Order Statistics, section 7.1.

    >>> import numpy as np
    >>> found = percentile(np.arange(1.0, 101.0), 0.5)
    >>> found.value, found.low, found.high
    (50.0, 40.0, 61.0)
    """
    found: list[Measurement] = []
    for size, repeats in REPEATS.items():
        seconds = meter.passes(size, repeats).seconds
        where = f"batch={size}"
        middle, tail = percentile(seconds, 0.5), percentile(seconds, 0.99)
        about: dict[str, Any] = {"slice": where, "attempted": len(seconds)}
        rows = _inverse(size, middle)
        found += [
            stats.measured(middle, "latency_p50", unit="seconds", better="lower", headline=size == 1, **about),
            stats.measured(tail, "latency_p99", unit="seconds", better="lower", **about),
            stats.measured(rows, "throughput", unit="rows per second", better="higher", **about),
        ]
    return found


def _inverse(size: int, seconds: Estimate) -> Estimate:
    """Rows per second from seconds per pass: the bounds change places."""
    rates = [
        None if number is None or number <= 0 else size / number
        for number in (seconds.value, seconds.high, seconds.low)
    ]
    reason = seconds.reason or ("" if rates[0] is not None else "the clock did not move during a pass")
    return Estimate(rates[0], rates[1], rates[2], seconds.method, None, reason, seconds.level)
