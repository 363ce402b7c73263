"""What training, answering and auditing cost in joules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from assay import stats
from assay.probes.energy._timing import REPEATS, passes_of
from assay.registry import EVERY_TASK, probe
from assay.stats import Estimate
from assay.values import Measurement

if TYPE_CHECKING:
    from assay.access.timings import Meter
    from assay.meter import Energy

BATCH = 256


@probe("energy", tasks=EVERY_TASK, cost=lambda sizes: passes_of(BATCH))
def energy_use(meter: Meter, facts: Mapping[str, Any]) -> list[Measurement]:
    """Joules of training the system once, of 1,000 predictions, and of this audit so far.

    Definition: joules of a window, by the best reader there is: a counter (NVML, RAPL), power integrated, or CPU
    seconds x watts; `method` names which, and its source. Predictions: the 20 passes of 256 rows that are timed,
    scaled to 1,000 rows.
    Training: as the training run reported it, and where it reported only CPU seconds, those x the watts of this CPU.
    Shapes: three numbers; 20 passes of 256 rows after three to warm up.
    Direction: lower is better.
    Limits: bounds are of the reader, not of the weather of the machine; counters see other processes too, an estimate
    leaves out idle power, memory, cooling. A number that is not measured is undefined with its reason, never 0.
    No replicates: joules do not come row by row.
    Source: see `assay.meter.joules`; ISO/IEC 21031:2024 for the rate "per 1,000 predictions".

    >>> of_training({}).reason
    'the training run reported neither energy nor CPU seconds'
    """
    answering = of_window(meter.passes(BATCH, REPEATS[BATCH]).energy, per=1000 / (BATCH * REPEATS[BATCH]))
    about: dict[str, Any] = {"unit": "joules", "better": "lower"}
    return [
        stats.measured(answering, "joules_per_1000_predictions", headline=True, **about),
        stats.measured(of_training(facts), "training_joules", **about),
        stats.measured(of_window(meter.audit_energy()), "audit_joules", **about),
    ]


def of_window(energy: Energy, *, per: float = 1.0) -> Estimate:
    """A metered window as an estimate, times `per`."""
    return _estimate(
        energy.joules, energy.low, energy.high, f"{energy.provenance}: {energy.source}", energy.reason, per=per
    )


def of_training(facts: Mapping[str, Any]) -> Estimate:
    """What the training run says of itself: `energy` (an `Energy` as a mapping), else `cpu_seconds`."""
    reported = facts.get("energy")
    if isinstance(reported, Mapping) and reported.get("joules") is not None:
        how = f"{reported.get('provenance', 'reported')}: {reported.get('source', 'training run')}"
        return _estimate(reported["joules"], reported.get("low"), reported.get("high"), how, "")
    if isinstance(reported, Mapping):
        return _estimate(None, None, None, "not measured", str(reported.get("reason", "")))
    seconds = facts.get("cpu_seconds")
    if not isinstance(seconds, (int, float)) or seconds <= 0:
        return _estimate(None, None, None, "not measured", "the training run reported neither energy nor CPU seconds")
    if str(facts.get("device", "cpu")) != "cpu":
        return _estimate(None, None, None, "not measured", "trained on an accelerator that was not metered")
    from assay.meter.joules import CpuEstimate

    part = CpuEstimate().total(float(seconds), float(seconds))
    return _estimate(
        part.joules, part.low, part.high, f"estimated: {part.source}, as if trained on this CPU", part.reason
    )


def _estimate(
    joules: float | None, low: float | None, high: float | None, method: str, reason: str, *, per: float = 1.0
) -> Estimate:
    if joules is None:
        return Estimate(None, None, None, method, None, reason or "not measured, and no reason was reported")
    bounds = [None if number is None else float(number) * per for number in (low, high)]
    return Estimate(float(joules) * per, bounds[0], bounds[1], method)
