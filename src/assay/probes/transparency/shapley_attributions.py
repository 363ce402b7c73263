"""Which columns move the answers, and by how much."""

from __future__ import annotations

import numpy as np

from assay import stats
from assay.access.handles import Query
from assay.explain import shapley
from assay.probes.transparency import _masked
from assay.registry import probe
from assay.stats import Draws, measured
from assay.values import Measurement, Task


@probe(
    "transparency",
    tasks=("classification", "regression"),
    cost=lambda sizes: {"masked": _masked.pass_rows(sizes)},
)
def shapley_attributions(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Mean size of each column's Shapley value over a sample of test rows, and how well they were estimated.

    Definition: attribution_i = mean over rows of |phi_i|; attribution_error = sqrt(sum SE^2 / sum phi^2), over rows
    and columns. phi is `assay.explain.explain` against at most 100 training rows.
    Shapes: 64 test rows explained (F columns); one measurement per column, slice `feature=<name>`.
    Direction: attribution neither, in probability (or the target's unit); attribution_error lower, a fraction.
    Limits: sampling noise adds to a mean of absolute values: columns near zero read high by about their SE. Masked
    rows mix two people and may be impossible. Use by the model is not cause. Intervals cover which rows were drawn.
    Source: Lundberg and Lee 2017, section 4; Covert, Lundberg and Lee 2020 (mean over rows); see `assay.explain`.

    >>> from assay.registry import PROBES
    >>> PROBES["shapley_attributions"].needs
    ('query', 'task', 'draws')
    """
    rows = query.rows(_masked.NUM_ROWS)
    explanation = shapley(_masked.passes(query, task))
    is_usable = _masked.finite(explanation.values)
    errored = int((~is_usable).sum())
    sample = draws.of(rows)
    means = _masked.row_means(sample, np.abs(explanation.values), is_usable, bounds=(0, None))
    found = [
        measured(
            estimate, "attribution", unit=_masked.unit(task), better="neither", slice=f"feature={column.name}",
            attempted=len(rows), errored=errored,
        )
        for column, estimate in zip(query.columns, means, strict=True)
    ]  # fmt: skip
    squares = [np.nansum(one**2, axis=1) for one in (explanation.standard_error, explanation.values)]
    sums = sample.sums(np.column_stack(squares))
    ratio = stats.mean(sums[:, 0], sums[:, 1], level=sample.level)
    if ratio.value is None:
        reason = _masked.ALL_ERRORED if errored == len(rows) else "every attribution is 0"
        return [*found, _error(stats.Estimate(None, None, None, ratio.method, None, reason), len(rows), errored)]
    squared = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    roots = stats.statistic(np.sqrt(squared), level=sample.level, bounds=(0, None), num=len(rows) - errored)
    return [*found, _error(roots, len(rows), errored)]


def _error(estimate: stats.Estimate, attempted: int, errored: int) -> Measurement:
    return measured(
        estimate, "attribution_error", unit="fraction", better="lower", attempted=attempted, errored=errored
    )
