"""Every interval and every comparison in assay, from one shared set of resampling draws per split.

A row bootstrap of anything that depends on rows only through cell counts *is* a multinomial draw over the cells, so
rows are compressed to classes (equal in every declared code) and drawn once, for all systems, probes and groups.
Continuous columns use row weights drawn conditionally on those class counts, so the two ways agree.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from scipy import stats

from assay.digests import array_digest
from assay.errors import Problem, UsageError
from assay.intervals import clopper_pearson, critical_value, wilson
from assay.values import Array, Better, Measurement

MAX_CLASSES = 8_192  # finer codes are drawn within classes, row by row
MAX_UNITS = 32_768  # above this many rows, random blocks of rows are drawn instead of rows
CHUNK = 4_000_000  # weights held at once
SMALL_GROUP = 20


@dataclass(frozen=True)
class Draws:
    """Resampling draws shared by everything measured on one split. Row 0 is what was observed."""

    num_rows: int
    num_draws: int
    level: float
    seed: bytes = field(repr=False, metadata={"open": False})
    classes: Array = field(repr=False, compare=False, metadata={"open": False})  # (N,) class of each row
    sizes: Array = field(repr=False, compare=False, metadata={"open": False})  # (K,) rows in each class

    def counts(self, codes: Array, num_cells: int) -> Array:
        """Count rows per cell, `(1 + B, num_cells)`, for codes `(N,)` in [0, num_cells)."""
        codes = np.asarray(codes)
        if codes.shape != (self.num_rows,) or codes.dtype.kind not in "iub":
            raise UsageError(Problem(f"codes are {codes.dtype} {codes.shape}", f"integers ({self.num_rows},)"))
        if self.num_rows and (codes.min() < 0 or codes.max() >= num_cells):
            raise UsageError(Problem(f"codes run from {codes.min()} to {codes.max()}", f"0 to {num_cells - 1}"))
        cells = codes[self._first_rows]
        if np.array_equal(cells[self.classes], codes):
            return _merge(self._class_counts, cells, num_cells)
        totals = np.zeros((len(self._unit_sizes), num_cells))
        np.add.at(totals, (self._units, codes), 1.0)
        return self._weigh(np.bincount(codes, minlength=num_cells).astype(np.float64)[None], totals)

    def sums(self, values: Array) -> Array:
        """Sum finite values `(N, P)` or `(N,)` over rows: `(1 + B, P)`."""
        values = np.asarray(values)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) != self.num_rows:
            raise UsageError(Problem(f"values are {values.shape}", f"({self.num_rows}, P)"))
        totals = np.empty((len(self._unit_sizes), values.shape[1]))
        for column in range(values.shape[1]):
            weights = values[:, column].astype(np.float64)
            if not np.isfinite(weights).all():
                raise UsageError(Problem("values are not finite", "finite numbers", "Set errored rows to 0"))
            totals[:, column] = np.bincount(self._units, weights=weights, minlength=len(totals))
        return self._weigh(totals.sum(axis=0, keepdims=True), totals)

    def of(self, rows: Array) -> Draws:
        """Draws for a fixed subset of rows `(M,)`: equal rows and key give equal draws, so systems stay paired."""
        rows = np.asarray(rows)
        classes, sizes = _compress([self.classes[rows]])
        return Draws(len(rows), self.num_draws, self.level, _derive(self.seed, array_digest(rows)), classes, sizes)

    @cached_property
    def _first_rows(self) -> Array:
        first = np.zeros(len(self.sizes), dtype=np.int64)
        first[self.classes[::-1]] = np.arange(self.num_rows - 1, -1, -1)
        return first

    @cached_property
    def _class_counts(self) -> Array:
        drawn = _generator(self.seed, "classes").multinomial(
            self.num_rows, self.sizes / max(self.num_rows, 1), size=self.num_draws
        )
        return np.concatenate([self.sizes[None], drawn]).astype(np.float64)

    @cached_property
    def _class_units(self) -> Array:
        """(K,) how many units each class has: its rows, or fewer random blocks of them."""
        cap = self.num_rows
        if self.num_rows > MAX_UNITS:
            low, high = 32, MAX_UNITS
            while low < high:
                middle = (low + high + 1) // 2
                if np.minimum(self.sizes, middle).sum() <= MAX_UNITS:
                    low = middle
                else:
                    high = middle - 1
            cap = low
        return np.minimum(self.sizes, cap)

    @cached_property
    def _units(self) -> Array:
        """(N,) unit of each row; a class's units are consecutive."""
        starts = np.cumsum(self._class_units) - self._class_units
        order = np.argsort(self.classes, kind="stable")
        rank = np.empty(self.num_rows, dtype=np.int64)
        rank[order] = np.arange(self.num_rows) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        num_units = self._class_units[self.classes]
        blocks = (_generator(self.seed, "blocks").random(self.num_rows) * num_units).astype(np.int64)
        whole = num_units == self.sizes[self.classes]
        return (starts[self.classes] + np.where(whole, rank, blocks)).astype(np.int32)

    @cached_property
    def _unit_sizes(self) -> Array:
        return np.bincount(self._units, minlength=int(self._class_units.sum())).astype(np.float64)

    @cached_property
    def _multiplicity(self) -> Array:
        """(B, U) how often each unit is drawn, given the class counts. Poisson(1)-like: 255 is out of reach."""
        rng, num_units = _generator(self.seed, "units"), self._class_units
        starts = np.cumsum(num_units) - num_units
        drawn = np.rint(self._class_counts[1:] * (num_units / np.maximum(self.sizes, 1))).astype(np.int64)
        drawn = np.maximum(drawn, self._class_counts[1:] > 0)
        result = np.empty((self.num_draws, int(num_units.sum())), dtype=np.uint8)
        for row, repeats in enumerate(drawn):
            picked = (rng.random(repeats.sum()) * np.repeat(num_units, repeats)).astype(np.int64)
            result[row] = np.bincount(picked + np.repeat(starts, repeats), minlength=result.shape[1])
        return result

    def _weigh(self, observed: Array, totals: Array) -> Array:
        result = np.concatenate([observed, np.empty((self.num_draws, totals.shape[1]))])
        starts = np.cumsum(self._class_units) - self._class_units
        whole = bool((self._class_units == self.sizes).all())
        step = max(1, CHUNK // max(1, len(totals)))
        for begin in range(0, self.num_draws, step):
            weights = self._multiplicity[begin : begin + step].astype(np.float64)
            if not whole:  # blocks differ in size: hold the class counts exactly
                held = np.add.reduceat(weights * self._unit_sizes, starts, axis=1)
                wanted = self._class_counts[1 + begin : 1 + begin + step]
                scale = np.divide(wanted, held, out=np.zeros_like(held), where=held > 0)
                weights *= np.repeat(scale, self._class_units, axis=1)
            result[1 + begin : 1 + begin + step] = weights @ totals
        return result


def make_draws(
    key: bytes, split_digest: str, codes: Sequence[Array], *, num_draws: int = 1000, level: float = 0.95
) -> Draws:
    """Draws for one split, keyed by its owner: equal key, split and codes give equal draws.

    >>> draws = make_draws(b"key", "split", [np.array([0, 1, 1, 0]), np.array([1, 1, 0, 0])], num_draws=10)
    >>> draws.counts(np.array([0, 1, 1, 0]), 2)[0]
    array([2., 2.])
    """
    columns = [np.asarray(column) for column in codes]
    shapes = {column.shape for column in columns}
    if len(shapes) != 1 or any(column.ndim != 1 or column.dtype.kind not in "iub" for column in columns):
        raise UsageError(Problem(f"codes have shapes {sorted(shapes)}", "one or more integer columns of equal length"))
    classes, sizes = _compress(columns)
    seed = hmac.new(key, b"assay draws 1\0" + split_digest.encode(), hashlib.sha256).digest()
    return Draws(len(classes), num_draws, level, seed, classes, sizes)


def _derive(seed: bytes, name: str) -> bytes:
    return hmac.new(seed, name.encode(), hashlib.sha256).digest()


def _generator(seed: bytes, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_derive(seed, name)[:16], "little")))


def _compress(columns: Sequence[Array]) -> tuple[Array, Array]:
    """Classes of rows equal in all columns, numbered by mixed radix, and their sizes."""
    classes = np.zeros(len(columns[0]), dtype=np.int64)
    num_classes = 1
    for column in columns:
        if len(column) == 0:
            break
        low = int(column.min())
        radix = int(column.max()) - low + 1
        wide = classes * radix + (column.astype(np.int64) - low)
        if num_classes * radix <= 1 << 22:
            present = np.flatnonzero(np.bincount(wide, minlength=num_classes * radix))
            table = np.zeros(num_classes * radix, dtype=np.int64)
            table[present] = np.arange(len(present))
            refined, count = table[wide], len(present)
        else:
            values, refined = np.unique(wide, return_inverse=True)
            count = len(values)
        if count <= MAX_CLASSES:
            classes, num_classes = refined, count
    small = classes.astype(np.min_scalar_type(max(num_classes - 1, 0)))
    return small, np.bincount(classes, minlength=num_classes)


def _merge(class_counts: Array, cells: Array, num_cells: int) -> Array:
    result = np.zeros((len(class_counts), num_cells))
    order = np.argsort(cells, kind="stable")
    present, starts = np.unique(cells[order], return_index=True)
    if len(present):
        result[:, present] = np.add.reduceat(class_counts[:, order], starts, axis=1)
    return result


# ------------------------------------------------------------------ estimates


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. `value` None means undefined, and `reason` says why."""

    value: float | None
    low: float | None
    high: float | None
    method: str
    replicates: Array | None = field(default=None, repr=False, compare=False)
    reason: str = ""
    level: float = 0.95


def _undefined(method: str, reason: str, level: float) -> Estimate:
    return Estimate(None, None, None, method, None, reason, level)


def _ratio(numerators: Array, denominators: Array) -> Array:
    out = np.full(np.broadcast(numerators, denominators).shape, np.nan)
    np.divide(numerators, denominators, out=out, where=np.asarray(denominators) > 0)
    return out


def rate(hits: Array, totals: Array, *, level: float = 0.95) -> Estimate:
    """Proportion hits/totals, `(1 + B,)` each, with a score interval. Undefined when nothing was counted.

    >>> found = rate(np.array([8.0, 7, 9]), np.array([10.0, 10, 10]))
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.8, 0.49, 0.943)
    """
    if totals[0] <= 0:
        return _undefined("Wilson", "no examples in the denominator", level)
    low, high = wilson(hits[0], totals[0], critical=critical_value(level))
    ratios = _ratio(hits, totals)
    return Estimate(float(ratios[0]), float(low), float(high), "Wilson", ratios[1:], "", level)


def exact_rate(hits: int, total: int, *, level: float = 0.95) -> Estimate:
    """Proportion with the Clopper-Pearson interval; no replicates.

    >>> round(exact_rate(0, 100).high, 4)
    0.0362
    """
    if total <= 0:
        return _undefined("Clopper-Pearson", "no examples in the denominator", level)
    low, high = clopper_pearson(np.array(hits), np.array(total), level=level)
    return Estimate(hits / total, float(low), float(high), "Clopper-Pearson", None, "", level)


def statistic(
    values: Array, *, level: float = 0.95, bounds: tuple[float | None, float | None] = (None, None)
) -> Estimate:
    """Any smooth function of the draws, `(1 + B,)`.

    >>> found = statistic(np.concatenate([[0.5], np.linspace(0.4, 0.6, 101)]), bounds=(0, 1))
    >>> found.value
    0.5
    """
    method = "bootstrap"
    replicates = values[1:]
    finite = replicates[np.isfinite(replicates)]
    if not math.isfinite(values[0]):
        return _undefined(method, "undefined on these rows", level)
    if len(finite) < 0.5 * len(replicates):
        return _undefined(method, "undefined in most resamples: too few examples", level)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    low, high = min(low, values[0]), max(high, values[0])
    return Estimate(float(values[0]), float(low), float(high), method, replicates, "", level)


def mean(
    sums: Array, totals: Array, *, level: float = 0.95, bounds: tuple[float | None, float | None] = (None, None)
) -> Estimate:
    """Ratio of totals of a continuous column, `(1 + B,)` each.

    >>> mean(np.array([10.0, 12.0]), np.array([4.0, 4.0])).value
    2.5
    """
    if totals[0] <= 0:
        return _undefined("bootstrap", "no examples in the denominator", level)
    return statistic(_ratio(sums, totals), level=level, bounds=bounds)


def difference(hits: Array, totals: Array, *, level: float = 0.95) -> Estimate:
    """Rate of column 0 minus rate of column 1, `(1 + B, 2)` each; Newcombe's interval.

    >>> found = difference(np.array([[56.0, 48.0]]), np.array([[70.0, 80.0]]))
    >>> round(found.low, 4), round(found.high, 4)
    (0.0524, 0.3339)
    """
    if (totals[0] <= 0).any():
        return _undefined("Newcombe", "a group has no examples", level)
    ratios = _ratio(hits, totals)
    low, high = _pairwise(hits[0], totals[0], critical_value(level))
    return Estimate(
        float(ratios[0, 0] - ratios[0, 1]), float(low[0, 1]), float(high[0, 1]), "Newcombe",
        ratios[1:, 0] - ratios[1:, 1], "", level,
    )  # fmt: skip


def _pairwise(hits: Array, totals: Array, critical: float) -> tuple[Array, Array]:
    """Newcombe limits of every difference i - j, `(G, G)`."""
    rates = hits / totals
    low, high = wilson(hits, totals, critical=critical)
    gaps = rates[:, None] - rates[None, :]
    down = np.sqrt((rates - low)[:, None] ** 2 + (high - rates)[None, :] ** 2)
    up = np.sqrt((high - rates)[:, None] ** 2 + (rates - low)[None, :] ** 2)
    return gaps - down, gaps + up


@lru_cache(maxsize=256)
def _range_critical(num_groups: int, level: float) -> float:
    """Critical value for all pairwise differences at once: studentized range / sqrt(2)."""
    return float(stats.studentized_range.ppf(level, num_groups, np.inf)) / math.sqrt(2)


def _groups(hits: Array, totals: Array) -> tuple[Array, Array, str]:
    kept = totals[0] > 0
    reasons = []
    if not kept.all():
        reasons.append(f"{int((~kept).sum())} of {len(kept)} groups have no examples and are left out")
    small = int((totals[0][kept] < SMALL_GROUP).sum())
    if small:
        reasons.append(f"{small} of {len(kept)} groups have fewer than {SMALL_GROUP} examples, which widens the band")
    return hits[:, kept], totals[:, kept], "; ".join(reasons)


def largest_gap(hits: Array, totals: Array, *, level: float = 0.95) -> Estimate:
    """Largest minus smallest group rate, `(1 + B, G)` each, with simultaneous limits over all pairs.

    >>> found = largest_gap(np.array([[90.0, 50.0]]), np.array([[100.0, 100.0]]))
    >>> found.value
    0.4
    """
    method = "simultaneous Newcombe"
    hits, totals, reason = _groups(hits, totals)
    num_groups = hits.shape[1]
    if num_groups < 2:
        return _undefined(method, "fewer than two groups have examples", level)
    ratios = _ratio(hits, totals)
    # The truth is one pair: its upper limit needs no correction. The lower limit is a maximum over all pairs.
    low = _pairwise(hits[0], totals[0], _range_critical(num_groups, level))[0].max()
    high = _pairwise(hits[0], totals[0], critical_value(level))[1].max()
    top, bottom = int(ratios[0].argmax()), int(ratios[0].argmin())
    replicates = ratios[1:, top] - ratios[1:, bottom]
    value = float(ratios[0, top] - ratios[0, bottom])
    return Estimate(value, max(0.0, float(low)), min(1.0, float(high)), method, replicates, reason, level)


def worst(hits: Array, totals: Array, *, better: Better, level: float = 0.95) -> Estimate:
    """Rate of the worst group, `(1 + B, G)` each, with simultaneous limits.

    >>> worst(np.array([[90.0, 50.0]]), np.array([[100.0, 100.0]]), better="higher").value
    0.5
    """
    method = "simultaneous Wilson"
    if better == "neither":
        raise UsageError(Problem("the worst group needs a direction", "higher, lower"))
    hits, totals, reason = _groups(hits, totals)
    num_groups = hits.shape[1]
    if num_groups < 1:
        return _undefined(method, "no group has examples", level)
    ratios = _ratio(hits, totals)
    alone = critical_value(level)
    jointly = float(stats.norm.ppf((1 + level ** (1 / num_groups)) / 2))
    if better == "higher":
        index = int(ratios[0].argmin())
        low = wilson(hits[0], totals[0], critical=alone)[0].min()
        high = wilson(hits[0], totals[0], critical=jointly)[1].min()
    else:
        index = int(ratios[0].argmax())
        low = wilson(hits[0], totals[0], critical=jointly)[0].max()
        high = wilson(hits[0], totals[0], critical=alone)[1].max()
    return Estimate(float(ratios[0, index]), float(low), float(high), method, ratios[1:, index], reason, level)


def measured(  # noqa: PLR0913
    estimate: Estimate,
    metric: str,
    *,
    unit: str,
    better: Better,
    slice: str = "",
    attempted: int = 0,
    errored: int = 0,
    headline: bool = False,
) -> Measurement:
    """An estimate as a measurement; the engine fills in probe and dimension.

    >>> measured(exact_rate(3, 10), "accuracy", unit="fraction", better="higher", attempted=10).scored
    10
    """
    return Measurement(
        probe="", metric=metric, value=estimate.value, low=estimate.low, high=estimate.high, level=estimate.level,
        method=estimate.method, unit=unit, better=better, slice=slice, attempted=attempted,
        scored=attempted - errored, errored=errored, reason=estimate.reason, headline=headline,
        replicates=estimate.replicates,
    )  # fmt: skip


# ------------------------------------------------------------------ effects

EffectVerdict = Literal["better", "worse", "changed", "no detectable change", "not comparable"]


@dataclass(frozen=True)
class Effect:
    """After minus before, paired on the same rows. `changed` is for metrics where neither direction is better."""

    key: tuple[str, str, str]
    value: float | None
    low: float | None
    high: float | None
    verdict: EffectVerdict
    level: float
    method: str
    covers: str
    reason: str = ""


def _incomparable(after: Measurement, before: Measurement) -> str:
    if after.key != before.key:
        return f"{after.key} and {before.key} are different quantities"
    if (after.unit, after.better) != (before.unit, before.better):
        return "unit or direction differ"
    for name, one in (("after", after), ("before", before)):
        if one.value is None:
            return f"undefined {name}: {one.reason}"
        if one.replicates is None:
            return f"no replicates {name}"
    if after.attempted != before.attempted or after.replicates.shape != before.replicates.shape:  # type: ignore[union-attr]
        return "measured on different rows or with different draws"
    return ""


def effects(
    pairs: Sequence[tuple[Measurement, Measurement]],
    *,
    level: float = 0.95,
    seed_spread: Sequence[Sequence[float]] | None = None,
) -> tuple[Effect, ...]:
    """Paired effects after - before with family-wise intervals over all comparable pairs."""
    reasons = [_incomparable(after, before) for after, before in pairs]
    kept = [index for index, reason in enumerate(reasons) if not reason]
    spreads, deviations, found = [], [], {}
    for index in kept:
        after, before = pairs[index]
        gaps = after.replicates - before.replicates  # type: ignore[operator]
        gaps = np.where(np.isfinite(gaps), gaps, np.nanmean(gaps) if np.isfinite(gaps).any() else 0.0)
        spread = math.hypot(float(gaps.std(ddof=1)), math.sqrt(2) / max(1, min(after.scored, before.scored)))
        spreads.append(spread)
        deviations.append(np.abs(gaps - gaps.mean()) / spread)
    if kept:
        sidak = float(stats.norm.ppf((1 + level ** (1 / len(kept))) / 2))
        joint = float(np.quantile(np.max(deviations, axis=0), level))
        critical = sidak if seed_spread is not None else min(sidak, max(joint, critical_value(level)))
    for place, index in enumerate(kept):
        after, before = pairs[index]
        seeds = np.asarray(seed_spread[index] if seed_spread is not None else (), dtype=np.float64)
        found[index] = _effect(after, before, spreads[place], seeds, critical, level)
    return tuple(
        found[index]
        if index in found
        else Effect(after.key, None, None, None, "not comparable", level, "", "", reasons[index])
        for index, (after, before) in enumerate(pairs)
    )


def _effect(
    after: Measurement, before: Measurement, spread: float, seeds: Array, critical: float, level: float
) -> Effect:
    value = float(after.value - before.value)  # type: ignore[operator]
    covers = "test rows"
    if len(seeds) >= 2:
        rows, training = spread**2, float(seeds.var(ddof=1))
        covers, spread = "test rows and training seeds", math.sqrt(rows + training)
        freedom = (rows + training) ** 2 / (rows**2 / max(1, after.scored - 1) + training**2 / (len(seeds) - 1))
        critical = float(stats.t.ppf(stats.norm.cdf(critical), freedom))
    low, high = value - critical * spread, value + critical * spread
    verdict: EffectVerdict = "no detectable change"
    if low > 0 or high < 0:
        up: EffectVerdict = {"higher": "better", "lower": "worse", "neither": "changed"}[after.better]  # type: ignore[assignment]
        down: EffectVerdict = {"higher": "worse", "lower": "better", "neither": "changed"}[after.better]  # type: ignore[assignment]
        verdict = up if low > 0 else down
    return Effect(after.key, value, low, high, verdict, level, "paired draws, max-|t|", covers)


def required_num(measurement: Measurement, *, bound: float, power: float = 0.8) -> int | None:
    """Examples that would settle value against bound, if the value stays: num (halfwidth / distance)^2, with power."""
    value, low, high = measurement.value, measurement.low, measurement.high
    if value is None or low is None or high is None or value == bound or measurement.scored <= 0:
        return None
    half = value - low if bound < value else high - value
    factor = 1 + float(stats.norm.ppf(power)) / critical_value(measurement.level)
    return math.ceil(measurement.scored * (half * factor / abs(value - bound)) ** 2)
