"""Conditions on raw columns, a coin for each row, and an exact tail probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from assay.values import Array, Column

NUM_BINS = 4  # numeric columns are cut at the quartiles of the rows
BLOCK = 8_192  # rows hashed at once
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64


@dataclass(frozen=True)
class Conditions:
    """For each column which of its conditions a row meets: `codes[c] (N,)`; codes from `nums[c]` on mean none.

    Condition `a` of the whole is condition `a - starts[c]` of column `c = owners[a]`.
    """

    codes: tuple[Array, ...]
    names: tuple[str, ...]  # (A,)
    owners: Array  # (A,)
    starts: Array  # (C,)
    nums: tuple[int, ...]  # (C,) conditions of each column
    widths: tuple[int, ...]  # (C,) codes of each column: one more where a row may meet none

    def rows(self, chosen: Array) -> Array:
        """Rows `(N,)` that meet all of the conditions `chosen (3,)` (-1 stands for none)."""
        result = np.ones(len(self.codes[0]), dtype=bool)
        for one in chosen[chosen >= 0]:
            owner = self.owners[one]
            result &= self.codes[owner] == one - self.starts[owner]
        return result

    def name(self, chosen: Array) -> str:
        """The slice's name."""
        return " & ".join(self.names[one] for one in chosen if one >= 0)


def conditions_of(table: Array, columns: Sequence[Column], least: float) -> Conditions:
    """Conditions with at least `least` rows: a slice has no more rows than any of its conditions."""
    codes, names, nums, widths = [], [], [], []
    for column, values in zip(columns, table.T, strict=True):
        found, labels, sizes = _cut(column, np.ascontiguousarray(values))
        kept = np.flatnonzero(sizes >= max(1, least))
        if not len(kept):
            continue
        if len(kept) < len(labels):
            renumbered = np.full(len(labels), len(kept), dtype=np.uint16)
            renumbered[kept] = np.arange(len(kept))
            found = renumbered[found]
        codes.append(found)
        nums.append(len(kept))
        widths.append(len(kept) + bool(sizes.sum() > sizes[kept].sum()))
        names += [f"{column.name}={labels[code]}" for code in kept]
    starts = np.cumsum([0, *nums])[:-1]
    return Conditions(
        tuple(codes), tuple(names), np.repeat(np.arange(len(nums)), nums), starts, tuple(nums), tuple(widths)
    )


def _cut(column: Column, values: Array) -> tuple[Array, list[str], Array]:
    """Codes `(N,)`, a label for each and its rows: categories, or ranges of equal mass; the last one is missing."""
    if column.kind == "categorical":
        num = len(column.categories)
        known = np.isfinite(values) & (values >= 0) & (values < num)
        codes: Array = np.where(known, values, num).astype(np.uint16)
        return codes, [*column.categories, "missing"], np.bincount(codes, minlength=num + 1)
    known = np.isfinite(values)
    seen = np.sort(values if known.all() else values[known])
    wanted = np.arange(1, NUM_BINS) / NUM_BINS * max(0, len(seen) - 1)
    below = wanted.astype(np.intp)
    edges = (
        np.unique(seen[below] + (wanted - below) * (seen[np.ceil(wanted).astype(np.intp)] - seen[below]))
        if len(seen)
        else seen
    )
    ends = np.unique([*np.searchsorted(seen, edges, side="right"), len(seen)])  # bins (start, end] of the sorted values
    ends = ends[ends > 0]
    bounds = seen[ends[:-1] - 1]  # the largest value of each bin but the last
    codes = np.zeros(len(values), dtype=np.uint16)
    for bound in bounds:
        codes += values > bound
    codes[~known] = len(ends)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.intp)[: len(ends)]
    # The ends of the whole range are not named: they are cells of one row each.
    lows = [f"{seen[start]:.6g}" if start else "" for start in starts]
    highs = [f"{seen[end - 1]:.6g}" if end < len(seen) else "" for end in ends]
    labels = [f"{low}..{high}" if low or high else "known" for low, high in zip(lows, highs, strict=True)]
    return codes, [*labels, "missing"], np.append(ends - starts, len(values) - len(seen))


def coins(table: Array, outcome: Array) -> Array:
    """A fair coin for each row `(N,)` bool, by what the row holds and not by where it stands.

    A row's coin is a hash of its numbers `table (N, F)` and of which among its equals it is. Equals are numbered by
    `outcome (N,)` (0 to 3), and then differ in nothing: whatever the order of the rows, the halves are the same.
    """
    keys = np.empty(len(table), dtype=np.uint64)
    weights = np.random.Generator(np.random.Philox(1)).integers(1 << 63, size=table.shape[1]).astype(np.uint64)
    weights = weights * np.uint64(2) + np.uint64(1)
    for start in range(0, len(table), BLOCK):
        bits = np.ascontiguousarray(table[start : start + BLOCK], dtype=np.float64).view(np.uint64)
        keys[start : start + BLOCK] = (bits ^ (bits >> np.uint64(32))) @ weights  # small numbers fill high bits only
    keys = (keys & ~np.uint64(3)) | outcome.astype(np.uint64)
    order = np.argsort(keys)
    ordered = keys[order] & ~np.uint64(3)
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(keys)])
    rank = np.arange(len(keys)) - np.repeat(first, np.diff(np.append(first, len(keys))))
    result = np.empty(len(keys), dtype=bool)
    result[order] = _mix(ordered + GOLDEN * (rank.astype(np.uint64) + np.uint64(1))) >> np.uint64(63) == 1
    return result


def _mix(values: Array) -> Array:
    values = (values ^ (values >> np.uint64(30))) * MIXERS[0]
    values = (values ^ (values >> np.uint64(27))) * MIXERS[1]
    mixed: Array = values ^ (values >> np.uint64(31))
    return mixed


def hypergeometric_tail(hits: Array, draws: Array, num_hits: Array | int, num: Array | int) -> Array:
    """P(X >= hits) `(S,)` when `draws (S,)` of `num` rows, `num_hits` of them hits, are taken without replacement.

    Terms are summed upwards from `hits` until they no longer count; above the mean each is smaller than the last.
    """
    hits, draws = hits.astype(np.float64), draws.astype(np.float64)

    def log_choose(top: Array | float, bottom: Array | float) -> Array:
        chosen: Array = gammaln(top + 1.0) - gammaln(bottom + 1.0) - gammaln(top - bottom + 1.0)
        return chosen

    rest = np.asarray(num, dtype=np.float64) - num_hits
    log_first = log_choose(num_hits, hits) + log_choose(rest, draws - hits) - log_choose(num, draws)
    term, total, step = np.ones(len(hits)), np.ones(len(hits)), hits.copy()
    while len(term) and (term > 1e-17 * total).any():
        term = term * (num_hits - step) * (draws - step) / ((step + 1) * (rest - draws + step + 1))
        total += term
        step += 1
    tail: Array = np.minimum(1.0, np.exp(log_first + np.log(total)))
    return tail


def benjamini_yekutieli(p: Array, rate: float) -> Array:
    """Which of the p values `(S,)` to keep so that at most `rate` of them are false on average, however dependent.

    >>> benjamini_yekutieli(np.array([0.001, 0.2, 0.9]), 0.05)
    array([ True, False, False])
    """
    num = len(p)
    order = np.argsort(p, kind="stable")
    steps = np.arange(1, num + 1)
    passing = np.flatnonzero(p[order] <= rate * steps / (num * (1 / steps).sum())) if num else np.zeros(0, dtype=int)
    kept = np.zeros(num, dtype=bool)
    kept[order[: passing[-1] + 1 if len(passing) else 0]] = True
    return kept
