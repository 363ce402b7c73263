"""A second reading of the same masked passes: local linear weights, and whether they tell the same story."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.access.handles import Query
from assay.probes.transparency import _masked, _units
from assay.registry import probe
from assay.stats import Draws, measured
from assay.values import Array, Measurement, Task

NOISE = "not told from the noise of drawing coalitions"


@probe(
    "transparency",
    tasks=("classification", "regression"),
    cost=lambda sizes: {"masked": _masked.pass_rows(sizes), **_masked.screening(sizes)},
)
def lime_attributions(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Mean size of the LIME weight of each column, patch or word over test rows, and its agreement with Shapley values.

    Definition: weights w minimise sum_S pi(S) (f(S) - w0_z - sum_{i in S} w_i)^2 + |w|^2, pi(S) = exp(-(share
    masked / 0.75)^2), one intercept per background row z; lime_weight_i = mean |w_i|; lime_shapley_agreement = mean
    over rows of Spearman's correlation between w and the Shapley values, signs kept, units that a row lacks left out.
    Shapes: the rows, units and slices of shapley_attributions, and of texts its choice of words.
    Direction: lime_weight neither, in probability (or the target's unit); agreement higher, -1 to 1.
    Limits: sampling noise adds to a mean of absolute values: on Adult a column that the model never reads came out at
    0.010, as large as race. Where the two halves of the blocks do not agree on a size above 0, the interval begins at
    0 and says why. Masks take another row's values instead of LIME's draws around quartile bins (tables) or grey
    (pictures), and one kernel serves all modalities, so numbers differ from the lime package's; agreement of two
    methods on the same passes does not make either right; ranks of near-zero units are noise and lower it.
    Source: Ribeiro, Singh and Guestrin 2016, section 3.4; kernel width and ridge as in lime 0.2.0.1.

    >>> from assay.registry import PROBES
    >>> sorted(PROBES["lime_attributions"].access)
    ['query']
    """
    rows = _masked.sample(query)
    masked, is_unused = _masked.passes(query, task), _masked.unused(query)
    weights, *halves = _masked.lime_thrice(query, task, is_unused)
    values = _masked.attributions(masked, is_unused).values
    is_usable = _masked.finite(values, weights)
    sample, told = draws.of(rows), _units.told(query, values)
    found = _units.means(told, weights, is_usable, draws=sample, task=task, metric="lime_weight")
    if masked.source.shape[1] > 1:  # one block alone holds every coalition: nothing was sampled
        agreed = _units.crossed(np.stack(halves), told.share)
        sums = sample.sums(np.where(told.member & is_usable[:, None], agreed, 0.0))
        found = [_beside_noise(one, sums[:, place], sample.level) for place, one in enumerate(found)]
    alike = _masked.rank_correlation(weights, values, is_unused)
    agrees = _masked.agreement(sample, alike, is_usable, bounds=(-1, 1), undefined="all attributions are equal")
    alike_mean = measured(
        agrees, "lime_shapley_agreement", unit="rank correlation", better="higher",
        attempted=len(rows), errored=int((~is_usable).sum()),
    )  # fmt: skip
    return _masked.noted(query, [*found, alike_mean])


def _beside_noise(size: Measurement, agreed: Array, level: float) -> Measurement:
    """A mean size, with 0 in its interval where what two halves of the blocks agree on `(1 + B,)` may be nothing."""
    if size.value is None or size.low is None or np.quantile(agreed[1:], (1 - level) / 2) > 0:
        return size
    return replace(size, low=0.0, reason="; ".join(one for one in (size.reason, NOISE) if one))
