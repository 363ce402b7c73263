"""How the learning rate moves over a run: a function of the step, nothing remembered."""

from __future__ import annotations

import math

from assay.train.settings import TrainSettings

ONE_CYCLE_START, ONE_CYCLE_END = 25.0, 1e4  # the peak over the first rate; the first rate over the last
STEP_FACTOR, STEP_SHARES = 0.1, (0.5, 0.75)  # He et al. 2016, section 4.2: a tenth at 32k and 48k of 64k iterations


def learning_rate(step: int, num_steps: int, settings: TrainSettings) -> float:
    """The rate at `step` (from 1) of `num_steps`: a linear rise over `warmup`, then the curve.

    cosine and linear reach 0 after the last step; step divides by ten at one half and three quarters of the run;
    one_cycle has its own rise, both ways along a cosine (Smith and Topin 2019, as torch's OneCycleLR sets it).

    >>> learning_rate(10, 10, TrainSettings(learning_rate=1.0, warmup=0.5, curve="linear"))
    0.16666666666666666
    """
    if settings.curve == "one_cycle":
        return settings.learning_rate * _one_cycle(step - 1, num_steps, settings.warmup)
    rise = max(1, round(settings.warmup * num_steps))
    if step <= rise:
        return settings.learning_rate * step / rise
    if settings.curve == "constant":
        return settings.learning_rate
    if settings.curve == "step":
        return settings.learning_rate * STEP_FACTOR ** sum(step > share * num_steps for share in STEP_SHARES)
    left = (num_steps - step + 1) / (num_steps - rise + 1)
    share = left if settings.curve == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    return settings.learning_rate * share


def _one_cycle(done: int, num_steps: int, warmup: float) -> float:
    """Share of the peak after `done` steps."""
    first, last = 1 / ONE_CYCLE_START, 1 / ONE_CYCLE_START / ONE_CYCLE_END
    peak = warmup * num_steps - 1
    if done <= peak:
        return _along_cosine(first, 1.0, done / peak if peak > 0 else 1.0)
    start = max(peak, 0.0) if warmup else 0.0
    return _along_cosine(1.0, last, (done - start) / max(num_steps - 1 - start, 1))


def _along_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
