"""What the attacks report alike: exact shares with paired replicates, as accuracies and by group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay import stats
from assay.stats import Draws, Estimate
from assay.values import Array, Better, Groups, Measurement


def share(hits: Array, among: Array, draws: Draws, how: str) -> Estimate:
    """Clopper-Pearson bounds, and replicates from the shared draws so that effects are paired."""
    exact = stats.exact_rate(int((hits & among).sum()), int(among.sum()), level=draws.level)
    exact = replace(exact, method=f"{exact.method}; {how}")
    if exact.value is None:
        return exact
    counts = draws.counts(among.astype(np.int64) + (hits & among), 3)
    return replace(exact, replicates=stats.rate(counts[:, 2], counts[:, 1] + counts[:, 2]).replicates)


def accuracy(metric: str, estimate: Estimate, where: str, attempted: int, errored: int) -> Measurement:
    """A share of rows that stay right; of all rows it is a column of the matrix."""
    about = {"attempted": attempted, "errored": errored}
    return stats.measured(
        estimate, metric, unit="fraction", better="higher", slice=where, headline=where == "", **about
    )


def of_tried(
    named: tuple[str, str], hits: Array, tried: Array, how: tuple[Draws, str], *, better: Better = "lower"
) -> Measurement:
    """Of the rows that something was tried on, the share it was true of; `named` is the metric and the slice."""
    metric, where = named
    size = int(tried.sum())
    return stats.measured(share(hits, tried, *how), metric, unit="fraction", better=better, slice=where, attempted=size)


def by_group(metric: str, holds: Array, errored: Array, groups: Groups, how: tuple[Draws, str]) -> list[Measurement]:
    """The share of rows that hold in each group of each sensitive column."""
    found = []
    for index, column in enumerate(groups.columns):
        for code, name in enumerate(column.categories):
            member = groups.codes[:, index] == code
            size, failed = int(member.sum()), int((errored & member).sum())
            found.append(accuracy(metric, share(holds & member, member, *how), f"{column.name}={name}", size, failed))
    return found
