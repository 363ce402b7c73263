"""The epsilon of a private run, by privacy loss distributions."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from assay.errors import MissingExtraError, Problem, TreatmentError

MAX_NOISE = 1000.0


@lru_cache(maxsize=256)
def epsilon_of(noise_multiplier: float, sample_rate: float, steps: int, *, delta: float, grid: float = 0.1) -> float:
    r"""Epsilon of `steps` Poisson-subsampled Gaussian mechanisms: rows added or removed, sum noise $\sigma C$.

    An upper bound (pessimistic discretisation, joined dots), within 1 % of the truth at the
    default. Limits: holds for Poisson sampling at `sample_rate` only, not for shuffled batches. Raises
    MissingExtraError.

    Source: Koskela et al. 2020; Doroshenko et al. 2022, as implemented by dp-accounting.

    >>> round(epsilon_of(1.1, 256 / 60000, 60 * 60000 // 256, delta=1e-5), 2)
    2.38
    """
    try:
        from dp_accounting.pld import privacy_loss_distribution as pld
    except ImportError as error:
        raise MissingExtraError("dp-accounting", "private") from error
    # The loss of one step is about rate / noise: the grid must be finer than that, and need be no finer.
    interval = min(1e-3, max(1e-6, grid * sample_rate / noise_multiplier))
    one = pld.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=sample_rate, value_discretization_interval=interval, use_connect_dots=True
    )
    return float(one.self_compose(steps).get_epsilon_for_delta(delta))


@lru_cache(maxsize=256)
def noise_for(epsilon: float, sample_rate: float, steps: int, *, delta: float) -> float:
    """The smallest noise multiplier, to four significant digits rounded up, whose epsilon is at most `epsilon`.

    Raises TreatmentError when even the largest noise is not enough.
    """
    low, high = 0.3, 1.0
    while _level(high, epsilon, sample_rate, steps, delta) > 0:
        low, high = high, high * 2
        if high > MAX_NOISE:
            allowed = "a larger epsilon or delta, fewer steps, or a smaller batch"
            raise TreatmentError(Problem(f"epsilon {epsilon} at delta {delta} needs more noise than helps", allowed))
    high = _least(low, high, epsilon, sample_rate, steps, delta)
    digits = 3 - math.floor(math.log10(high))
    noise: float = math.ceil(high * 10.0**digits) / 10.0**digits
    while epsilon_of(noise, sample_rate, steps, delta=delta) > epsilon:  # the finer grid has the last word
        noise = round(noise + 10.0**-digits, digits)
    return noise


def _level(noise: float, epsilon: float, sample_rate: float, steps: int, delta: float) -> float:
    """Above 0 where the noise is too small: the logarithm of its epsilon over what was asked."""
    return math.log(max(epsilon_of(noise, sample_rate, steps, delta=delta, grid=0.25), 1e-12) / epsilon)


def _least(low: float, high: float, *asked: Any) -> float:
    """The smallest noise that is enough, of places a thousandth apart between `low`, too small, and `high`, enough.

    Logarithms of epsilon and noise lie near a line, which says where to look; every third look halves what is left, as
    the line may mislead.
    """
    num = 1 << math.ceil(math.log2(math.log(high / low) / math.log(1.001)))
    step = math.log(high / low) / num
    first, last, looks = 0, num, 0
    at_first, at_last = math.nan, _level(high, *asked)
    while last - first > 1:
        slope = -step if math.isnan(at_first) else (at_last - at_first) / (last - first)
        guess = last - at_last / slope if looks % 3 < 2 else (first + last) / 2
        place, looks = min(max(math.floor(guess), first + 1), last - 1), looks + 1
        level = _level(low * math.exp(step * place), *asked)
        if level > 0:
            first, at_first = place, level
        else:
            last, at_last = place, level
    return low * math.exp(step * last)
