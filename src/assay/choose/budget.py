"""What a model may cost, and what one costs: known before it is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from assay.errors import Problem, UsageError
from assay.meter import EnergyMeter
from assay.models.adapters.module import ModuleModel
from assay.train.costs import describe_costs
from assay.values import Array, Column

REPEATS = 30
BATCH = 256
Cost = Literal["parameters", "milliseconds", "joules", "flops"]


@dataclass(frozen=True)
class Budget:
    """Limits, None where there is none: parameters, milliseconds for one example, joules for 1,000, minutes of search.

    `cheapest_by` orders what is left; by default the first limit that is given, else floating-point operations.
    Raises UsageError with every limit that is not positive.

    >>> Budget(parameters=100_000).order
    'parameters'
    """

    parameters: int | None = None
    milliseconds: float | None = None
    joules: float | None = None
    minutes: float | None = None
    cheapest_by: Cost | None = None

    def __post_init__(self) -> None:
        limits = {name: getattr(self, name) for name in ("parameters", "milliseconds", "joules", "minutes")}
        wrong = [
            Problem(f"{name} is {limit}", "above 0, or left out")
            for name, limit in limits.items()
            if limit is not None and not limit > 0
        ]
        if wrong:
            raise UsageError(wrong)

    @property
    def order(self) -> Cost:
        """By which cost the cheapest is found."""
        if self.cheapest_by is not None:
            return self.cheapest_by
        for name in ("parameters", "milliseconds", "joules"):
            if getattr(self, name) is not None:
                return name
        return "flops"

    def refuses(self, costs: Costs) -> str:
        """Why these costs are too high; empty when they are not. Joules are judged by the upper bound."""
        over = [
            f"{name} {found:,.4g} above {limit:,.4g}"
            for name, found, limit in (
                ("parameters", costs.parameters, self.parameters),
                ("milliseconds", costs.milliseconds, self.milliseconds),
                ("joules", costs.joules_high, self.joules),
            )
            if limit is not None and found is not None and found > limit
        ]
        return "; ".join(over)


@dataclass(frozen=True)
class Costs:
    """Of one model: parameters, bytes, operations an example, median milliseconds for one example, joules for 1,000."""

    parameters: int
    num_bytes: int
    flops: int
    milliseconds: float
    joules: float | None
    joules_high: float | None

    def by(self, order: Cost) -> float:
        """The cost that candidates are ordered by; joules that are not known count as operations do."""
        if order == "joules":
            return float(self.flops) if self.joules is None else self.joules
        return float({"parameters": self.parameters, "milliseconds": self.milliseconds, "flops": self.flops}[order])


def costs_of(module: nn.Module, columns: tuple[Column, ...], inputs: Array) -> Costs:
    """Measured on the untrained module and rows `(n, ...)`: what weights hold changes neither time nor energy here."""
    known = describe_costs(module, columns, inputs=inputs[:BATCH])
    model = ModuleModel(module)
    seconds = []
    for place in range(REPEATS + 3):
        row = inputs[place % len(inputs)][None] if inputs.ndim > 1 else inputs[[place % len(inputs)]]
        started = time.perf_counter()
        model.outputs(row)
        seconds.append(time.perf_counter() - started)
    batch = inputs[np.arange(BATCH) % len(inputs)]
    meter = EnergyMeter()
    meter.start()
    model.outputs(batch)
    used = meter.stop()
    per = 1000 / BATCH
    return Costs(
        known["num_parameters"],
        known["num_bytes"],
        known["flops_per_example"],
        1000 * float(np.median(seconds[3:])),
        None if used.joules is None else per * used.joules,
        None if used.high is None else per * used.high,
    )
