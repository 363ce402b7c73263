"""Effects: what changed from one system to another on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from assay.estimation.intervals import critical_value, level_of
from assay.estimation.widen import FRACTIONS
from assay.values import Array, Measurement

PSEUDO_DISCORDANT = 2  # rows on which two systems are taken to differ although none was seen to
EffectVerdict = Literal["better", "worse", "changed", "no detectable change", "not comparable"]


@dataclass(frozen=True)
class Effect:
    """After minus before. `changed` is an effect on a metric of which neither direction is better."""

    key: tuple[str, str, str]
    value: float | None
    low: float | None
    high: float | None
    verdict: EffectVerdict
    level: float  # of all effects together
    method: str
    covers: str  # "test rows", or "test rows and training seeds"
    reason: str = ""


@dataclass(frozen=True)
class _Pair:
    after: Measurement
    before: Measurement
    value: float
    spread: float  # standard error over test rows
    scaled: Array | None  # (B,) deviations of the paired draws in units of the spread; None when not paired
    seeds: tuple[float, ...]


def effects(
    pairs: Sequence[tuple[Measurement, Measurement]],
    *,
    level: float = 0.95,
    seed_spread: Sequence[Sequence[float] | None] | None = None,
) -> tuple[Effect, ...]:
    """Effects of `(after, before)` pairs, with intervals that hold for all of them together.

    value -+ c * spread. `spread` is the standard deviation of the paired difference over shared draws, plus two
    pseudo-discordant rows (so that two systems that never differed on n rows still get +-2.8/n, near the rule of
    three). c is the `level` quantile of the largest |t| over all pairs (Westfall & Young 1993), at most Sidak's.
    `seed_spread[i]`: after - before over two or more repeated trainings; their variance is added, with Welch and
    Satterthwaite's degrees of freedom, and `covers` says so. Without replicates (latency, bytes) the two intervals
    are combined as independent. Limits: covers no shift of data; seeds are taken as normal. Both directions of a
    metric with better="neither" are "changed".

    >>> one = Measurement("", "bytes", 10.0, 10.0, 10.0, 0.95, "counted", "bytes", "lower")
    >>> two = Measurement("", "bytes", 40.0, 40.0, 40.0, 0.95, "counted", "bytes", "lower")
    >>> effects([(one, two)])[0].verdict
    'better'
    """
    seeds = seed_spread if seed_spread is not None else [None] * len(pairs)
    made = [
        _pair(after, before, tuple(() if own is None else map(float, own)))
        for (after, before), own in zip(pairs, seeds, strict=True)
    ]
    comparable = [pair for pair in made if isinstance(pair, _Pair)]
    critical = _joint_critical(comparable, level)
    return tuple(
        _effect(pair, critical, level)
        if isinstance(pair, _Pair)
        else Effect(after.key, None, None, None, "not comparable", level, "", "", pair)
        for pair, (after, _) in zip(made, pairs, strict=True)
    )


def _pair(after: Measurement, before: Measurement, seeds: tuple[float, ...]) -> _Pair | str:
    """What is needed to compare, or why it is impossible."""
    if after.key != before.key:
        return f"{after.key} and {before.key} are different quantities"
    if (after.unit, after.better) != (before.unit, before.better):
        return "unit or direction differ"
    for when, one in (("after", after), ("before", before)):
        if one.value is None:
            return f"undefined {when}: {one.reason}"
    value = float(after.value or 0.0) - float(before.value or 0.0)
    if after.replicates is None or before.replicates is None:
        halves = [_half_width(one) for one in (after, before)]
        if None in halves:
            return "neither replicates nor intervals on both sides"
        return _Pair(after, before, value, math.hypot(*(half or 0.0 for half in halves)), None, seeds)
    if after.attempted != before.attempted or after.replicates.shape != before.replicates.shape:
        return "measured on different rows or with different draws"
    gaps = after.replicates - before.replicates
    is_defined = np.isfinite(gaps)
    num = np.count_nonzero(is_defined)
    if 2 * num < len(gaps) or not len(gaps):
        return "undefined in most resamples"
    if num < len(gaps):
        gaps = np.where(is_defined, gaps, gaps[is_defined].mean())
    around = gaps - gaps.mean()
    spread = math.hypot(math.sqrt(np.square(around).mean()), _floor(after, before))
    return _Pair(after, before, value, spread, around / (spread or 1.0), seeds)


def _half_width(one: Measurement) -> float | None:
    """Standard error that the interval of one measurement stands for."""
    if one.value is None or one.low is None or one.high is None:
        return None
    return max(one.value - one.low, one.high - one.value) / critical_value(one.level)


def _floor(after: Measurement, before: Measurement) -> float:
    """Standard error of two pseudo-discordant rows: sqrt(2) times what one row moves the metric.

    One row moves a share of n rows by 1/n, and any mean by about two standard deviations of a row over n.
    """
    num = max(1, min(after.scored, before.scored))
    spreads = [_deviation(one.replicates) for one in (after, before) if one.replicates is not None]
    per_row = max(2 * max(spreads) * math.sqrt(num), 1.0 if after.unit in FRACTIONS else 0.0)
    return math.sqrt(PSEUDO_DISCORDANT) * per_row / num


def _deviation(replicates: Array) -> float:
    found = float(replicates.std())
    return found if math.isfinite(found) else float(np.nanstd(replicates))  # three times as slow


def _joint_critical(pairs: Sequence[_Pair], level: float) -> float:
    if not pairs:
        return critical_value(level)
    sidak = critical_value(level ** (1 / len(pairs)))
    scaled = [pair.scaled for pair in pairs if pair.scaled is not None]
    alike = len(scaled) == len(pairs) and len({len(one) for one in scaled}) == 1
    if not alike or any(len(pair.seeds) > 1 for pair in pairs):
        return sidak  # independent noise is added, so the draws do not know how the effects vary together
    joint = float(np.quantile(np.abs(scaled).max(axis=0), level))
    return min(sidak, max(joint, critical_value(level)))


def _effect(pair: _Pair, critical: float, level: float) -> Effect:
    spread, covers = pair.spread, "test rows"
    method = "independent intervals" if pair.scaled is None else "paired draws, max-|t|"
    if len(pair.seeds) > 1:
        rows, training = spread**2, float(np.var(pair.seeds, ddof=1))
        spread, covers = math.sqrt(rows + training), "test rows and training seeds"
        parts = rows**2 / max(1, pair.after.scored - 1) + training**2 / (len(pair.seeds) - 1)
        if parts > 0:
            freedom = (rows + training) ** 2 / parts
            critical = float(special.stdtrit(freedom, (1 + level_of(critical)) / 2))
        method += ", Welch-Satterthwaite"
    low, high = pair.value - critical * spread, pair.value + critical * spread
    sign = 1 if low > 0 else -1 if high < 0 else 0
    better = pair.after.better
    verdict: EffectVerdict = "no detectable change"
    if sign:
        verdict = "changed" if better == "neither" else "better" if (sign > 0) == (better == "higher") else "worse"
    return Effect(pair.after.key, pair.value, low, high, verdict, level, method, covers)


def flip_floor(*tables: Mapping[tuple[str, str, str], Measurement]) -> float:
    """Flips that arithmetic alone makes in both systems together: batch sizes, threads, a second call; 0 unmeasured."""
    return sum(max((one.value or 0.0 for key, one in table.items() if _is_flips(key)), default=0.0) for table in tables)


def _is_flips(key: tuple[str, str, str]) -> bool:
    return key[1] == "numeric_flip_rate" and not key[2].startswith("precision")


def above_floor(effect: Effect, unit: str, floor: float) -> Effect:
    """Take back the verdict on a share that differs by no more than flips of the two systems can make it differ.

    >>> seen = Effect(("p", "accuracy", ""), 0.01, 0.005, 0.015, "better", 0.95, "paired", "test rows")
    >>> above_floor(seen, "fraction", 0.02).verdict, above_floor(seen, "fraction", 0.0).verdict
    ('no detectable change', 'better')
    """
    told = effect.verdict in ("better", "worse", "changed") and unit in FRACTIONS and not _is_flips(effect.key)
    if not told or effect.value is None or abs(effect.value) > floor:
        return effect
    reason = f"no larger than the numeric noise of {floor:.2g}"
    return replace(effect, verdict="no detectable change", reason=reason)
