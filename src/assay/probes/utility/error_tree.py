"""For whom it fails, in words: a small tree of conditions that parts the rows by how often the answer is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.probes.utility._classes import share
from assay.probes.utility._conditions import coins
from assay.probes.utility._derived import declared
from assay.registry import probe
from assay.stats import Draws, Estimate, difference, rate
from assay.values import Array, Column, Groups, Measurement

MAX_DEPTH, NUM_STEPS = 3, 16  # numeric columns are split at sixteenths of the rows
MIN_NUM, MIN_SHARE = 50, 0.01  # rows of a leaf, and their share of all: half of that in the half that grows
WORTH_A_SPLIT = 4.0  # standard deviations
GAP, METHOD = "error_tree_gap", "MOVER, in the half that had no part in growing"


@probe("utility")
def error_tree(
    inputs: Array, labels: Array, predictions: Array, groups: Groups, columns: Sequence[Column], draws: Draws
) -> list[Measurement]:
    """Error rate of each leaf of a tree of at most three conditions, grown to tell right answers from wrong ones.

    Definition: columns as in `worst_slice`. A coin that depends on the row alone puts it into the half that grows or
        the half that measures. Grown from the top, three levels at most: of all splits (a number at sixteenths of the
        rows; one category or not) the one whose sides differ most in errors, if by 4 standard deviations and if each
        side has 25 rows and 0.5 % of all rows. leaf_error_rate, slice "age<=30 & job=b" = share of wrong answers in
        the half that measures; error_tree_gap = that of the leaf with most errors in the growing half less that of the
        leaf with fewest.
    Shapes: inputs (N, ...), labels (N,), predictions (N,), groups codes (N, G).
    Direction: lower is better; unit share, 0 to 1, of the gap -1 to 1.
    Limits: a tree is one way to tell the rows apart, and another sample may grow another; a condition is where errors
        gather, not why. A missing number counts as above. Limits of leaves hold for all together (Bonferroni).
        Without a split worth its rows there is one leaf, and no gap.
    Source: Breiman et al. (1984), section 2.4; Athey & Imbens (2016), section 2 (one half grows, the other measures).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> colour, labels = np.repeat([0, 1], 400), np.zeros(800, dtype=int)
    >>> predictions = np.where((colour == 1) & (np.arange(800) % 2 == 0), 1, 0)
    >>> columns, nobody = (Column("colour", "categorical", ("red", "blue")),), Groups(np.zeros((800, 0)), ())
    >>> draws = make_draws(b"key", "split", [labels, predictions])
    >>> found = error_tree(colour[:, None].astype(float), labels, predictions, nobody, columns, draws)
    >>> [(one.metric, one.slice) for one in found]
    [('error_tree_gap', ''), ('leaf_error_rate', 'colour!=red'), ('leaf_error_rate', 'colour=red')]
    """
    failed = predictions < 0
    wrong = (predictions != labels) | failed
    table, read = declared(inputs, columns, groups)
    grows = coins(table, wrong.astype(np.uint8) + failed)
    least = max(float(MIN_NUM), MIN_SHARE * len(wrong)) / 2
    leaves = _grown(_splits(table, read), wrong, grows, least)
    leaves.sort(key=lambda one: (-_mean(wrong[one.rows & grows]), one.name))
    return _results(leaves, (wrong, failed), ~grows, draws)


@dataclass(frozen=True)
class Splits:
    """One column's ways to part rows: `codes (N,)`; a row is on the first side of way `w` where `first[w, code]`."""

    codes: Array
    first: Array  # (W, codes) bool
    names: tuple[tuple[str, str], ...]  # of both sides


@dataclass(frozen=True)
class Leaf:
    """Conditions in words, and the rows `(N,)` that meet them."""

    name: str
    rows: Array


def _splits(table: Array, columns: Sequence[Column]) -> list[Splits]:
    found = []
    for column, values in zip(columns, table.T, strict=True):
        known = np.isfinite(values)
        if column.kind == "categorical":
            num = len(column.categories)
            known &= (values >= 0) & (values < num)
            codes = np.where(known, values, num).astype(np.intp)
            names = tuple((f"{column.name}={one}", f"{column.name}!={one}") for one in column.categories)
            found.append(Splits(codes, np.eye(num, num + 1, dtype=bool), names))
            continue
        seen = np.sort(values[known])
        steps = np.unique(seen[(np.arange(1, NUM_STEPS) * len(seen)) // NUM_STEPS]) if len(seen) else seen
        codes = np.where(known, np.searchsorted(steps, values, side="left"), len(steps))
        names = tuple((f"{column.name}<={step:.6g}", f"{column.name}>{step:.6g}") for step in steps)
        found.append(Splits(codes, np.tri(len(steps), len(steps) + 1, dtype=bool), names))
    return found


def _grown(splits: list[Splits], wrong: Array, grows: Array, least: float) -> list[Leaf]:
    """The leaves, each split as long as it is worth it."""
    waiting = [Leaf("", np.ones(len(wrong), dtype=bool))]
    leaves: list[Leaf] = []
    for _ in range(MAX_DEPTH):
        following: list[Leaf] = []
        for leaf in waiting:
            parts = _parted(leaf, splits, wrong, grows, least)
            (following if parts else leaves).extend(parts or [leaf])
        waiting = following
    return leaves + waiting


def _parted(leaf: Leaf, splits: list[Splits], wrong: Array, grows: Array, least: float) -> list[Leaf]:
    """Both sides of the best split, or nothing."""
    at = np.flatnonzero(leaf.rows & grows)
    num, num_wrong = float(len(at)), float(wrong[at].sum())
    best, highest = None, WORTH_A_SPLIT
    for one in splits:
        counts = np.bincount(one.codes[at] * 2 + wrong[at], minlength=2 * one.first.shape[1]).reshape(-1, 2)
        sides = one.first @ counts.astype(np.float64)  # (W, 2)
        rows, errors = sides.sum(axis=1), sides[:, 1]
        spread = rows * (num - rows) * num_wrong * (num - num_wrong)
        apart = np.abs(errors * num - rows * num_wrong) * np.sqrt(max(num - 1, 0.0) / np.maximum(spread, 1e-300))
        apart = np.where((spread > 0) & (rows >= least) & (num - rows >= least), apart, 0.0)
        if len(apart) and apart.max() > highest:
            best, highest = (one, int(apart.argmax())), float(apart.max())
    if best is None:
        return []
    chosen, way = best
    first = chosen.first[way][chosen.codes]
    told = [f"{leaf.name} & {name}" if leaf.name else name for name in chosen.names[way]]
    return [Leaf(told[0], leaf.rows & first), Leaf(told[1], leaf.rows & ~first)]


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0


def _results(leaves: list[Leaf], wrong_failed: tuple[Array, Array], measures: Array, draws: Draws) -> list[Measurement]:
    wrong, failed = wrong_failed
    everything = len(wrong), int(failed.sum())
    if len(leaves) < 2:
        reason = "no split is worth its rows: errors do not gather by the columns"
        nothing = Estimate(None, None, None, METHOD, reason=reason, level=draws.level)
        return [share(nothing, GAP, everything, better="lower")]
    member = np.column_stack([leaf.rows & measures for leaf in leaves])
    sums = draws.sums(np.column_stack([member & wrong[:, None], member]))
    hits, totals = sums[:, : len(leaves)], sums[:, len(leaves) :]
    gap = difference(hits[:, [0, -1]], totals[:, [0, -1]], level=draws.level)
    told = f"{leaves[0].name} against {leaves[-1].name}"
    found = [share(replace(gap, method=METHOD, reason=gap.reason or told), GAP, everything, better="lower")]
    joint = 1 - (1 - draws.level) / len(leaves)
    for k, leaf in enumerate(leaves):
        one = replace(rate(hits[:, k], totals[:, k], level=joint), level=draws.level)
        counted = int(member[:, k].sum()), int((member[:, k] & failed).sum())
        found.append(share(one, "leaf_error_rate", counted, where=leaf.name, better="lower"))
    return found
