"""Where the system fails most: slices of one to three conditions, searched in half of the rows, tested in the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.estimation.intervals import critical_value, wilson
from assay.probes.utility._classes import share
from assay.probes.utility._conditions import (
    Conditions,
    benjamini_yekutieli,
    coins,
    conditions_of,
    hypergeometric_tail,
)
from assay.probes.utility._derived import declared
from assay.probes.utility._slices import Search, search
from assay.registry import probe
from assay.stats import Draws, Estimate, difference, measured
from assay.values import Array, Column, Groups, Measurement

METHOD = "MOVER, in the half that had no part in the search"
MIN_NUM, MIN_SHARE = 50, 0.01  # rows inside and outside of a slice, and their share of all
NUM_TESTED, NUM_SHOWN = 10, 5
WORTH_TESTING = 3.0  # standard deviations in the half that searches


@probe("utility", version=3)
def worst_slice(
    inputs: Array, labels: Array, predictions: Array, groups: Groups, columns: Sequence[Column], draws: Draws
) -> list[Measurement]:
    """Accuracy of the rest less accuracy of a slice, for the slices of up to three conditions that fail most.

    Definition: conditions are "column=category" and, for numbers, quarters of the rows ("age=..28" up to 28, "age=48.."
        from 48; no end that is the smallest or largest number is named); the columns of pictures are
        brightness and contrast, of texts the number of words, beside the group columns. A coin that depends on the row
        alone puts it into the half that searches or the half that tests. Searched: every slice of one to three
        conditions on different columns with, inside and outside, 25 rows and 0.5 % of all rows in each half.
        Candidates: up to 10, each the one with most errors beyond the expected (3 standard deviations at least) among
        rows in no earlier one. Tested in the other half, on rows in no earlier one: p = exact one-sided hypergeometric
        probability of that many errors. Candidates kept by Benjamini-Yekutieli at 1 - level are found, up to 5 shown.
        worst_slice_deficit is that, in the half that tests, of the one of the 10 most certain slices which has the
        highest lower limit in the other.
    Shapes: inputs (N, ...), labels (N,), predictions (N,), groups codes (N, G).
    Direction: deficit lower is better, unit share, -1 to 1; num_slices_found lower, unit slices.
    Limits: finds where errors gather, not why. Smaller slices, four conditions, odd ranges of a number and what a
        picture shows are not searched; of many columns the 100 that fail most alone are paired, 24 tripled.
        worst_slice_deficit is of the one slice that was picked: another may be worse. Limits of shown slices hold for
        all that were tested (Bonferroni).
    Source: Chung et al. (2019), Slice Finder; Sagadeeva & Boehm (2021), SliceLine, section 3 (bounds); Benjamini &
        Yekutieli (2001), theorem 1.3; Cox (1975), splitting; Fisher (1934), exact test.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> colour, labels = np.repeat([0, 1, 2], 100), np.zeros(300, dtype=int)
    >>> predictions = np.where((colour == 2) & (np.arange(300) % 2 == 0), 1, 0)
    >>> columns, nobody = (Column("colour", "categorical", ("red", "green", "blue")),), Groups(np.zeros((300, 0)), ())
    >>> draws = make_draws(b"key", "split", [labels, predictions])
    >>> found = worst_slice(colour[:, None].astype(float), labels, predictions, nobody, columns, draws)
    >>> [(one.metric, one.slice) for one in found]
    [('worst_slice_deficit', ''), ('num_slices_found', ''), ('accuracy_deficit', 'colour=blue')]
    """
    table, read = declared(inputs, columns, groups)
    least = max(float(MIN_NUM), MIN_SHARE * len(labels))
    conditions, rows = conditions_of(table, read, least), rows_of(table, labels, predictions)
    found = search(conditions, rows.wrong + 2 * rows.searching.astype(np.uint8), least=least)
    if not found.num_counted:
        reason = f"no slice has {int(np.ceil(least / 2))} rows inside and outside in each half"
        nothing = Estimate(None, None, None, METHOD, reason=reason, level=draws.level)
        return [share(nothing, "worst_slice_deficit", rows.attempted, better="lower", headline=True)]
    return _results(conditions, found, rows, _candidates(conditions, found, rows), draws)


@dataclass(frozen=True)
class Rows:
    """What is known of each row: whether its answer was wrong, or none, and whether it is in the half that searches."""

    wrong: Array
    failed: Array
    searching: Array

    @property
    def attempted(self) -> tuple[int, int]:
        """How many rows, and how many of them errored."""
        return len(self.wrong), int(self.failed.sum())


def rows_of(table: Array, labels: Array, predictions: Array) -> Rows:
    """Which answers are wrong, and a coin for each row."""
    failed = predictions < 0
    wrong = (predictions != labels) | failed
    return Rows(wrong, failed, coins(table, wrong.astype(np.uint8) + failed))


def _candidates(conditions: Conditions, found: Search, rows: Rows) -> list[int]:
    """Slices that fail beyond what those before them explain, most certain first, in the half that searches."""
    used = np.unique(found.slices[found.slices >= 0])
    at = np.flatnonzero(rows.searching)
    packed = {-1: _packed(np.ones(len(at), dtype=bool))}
    for one in used:
        owner = conditions.owners[one]
        packed[int(one)] = _packed(conditions.codes[owner][at] == one - conditions.starts[owner])
    member = np.stack([np.bitwise_and.reduce([packed[int(one)] for one in chosen]) for chosen in found.slices])
    wrong, left = _packed(rows.wrong[at]), packed[-1]
    chosen: list[int] = []
    while len(chosen) < NUM_TESTED:
        num, inside = (_size(one) for one in (left, member & left))
        num_wrong, errors = _size(left & wrong), _size(member & (left & wrong))
        spread = inside * (num - inside) * num_wrong * (num - num_wrong)
        z = np.where(spread > 0, errors * num - inside * num_wrong, 0.0)
        z *= np.sqrt(max(num - 1, 0) / np.maximum(spread, 1))
        best = int(z.argmax())
        if z[best] < WORTH_TESTING:
            break
        chosen.append(best)
        left = left & ~member[best]
    return chosen


def _packed(member: Array) -> Array:
    """Bits of a bool array `(N,)` in words of 64."""
    padded = np.zeros(-(-max(1, len(member)) // 64) * 64, dtype=bool)
    padded[: len(member)] = member
    words: Array = np.packbits(padded).view(np.uint64)
    return words


def _size(bits: Array) -> Array:
    """How many bits are set, along the last axis."""
    size: Array = np.bitwise_count(bits).sum(axis=-1, dtype=np.int64).astype(np.float64)
    return size


def _p_values(conditions: Conditions, found: Search, rows: Rows, candidates: list[int]) -> Array:
    """Of each candidate in the half that tests, on rows that are in no earlier one."""
    left, counts = ~rows.searching, []
    for one in candidates:
        inside = conditions.rows(found.slices[one]) & left
        counts.append([(inside & rows.wrong).sum(), inside.sum(), (left & rows.wrong).sum(), left.sum()])
        left = left & ~inside
    errors, sizes, num_wrong, num = np.array(counts, dtype=np.float64).reshape(-1, 4).T
    p, above = np.ones(len(counts)), errors * num > sizes * num_wrong
    p[above] = hypergeometric_tail(errors[above], sizes[above], num_wrong[above], num[above])
    return p


def _worst(conditions: Conditions, found: Search, rows: Rows, level: float) -> int:
    """The most certain slice whose deficit has the highest lower limit (Newcombe), in the half that searches."""
    at, critical = rows.searching, critical_value(level)
    num, num_wrong = float(at.sum()), float((rows.wrong & at).sum())
    best, highest = 0, -np.inf
    for index, chosen in enumerate(found.slices[:NUM_TESTED]):
        inside = conditions.rows(chosen) & at
        size, errors = float(inside.sum()), float((inside & rows.wrong).sum())
        if not 0 < size < num:
            continue
        low, high = (
            wilson(errors, size, critical=critical)[0],
            wilson(num_wrong - errors, num - size, critical=critical)[1],
        )
        ours, rest = errors / size, (num_wrong - errors) / (num - size)
        limit = ours - rest - float(np.hypot(ours - low, high - rest))
        if limit > highest:
            best, highest = index, limit
    return best


def _results(
    conditions: Conditions, found: Search, rows: Rows, candidates: list[int], draws: Draws
) -> list[Measurement]:
    p = _p_values(conditions, found, rows, candidates)
    kept = np.flatnonzero(benjamini_yekutieli(p, 1 - draws.level))
    shown = [candidates[one] for one in kept[:NUM_SHOWN]]
    chosen = [_worst(conditions, found, rows, draws.level), *shown]
    tests = ~rows.searching
    member = np.column_stack([conditions.rows(found.slices[one]) & tests for one in chosen])
    right = ~rows.wrong & tests
    sums = draws.sums(np.column_stack([member, member & right[:, None], right, tests]))
    joint = 1 - (1 - draws.level) / max(1, len(candidates))
    estimates = []
    for column in range(len(chosen)):
        totals, hits = sums[:, [column]], sums[:, [len(chosen) + column]]
        pair = np.hstack([sums[:, [-2]] - hits, hits]), np.hstack([sums[:, [-1]] - totals, totals])
        one = difference(*pair, level=joint if column else draws.level)
        estimates.append(replace(one, method=METHOD, level=draws.level))
    names = [conditions.name(found.slices[one]) for one in chosen]
    count = f"{found.num_counted + found.num_cut:,} slices searched"
    worst = replace(estimates[0], reason=f"{names[0]}; {count}")
    tested = f"a count; {count}, {len(candidates)} tested, {len(kept)} kept by Benjamini-Yekutieli"
    total = Estimate(float(len(kept)), None, None, "Benjamini-Yekutieli", reason=tested, level=draws.level)
    num, lost = rows.attempted
    results = [
        share(worst, "worst_slice_deficit", rows.attempted, better="lower", headline=True),
        measured(total, "num_slices_found", unit="slices", better="lower", attempted=num, errored=lost),
    ]
    for column, (name, estimate) in enumerate(zip(names[1:], estimates[1:], strict=True), start=1):
        inside = member[:, column]
        counted = int(inside.sum()), int((inside & rows.failed).sum())
        results.append(share(estimate, "accuracy_deficit", counted, where=name, better="lower"))
    return results
