"""Which columns, patches or words move the answers, and by how much."""

from __future__ import annotations

import numpy as np

from assay import stats
from assay.access.handles import Query
from assay.probes.transparency import _masked, _units
from assay.registry import probe
from assay.stats import Draws, measured
from assay.values import Measurement, Task


@probe(
    "transparency",
    tasks=("classification", "regression"),
    cost=lambda sizes: {"masked": _masked.pass_rows(sizes), **_masked.screening(sizes)},
)
def shapley_attributions(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Mean size of the Shapley value of each column, patch or word over explained test rows, and how surely known.

    Definition: attribution_i = mean of |phi_i| over the rows that have unit i; attribution_error = sqrt(sum SE^2 /
    sum phi^2), over rows and units. phi is `assay.explain.masked_passes` against at most 100 training rows; masked
    words are left out instead.
    Shapes: R test rows of U units: 64 table rows (a unit is a column, slice `feature=<name>`), 48 pictures (patches,
    `patch=<row>,<column>`), 64 texts (16 runs of words; each word of a run has an equal share of it). Told are the 20
    words that move most (`word=<word>`), of those in at least 3 explained and 10 different training texts.
    Direction: attribution neither, in probability (or the target's unit); attribution_error lower, a fraction.
    Limits: sampling noise adds to a mean of absolute values: units near zero read high by about their SE. Masked rows
    mix two rows, or read like telegrams, and may be impossible. Use by the model is not cause. The words shown are the
    largest, hence read high. Intervals cover which rows were drawn.
    Source: Lundberg and Lee 2017, section 4; Covert, Lundberg and Lee 2020 (mean over rows); see `assay.explain`.

    >>> from assay.registry import PROBES
    >>> PROBES["shapley_attributions"].needs
    ('query', 'task', 'draws')
    """
    rows = _masked.sample(query)
    explanation = _masked.attributions(_masked.passes(query, task), _masked.unused(query))
    is_usable = _masked.finite(explanation.values)
    errored = int((~is_usable).sum())
    sample = draws.of(rows)
    told = _units.told(query, explanation.values)
    found = _units.means(told, explanation.values, is_usable, draws=sample, task=task, metric="attribution")
    squares = [np.nansum(one**2, axis=1) for one in (explanation.standard_error, explanation.values)]
    sums = sample.sums(np.column_stack(squares))
    ratio = stats.mean(sums[:, 0], sums[:, 1], level=sample.level)
    if ratio.value is None:
        reason = _masked.ALL_ERRORED if errored == len(rows) else "every attribution is 0"
        nothing = stats.Estimate(None, None, None, ratio.method, None, reason)
        return _masked.noted(query, [*found, _error(nothing, len(rows), errored)])
    squared = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    roots = stats.statistic(np.sqrt(squared), level=sample.level, bounds=(0, None), num=len(rows) - errored)
    return _masked.noted(query, [*found, _error(roots, len(rows), errored)])


def _error(estimate: stats.Estimate, attempted: int, errored: int) -> Measurement:
    return measured(
        estimate, "attribution_error", unit="fraction", better="lower", attempted=attempted, errored=errored
    )
