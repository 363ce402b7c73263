"""The line a person watches while training."""

from __future__ import annotations

import time

from assay.meter import EnergyMeter
from assay.train.state import Position
from assay.train.watching import METRICS
from assay.values import Progress, Task

EVERY = 0.5  # seconds


class Live:
    """Calls the progress callback at every epoch's end, and in between at most every half second.

    Told: the loss of the epoch so far, the validation metric of the last whole one, examples a second, joules, and the
    seconds left at the pace so far (fewer where an early stop comes first).
    """

    def __init__(self, progress: Progress, meter: EnergyMeter, task: Task, num_steps: int) -> None:
        self.progress, self.meter, self.num_steps = progress, meter, num_steps
        self.metric = METRICS.get(task.name, "accuracy")
        self.last = time.monotonic()
        self.examples = self.steps = 0  # of this process; a run that was taken up again had some before
        self.known: float | None = None  # the metric of the last epoch

    def step(self, at: Position, examples: int) -> None:
        """One step was made."""
        self.examples, self.steps = self.examples + examples, self.steps + 1
        now = time.monotonic()
        if now - self.last >= EVERY:
            self.last = now
            self._tell(at, at.total / at.seen)

    def epoch(self, at: Position) -> None:
        """One epoch is over; the curve has its point."""
        self.known = at.curve[-1]["validation_metric"]
        self._tell(at, at.curve[-1]["train_loss"])

    def _tell(self, at: Position, loss: float) -> None:
        energy = self.meter.read()
        parts = [f"training: loss {loss:.4g}"]
        if self.known is not None:
            parts.append(f"{self.metric.replace('_', ' ')} {self.known:.4g}")
        parts.append(f"{self.examples / energy.seconds:,.0f} examples/s")
        if energy.joules is not None:
            parts.append(f"{energy.joules:,.3g} J")
        if at.step < self.num_steps and not at.is_over:
            parts.append(f"{energy.seconds / max(self.steps, 1) * (self.num_steps - at.step):,.0f} s left")
        self.progress(", ".join(parts), at.step, self.num_steps)
