"""Conditions on raw columns, how many rows and errors every pair of them has, and an exact tail probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from assay.values import Array, Column

NUM_BINS = 4  # numeric columns are cut at the quartiles of the rows
MOST = 400  # conditions; pairs grow with the square
BLOCK = 65_536  # rows counted at once


@dataclass(frozen=True)
class Conditions:
    """Which rows meet which condition: `member (N, A)` bool; each condition's name and the column it is on."""

    member: Array
    names: tuple[str, ...]
    owners: Array  # (A,)

    def rows(self, first: int, second: int) -> Array:
        """Rows `(N,)` that meet both conditions."""
        both: Array = self.member[:, first] & self.member[:, second]
        return both

    def name(self, first: int, second: int) -> str:
        """The slice's name."""
        return self.names[first] if first == second else f"{self.names[first]} & {self.names[second]}"

    def pair_counts(self, wrong: Array) -> tuple[Array, Array]:
        """Rows and errors of every pair of conditions, `(A, A)` each: two matrix products of 0/1 columns."""
        num = self.member.shape[1]
        rows, errors = np.zeros((num, num)), np.zeros((num, num))
        for start in range(0, len(wrong), BLOCK):
            part = self.member[start : start + BLOCK].astype(np.float32)  # exact: a block has under 2^24 rows
            rows += part.T @ part
            part = part[wrong[start : start + BLOCK]]
            errors += part.T @ part
        return rows, errors


def conditions_of(table: Array, columns: Sequence[Column], min_num: int) -> Conditions:
    """Conditions with at least `min_num` rows (a pair has no more rows than either), the most frequent 400."""
    members, names, owners = [], [], []
    for owner, (column, values) in enumerate(zip(columns, table.T, strict=True)):
        codes, labels = _cut(column, values)
        sizes = np.bincount(codes, minlength=len(labels))
        for code in np.flatnonzero(sizes >= max(1, min_num)):
            members.append(codes == code)
            names.append(f"{column.name}={labels[code]}")
            owners.append(owner)
    if not members:
        return Conditions(np.zeros((len(table), 0), dtype=bool), (), np.zeros(0, dtype=np.int64))
    sizes = np.array([one.sum() for one in members])
    kept = np.sort(np.argsort(-sizes, kind="stable")[:MOST])
    return Conditions(
        np.column_stack([members[k] for k in kept]), tuple(names[k] for k in kept), np.array(owners)[kept]
    )


def _cut(column: Column, values: Array) -> tuple[Array, list[str]]:
    """Codes `(N,)` and a label for each: categories, or ranges of equal mass; the last one is missing."""
    known = np.isfinite(values)
    if column.kind == "categorical":
        num = len(column.categories)
        known &= (values >= 0) & (values < num)
        codes: Array = np.where(known, values, num).astype(np.int64)
        return codes, [*column.categories, "missing"]
    seen = values[known]
    edges = np.quantile(seen, np.arange(1, NUM_BINS) / NUM_BINS) if len(seen) else np.zeros(0)
    bins, packed = np.unique(np.searchsorted(edges, seen), return_inverse=True)
    codes = np.full(len(values), len(bins), dtype=np.int64)
    codes[known] = packed
    parts = [seen[packed == b] for b in range(len(bins))]
    return codes, [*(f"{part.min():.6g}..{part.max():.6g}" for part in parts), "missing"]


def hypergeometric_tail(hits: Array, draws: Array, num_hits: int, num: int) -> Array:
    """P(X >= hits) `(S,)` when `draws (S,)` of `num` rows, `num_hits` of them hits, are taken without replacement.

    Terms are summed upwards from `hits` until they no longer count; above the mean each is smaller than the last.
    """
    hits, draws = hits.astype(np.float64), draws.astype(np.float64)

    def log_choose(top: Array | float, bottom: Array | float) -> Array:
        chosen: Array = gammaln(top + 1.0) - gammaln(bottom + 1.0) - gammaln(top - bottom + 1.0)
        return chosen

    rest = float(num - num_hits)
    log_first = log_choose(num_hits, hits) + log_choose(rest, draws - hits) - log_choose(num, draws)
    term, total, step = np.ones(len(hits)), np.ones(len(hits)), hits.copy()
    while len(term) and (term > 1e-17 * total).any():
        term = term * (num_hits - step) * (draws - step) / ((step + 1) * (rest - draws + step + 1))
        total += term
        step += 1
    tail: Array = np.minimum(1.0, np.exp(log_first + np.log(total)))
    return tail
