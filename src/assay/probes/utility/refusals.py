"""Whom a system gives no answer on purpose, and whether they are those it was not made for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from assay.probes.utility._foreign import taken_apart
from assay.registry import Sizes, probe
from assay.stats import Draws, largest_gap, measured, rate
from assay.tasks.decisions import REFUSED, UnlessEven
from assay.values import Array, Groups, Measurement, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

MOST = 1000  # rows that are taken apart


def foreign_rows(sizes: Sizes) -> dict[str, int]:
    """The rows put together from others: at most, for a decision rule that never refuses runs none."""
    return {"refusals": min(MOST, sizes.num_test)}


@probe("utility", cost=foreign_rows, version=2)
def refusals(query: Query, labels: Array, predictions: Array, groups: Groups, draws: Draws) -> list[Measurement]:
    """Share of rows refused (-2), accuracy of those that are answered, and share refused of rows that are foreign.

    Definition: refused_share = #{predictions = -2} / N; answered_accuracy = #{predictions = labels} / #{predictions
        != -2}: an errored example (-1) is answered wrongly; foreign_refused_share: the first, over at most 1,000 rows
        put together from parts of different test rows, as `out_of_distribution_auroc` does. refused_share, slice
        "sex=Female", is over the rows of a group, where the decision rule can refuse; refused_share_difference, slice
        "sex", is the largest of these less the smallest.
    Shapes: labels (N,), predictions (N,), groups codes (N, G).
    Direction: a share refused is neither, of foreign rows higher is better, and so is accuracy; the difference lower;
        unit share, 0 to 1.
    Limits: refused rows are wrong in `accuracy`, and there is no price for a wrong answer here. One kind of foreign
        row, near in some data. A system without a rule that refuses has 0, 0 and its accuracy, and no row is run. A
        change of answered_accuracy is between two sets of rows: it rises too where only hard rows are refused.
    Source: Chow 1970, section 2 (error against refusals); Geifman and El-Yaniv 2017, section 2; interval: Wilson
        1927, and of the difference simultaneous Newcombe (1998) limits over all pairs.

    >>> REFUSED
    -2
    """
    refused, errored = predictions == REFUSED, predictions == -1
    right = (predictions == labels) & (predictions >= 0)
    counts = draws.counts(np.where(refused, 2, right.astype(np.int64)), 3)
    share = rate(counts[:, 2], counts.sum(axis=1), level=draws.level)
    answered = rate(counts[:, 1], counts[:, 0] + counts[:, 1], level=draws.level)
    rows = query.rows(MOST)
    foreign = _foreign(query, rows)
    far = draws.of(rows).counts((foreign == REFUSED).astype(np.int64), 2)
    about: dict[str, Any] = {"unit": "share"}
    whole: dict[str, Any] = {"attempted": len(labels), "errored": int(errored.sum())}
    # Of all rows, so that it can be compared, row by row, with that of a system that refuses others.
    inside: dict[str, Any] = {"attempted": len(labels), "errored": int((refused | errored).sum())}
    outside: dict[str, Any] = {"attempted": len(rows), "errored": int((foreign == -1).sum())}
    foreign_share = rate(far[:, 1], far.sum(axis=1), level=draws.level)
    by_group = _by_group(refused, errored, groups, draws) if isinstance(query.system.decision, UnlessEven) else []
    found = [
        measured(share, "refused_share", better="neither", **about, **whole),
        measured(answered, "answered_accuracy", better="higher", **about, **inside),
        measured(foreign_share, "foreign_refused_share", better="higher", **about, **outside),
    ]
    return [*query.unsampled(found[:2]), found[2], *query.unsampled(by_group)]


def _by_group(refused: Array, errored: Array, groups: Groups, draws: Draws) -> list[Measurement]:
    """Whom it falls on: the share of each group's rows, and the largest difference within a column."""
    found = []
    for index, column in enumerate(groups.columns):
        size, codes = len(column.categories), groups.codes[:, index].astype(np.int64)
        known = np.where((codes < 0) | (codes >= size), size, codes)
        cells = draws.counts(known * 2 + refused, 2 * (size + 1)).reshape(-1, size + 1, 2)
        totals, lost = cells.sum(axis=2)[:, :size], int((errored & (known < size)).sum())
        gap = largest_gap(cells[:, :size, 1], totals, level=draws.level)
        about: dict[str, Any] = {"slice": column.name, "attempted": int((known < size).sum()), "errored": lost}
        found.append(measured(gap, "refused_share_difference", unit="share", better="lower", **about))
        for place, category in enumerate(column.categories):
            one = rate(cells[:, place, 1], cells[:, place].sum(axis=1), level=draws.level)
            rows: dict[str, Any] = {
                "attempted": int((known == place).sum()),
                "errored": int((errored & (known == place)).sum()),
            }
            where = f"{column.name}={category}"
            found.append(measured(one, "refused_share", unit="share", better="neither", slice=where, **rows))
    return found


def _foreign(query: Query, rows: Array) -> Array:
    """Answers to as many foreign rows as `rows`; not asked for where nothing is ever refused."""
    rule = query.system.decision
    if not isinstance(rule, UnlessEven):
        return np.zeros(len(rows), dtype=np.int64)
    column = query.columns[0]
    inputs = taken_apart(query.inputs[rows], modality(query.columns), column.language, query.rng("taken apart"))
    return rule.decide(query.probabilities(inputs), inputs, query.groups.take(rows))
