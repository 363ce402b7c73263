"""A second reading of the same masked passes: local linear weights, and whether they tell the same story."""

from __future__ import annotations

import numpy as np

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
def lime_attributions(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Mean size of each column's LIME weight over a sample of test rows, and its agreement with Shapley values.

    Definition: weights w minimise sum_S pi(S) (f(S) - w0_z - sum_{i in S} w_i)^2 + |w|^2, pi(S) = exp(-(share
    masked / 0.75)^2), one intercept per background row z; lime_weight_i = mean |w_i|; lime_shapley_agreement = mean
    over rows of Spearman's correlation between w and the Shapley values, signs kept.
    Shapes: 64 test rows explained (F columns); one measurement per column, slice `feature=<name>`.
    Direction: lime_weight neither, in probability (or the target's unit); agreement higher, -1 to 1.
    Limits: masks take another row's values instead of LIME's draws around quartile bins, so numbers differ from the
    lime package's; agreement of two methods on the same passes does not make either right; ranks of near-zero
    columns are noise and lower it.
    Source: Ribeiro, Singh and Guestrin 2016, section 3.4; kernel width and ridge as in lime 0.2.0.1.

    >>> from assay.registry import PROBES
    >>> sorted(PROBES["lime_attributions"].access)
    ['query']
    """
    rows = query.rows(_masked.NUM_ROWS)
    masked = _masked.passes(query, task)
    weights, values = _masked.local_weights(masked), shapley(masked).values
    is_usable = _masked.finite(values, weights)
    errored = int((~is_usable).sum())
    sample = draws.of(rows)
    found = [
        measured(
            estimate, "lime_weight", unit=_masked.unit(task), better="neither", slice=f"feature={column.name}",
            attempted=len(rows), errored=errored,
        )
        for column, estimate in zip(
            query.columns, _masked.row_means(sample, np.abs(weights), is_usable, bounds=(0, None)), strict=True
        )
    ]  # fmt: skip
    alike = _masked.rank_correlation(weights, values)
    agrees = _masked.agreement(sample, alike, is_usable, bounds=(-1, 1), undefined="all attributions are equal")
    return [
        *found,
        measured(
            agrees, "lime_shapley_agreement", unit="rank correlation", better="higher",
            attempted=len(rows), errored=errored,
        ),
    ]  # fmt: skip
