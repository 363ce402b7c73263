"""Grams of carbon dioxide equivalent for 1,000 predictions: electricity, and a share of making the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from assay import stats
from assay.meter.grid import JOULES_PER_KWH, SERVER_CORES, SERVER_ERROR, SERVER_GRAMS, SERVER_SECONDS, intensity
from assay.probes.energy._timing import REPEATS, passes_of
from assay.registry import EVERY_TASK, probe
from assay.stats import Estimate
from assay.values import Measurement

if TYPE_CHECKING:
    from assay.access.timings import Meter
    from assay.meter import Energy

BATCH = 256


@probe("energy", tasks=EVERY_TASK, cost=lambda sizes: passes_of(BATCH))
def carbon_intensity(meter: Meter, facts: Mapping[str, Any]) -> list[Measurement]:
    """Software carbon intensity of 1,000 predictions, and its parts.

    Definition: SCI = (E I + M) per R, R = 1,000 predictions. E: energy of the 20 passes of 256 rows that are timed,
        scaled; I: grams for a kilowatt-hour, as declared in the facts (`grid`: a number, or a country code), else the
        world average with the range of the table; M = TE (TiR / EL) (RR / ToR): TE = `embodied_grams` (else 1,000 kg,
        a rack server), EL = four years, TiR = seconds that R takes, RR / ToR = 1 of 64 cores.
    Shapes: three numbers; 20 passes of 256 rows after three to warm up.
    Direction: lower is better; unit grams.
    Limits: a yearly average of a country, not the hour's marginal plant; embodied figures are thin, and taken to be
        right within half. Bounds add those of energy, place and making. No network, no cooling, no offsets.
    Source: ISO/IEC 21031:2024; Green Software Foundation, SCI specification 1.1; data: `assay.meter.grid`.

    >>> from assay.meter import Energy
    >>> window = Energy(3.6e6, 3.6e6, 3.6e6, "counter", "RAPL", 1.0, 1.0)
    >>> round(electricity(window, {"grid": "FRA"}, per=1.0).value, 6)
    56.0
    """
    window = meter.passes(BATCH, REPEATS[BATCH]).energy
    per = 1000 / (BATCH * REPEATS[BATCH])
    used, made = electricity(window, facts, per=per), embodied(window.seconds * per, facts)
    about: dict[str, Any] = {"unit": "grams", "better": "lower"}
    return [
        stats.measured(added(used, made), "carbon_per_1000_predictions", **about),
        stats.measured(used, "electricity_carbon_per_1000_predictions", **about),
        stats.measured(made, "embodied_carbon_per_1000_predictions", **about),
    ]


def electricity(window: Energy, facts: Mapping[str, Any], *, per: float) -> Estimate:
    """E I: grams of the electricity of a window, times `per`."""
    value, low, high, how = intensity(facts.get("grid"))
    method = f"{window.provenance}: {window.source}; {how}"
    if window.joules is None or window.low is None or window.high is None:
        return Estimate(None, None, None, method, None, window.reason)
    scale = per / JOULES_PER_KWH
    return Estimate(window.joules * value * scale, window.low * low * scale, window.high * high * scale, method)


def embodied(seconds: float, facts: Mapping[str, Any]) -> Estimate:
    """M: the share of making the machine that falls on so many seconds of one core."""
    declared = facts.get("embodied_grams")
    known = isinstance(declared, (int, float)) and declared >= 0
    grams = float(declared) if known else SERVER_GRAMS  # type: ignore[arg-type]
    value = grams * seconds / SERVER_SECONDS / SERVER_CORES
    method = "declared embodied grams" if known else "rack server, Cloud Carbon Footprint"
    return Estimate(value, value * (1 - SERVER_ERROR), value / (1 - SERVER_ERROR), method)


def added(used: Estimate, made: Estimate) -> Estimate:
    """SCI from its two parts; undefined as the first is."""
    if used.value is None or used.low is None or used.high is None:
        return used
    value, low, high = (float(number) for number in (made.value, made.low, made.high) if number is not None)
    method = f"{used.method}; {made.method}"
    return replace(used, value=used.value + value, low=used.low + low, high=used.high + high, method=method)
