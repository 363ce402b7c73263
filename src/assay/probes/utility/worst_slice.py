"""Where the system fails most: slices of one or two conditions, searched with false discoveries under control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.estimation.intervals import critical_value, wilson
from assay.probes.utility._classes import share
from assay.probes.utility._conditions import Conditions, conditions_of, hypergeometric_tail
from assay.probes.utility._derived import readable
from assay.registry import probe
from assay.stats import Draws, Estimate, difference, measured
from assay.values import Array, Column, Groups, Measurement

METHOD = "Newcombe, Bonferroni over searched slices"
MIN_NUM = 50  # rows inside and outside of a slice
NUM_SHOWN = 5


@probe("utility")
def worst_slice(
    inputs: Array, labels: Array, predictions: Array, groups: Groups, columns: Sequence[Column], draws: Draws
) -> list[Measurement]:
    """Accuracy of the rest less accuracy of a slice, for the slices of one or two conditions that fail most.

    Definition: conditions are "column=category" and, for numbers, quarters of the rows; the columns of pictures are
        brightness and contrast, of texts the number of words, beside the group columns. For every condition and every
        pair on different columns with at least 50 rows inside and outside: p = exact one-sided hypergeometric
        probability of that many errors. Slices kept by Benjamini-Yekutieli at 1 - level are found; up to 5 are shown,
        most certain first, without those that have over half their rows in one shown. worst_slice_deficit is of the
        searched slice with the highest lower limit.
    Shapes: inputs (N, ...), labels (N,), predictions (N,), groups codes (N, G).
    Direction: deficit lower is better, unit share, -1 to 1; num_slices_found lower, unit slices.
    Limits: finds where errors gather, not why; a slice may overlap the cause only in part. Slices under 50 rows, three
        conditions, odd ranges of a number and what a picture shows are not searched, and only the 400 most frequent
        conditions are. Limits of a deficit hold for all searched slices at once (Bonferroni), so they are wide.
    Source: Benjamini & Yekutieli (2001), theorem 1.3; Fisher (1934), exact test; Chung et al. (2019), Slice Finder.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> colour, labels = np.repeat([0, 1, 2], 100), np.zeros(300, dtype=int)
    >>> predictions = np.where((colour == 2) & (np.arange(300) % 2 == 0), 1, 0)
    >>> columns, nobody = (Column("colour", "categorical", ("red", "green", "blue")),), Groups(np.zeros((300, 0)), ())
    >>> draws = make_draws(b"key", "split", [labels, predictions])
    >>> found = worst_slice(colour[:, None].astype(float), labels, predictions, nobody, columns, draws)
    >>> [(one.metric, one.value) for one in found]
    [('worst_slice_deficit', 0.5), ('num_slices_found', 1.0), ('accuracy_deficit', 0.5)]
    """
    failed = predictions < 0
    wrong = (predictions != labels) | failed
    table, read = readable(inputs, columns)
    named = {column.name for column in read}
    extra = [index for index, column in enumerate(groups.columns) if column.name not in named]
    table = np.concatenate([table, groups.codes[:, extra]], axis=1).astype(np.float64)
    conditions = conditions_of(table, [*read, *(groups.columns[index] for index in extra)], MIN_NUM)
    search = _search(conditions, wrong)
    kept = np.flatnonzero(benjamini_yekutieli(search.p, 1 - draws.level))
    shown = _distinct(conditions, search, kept)
    return _results(conditions, search, (wrong, failed), (kept, shown), draws)


@dataclass(frozen=True)
class Search:
    """Every slice searched, S of them: its two conditions (equal when there is one), rows, errors and p value."""

    first: Array
    second: Array
    rows: Array
    errors: Array
    p: Array
    deficit: Array


def _search(conditions: Conditions, wrong: Array) -> Search:
    rows, errors = conditions.pair_counts(wrong)
    num, num_wrong = len(wrong), int(wrong.sum())
    owners = conditions.owners
    allowed = np.triu(owners[:, None] != owners[None, :]) | np.eye(len(owners), dtype=bool)
    first, second = np.nonzero(allowed & (rows >= MIN_NUM) & (num - rows >= MIN_NUM))
    rows, errors = rows[first, second], errors[first, second]
    deficit = errors / rows - (num_wrong - errors) / (num - rows)
    p = np.ones(len(rows))
    above = deficit > 0
    p[above] = hypergeometric_tail(errors[above], rows[above], num_wrong, num)
    return Search(first, second, rows, errors, p, deficit)


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


def _distinct(conditions: Conditions, search: Search, kept: Array) -> list[int]:
    """The most certain slices, leaving out those with over half their rows in one already chosen."""
    chosen: list[int] = []
    for index in kept[np.lexsort((-search.deficit[kept], search.p[kept]))]:
        rows = conditions.rows(search.first[index], search.second[index])
        if all(
            (rows & conditions.rows(search.first[old], search.second[old])).sum() <= rows.sum() / 2 for old in chosen
        ):
            chosen.append(int(index))
        if len(chosen) == NUM_SHOWN:
            break
    return chosen


def _limits(search: Search, wrong: Array, level: float) -> tuple[Array, Array]:
    """Newcombe limits of every deficit, `(S,)` each."""
    critical = critical_value(level)
    outside, missed = len(wrong) - search.rows, wrong.sum() - search.errors
    low_in, high_in = wilson(search.errors, search.rows, critical=critical)
    low_out, high_out = wilson(missed, outside, critical=critical)
    inside, rest = search.errors / search.rows, missed / outside
    return (
        search.deficit - np.hypot(inside - low_in, high_out - rest),
        search.deficit + np.hypot(high_in - inside, rest - low_out),
    )


def _results(
    conditions: Conditions,
    search: Search,
    wrong_failed: tuple[Array, Array],
    kept_shown: tuple[Array, list[int]],
    draws: Draws,
) -> list[Measurement]:
    (wrong, failed), (kept, shown) = wrong_failed, kept_shown
    num, lost = len(wrong), int(failed.sum())
    if not len(search.rows):
        reason = f"no slice has {MIN_NUM} rows inside and outside"
        nothing = Estimate(None, None, None, METHOD, reason=reason, level=draws.level)
        return [share(nothing, "worst_slice_deficit", (num, lost), better="lower", headline=True)]
    joint = 1 - (1 - draws.level) / len(search.rows)
    lows = _limits(search, wrong, joint)[0]
    # The true worst is one slice: its upper limit needs no correction.
    highs = _limits(search, wrong, draws.level)[1]
    top = int(lows.argmax())
    chosen = [top, *shown]
    member = np.column_stack([conditions.rows(search.first[s], search.second[s]) for s in chosen])
    sums = draws.sums(np.column_stack([member, member & ~wrong[:, None], ~wrong]))
    inside, right, all_right = sums[:, : len(chosen)], sums[:, len(chosen) : -1], sums[:, -1:]
    names = [conditions.name(search.first[s], search.second[s]) for s in chosen]
    estimates = []
    for column in range(len(chosen)):
        totals, hits = inside[:, [column]], right[:, [column]]
        pair = np.hstack([all_right - hits, hits]), np.hstack([len(wrong) - totals, totals])
        estimates.append(replace(difference(*pair, level=joint), method=METHOD, level=draws.level))
    count = f"{len(search.rows):,} slices searched, {len(kept):,} kept by Benjamini-Yekutieli"
    worst = replace(estimates[0], high=float(highs.max()), reason=f"{names[0]}; {count}")
    total = Estimate(float(len(kept)), None, None, "Benjamini-Yekutieli", reason=f"a count; {count}", level=draws.level)
    found = [
        share(worst, "worst_slice_deficit", (num, lost), better="lower", headline=True),
        measured(total, "num_slices_found", unit="slices", better="lower", attempted=num, errored=lost),
    ]
    for s, name, estimate in zip(shown, names[1:], estimates[1:], strict=True):
        lost = int((failed & conditions.rows(search.first[s], search.second[s])).sum())
        found.append(share(estimate, "accuracy_deficit", (int(search.rows[s]), lost), where=name, better="lower"))
    return found
