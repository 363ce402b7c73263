"""The line a person watches while training."""

from __future__ import annotations

import time

from assay.meter import EnergyMeter
from assay.train.state import Position
from assay.train.watching import METRICS
from assay.values import Progress, Task

EVERY = 0.5  # seconds


class Live:
    """Calls the progress callback at every epoch's end, and in between at most every half second."""

    def __init__(self, progress: Progress, meter: EnergyMeter, task: Task, num_steps: int) -> None:
        self.progress, self.meter, self.num_steps = progress, meter, num_steps
        self.metric = METRICS[task.name == "regression"]
        self.last = time.monotonic()
        self.examples = 0

    def step(self, at: Position, examples: int) -> None:
        """One step was made."""
        self.examples += examples
        now = time.monotonic()
        if now - self.last >= EVERY:
            self.last = now
            self.progress(self._text(at.total / at.seen, None), at.step, self.num_steps)

    def epoch(self, at: Position) -> None:
        """One epoch is over; the curve has its point."""
        self.progress(
            self._text(at.curve[-1]["train_loss"], at.curve[-1]["validation_metric"]), at.step, self.num_steps
        )

    def _text(self, loss: float, metric: float | None) -> str:
        energy = self.meter.read()
        parts = [f"training: loss {loss:.4g}"]
        if metric is not None:
            parts.append(f"{self.metric.replace('_', ' ')} {metric:.4g}")
        parts.append(f"{self.examples / energy.seconds:,.0f} examples/s")
        if energy.joules is not None:
            parts.append(f"{energy.joules:,.3g} J")
        return ", ".join(parts)
