"""What the fairness probes share: who is in which group, counts per group, and the largest of several gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from assay.stats import Draws, Estimate, measured
from assay.values import Array, Better, Groups, Measurement

MOST_CROSSED = 3  # columns that are crossed: of four together most groups would be a handful of people


@dataclass(frozen=True)
class Partition:
    """Rows split by one sensitive column, or by two or three together. Rows with a missing value are in no group."""

    name: str  # "sex", or "sex & race"
    slices: tuple[str, ...]  # "sex=Female", or "sex=Female & race=Black"
    codes: Array  # (N,) in [0, G], G = missing
    members: tuple[tuple[int, ...], ...] = ()  # which category of each column makes up a slice

    def counts(self, outcomes: Array, num_outcomes: int, draws: Draws) -> Array:
        """Rows by group and outcome under each draw, `(1+B, G, num_outcomes)`, for outcomes `(N,)`."""
        num_groups = len(self.slices)
        cells = draws.counts(self.codes * num_outcomes + outcomes, (num_groups + 1) * num_outcomes)
        return cells.reshape(len(cells), num_groups + 1, num_outcomes)[:, :num_groups]

    def num_rows(self, among: Array) -> Array:
        """Rows of each group `(G,)` that are in `among (N,)` bool."""
        return np.bincount(self.codes[among], minlength=len(self.slices) + 1)[: len(self.slices)]

    def measured(
        self, estimate: Estimate, metric: str, *, better: Better, errored: Array, headline: bool, unit: str = "share"
    ) -> Measurement:
        """A measurement of the whole partition, over the rows that are in some group; `errored (N,)` bool."""
        known = self.codes < len(self.slices)
        num = int(known.sum())
        failed = int((known & errored).sum())
        return measured(
            estimate,
            metric,
            unit=unit,
            better=better,
            slice=self.name,
            attempted=num,
            errored=failed,
            headline=headline,
        )

    def measured_in(
        self, index: int, estimate: Estimate, metric: str, *, better: Better, rows: tuple[int, int], unit: str = "share"
    ) -> Measurement:
        """A measurement of one group; `rows` is how many were attempted and how many of them errored."""
        attempted, errored = (int(num) for num in rows)
        where = self.slices[index]
        return measured(estimate, metric, unit=unit, better=better, slice=where, attempted=attempted, errored=errored)


def single(groups: Groups) -> list[Partition]:
    """One partition per sensitive column; a declared category without rows is an empty group."""
    found = []
    for index, column in enumerate(groups.columns):
        codes = groups.codes[:, index].astype(np.int64)
        num = len(column.categories)
        names = tuple(f"{column.name}={category}" for category in column.categories)
        known = np.where((codes < 0) | (codes >= num), num, codes)
        found.append(Partition(column.name, names, known, tuple((code,) for code in range(num))))
    return found


def crossed(groups: Groups) -> list[Partition]:
    """One partition per pair of sensitive columns, then per three; combinations without rows are left out."""
    chosen = [parts for size in (2, MOST_CROSSED) for parts in combinations(single(groups), size)]
    return [_product(parts) for parts in chosen]


def _product(parts: Sequence[Partition]) -> Partition:
    name, slices, codes, members = parts[0].name, parts[0].slices, parts[0].codes, parts[0].members
    for one in parts[1:]:
        known = (codes < len(slices)) & (one.codes < len(one.slices))
        present, packed = np.unique(codes[known] * len(one.slices) + one.codes[known], return_inverse=True)
        pairs = [divmod(int(code), len(one.slices)) for code in present]
        name, slices = f"{name} & {one.name}", tuple(f"{slices[a]} & {one.slices[b]}" for a, b in pairs)
        members = tuple(members[a] + one.members[b] for a, b in pairs)
        codes = np.full(len(codes), len(present), dtype=np.int64)
        codes[known] = packed
    return Partition(name, slices, codes, members)


def is_headline(order: int, groups: Groups) -> bool:
    """The first two sensitive columns become columns of the comparison matrix."""
    return order < min(2, len(groups.columns))


def every(groups: Groups) -> list[Partition]:
    """Single columns, then pairs, then threes."""
    return single(groups) + crossed(groups)


def largest_of(gaps: Sequence[Estimate], names: Sequence[str], *, level: float) -> Estimate:
    """The largest of several gaps, each already given at `share_of_level`, so that all limits hold at once.

    Undefined when one of them is: the missing gap could be the largest.
    """
    undefined = [f"{name}: {one.reason}" for name, one in zip(names, gaps, strict=True) if one.value is None]
    method = f"Bonferroni over {len(gaps)}, {gaps[0].method}" if len(gaps) > 1 else gaps[0].method
    if undefined:
        return Estimate(None, None, None, method, reason="; ".join(undefined), level=level)
    values, lows, highs = (np.array([getattr(one, name) for one in gaps]) for name in ("value", "low", "high"))
    top = int(values.argmax())
    notes = [one.reason for one in gaps if one.reason]
    reason = "; ".join(dict.fromkeys(([f"largest for {names[top]}"] if len(gaps) > 1 else []) + notes))
    # In each draw the largest of them: where two are close, either may be the largest on other rows.
    drawn = [one.replicates for one in gaps if one.replicates is not None]
    replicates = np.fmax.reduce(drawn) if len(drawn) == len(gaps) else None
    return Estimate(float(values[top]), float(lows.max()), float(highs.max()), method, replicates, reason, level)


def share_of_level(level: float, num: int) -> float:
    """Level for each of `num` intervals so that all hold together at `level` (Bonferroni)."""
    return 1 - (1 - level) / num
