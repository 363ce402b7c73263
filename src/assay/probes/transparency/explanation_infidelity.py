"""How much of what happens when units are lost an explanation did not foresee."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.probes.transparency import _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Measurement, Task


def _cost(sizes: Sizes) -> dict[str, int]:
    again = {"masked again": _masked.mask_rows(sizes)}
    return {"masked": _masked.pass_rows(sizes), **again, **_masked.screening(sizes)}


@probe("transparency", tasks=("classification", "regression"), cost=_cost)
def explanation_infidelity(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Share of the answers' changes, when units are replaced, that the sum of their attributions does not foresee.

    Definition: with S a random set of units and z a background row, change = f(x) - f(x with S from z); infidelity =
    sum over rows of mean (change - sum_{i in S} phi_i)^2 / sum over rows of mean change^2, for Shapley values
    (infidelity) and LIME weights (lime_infidelity).
    Shapes: the explained rows of shapley_attributions (U units); S and z are drawn anew ("masked again"), not those
    that phi was computed from.
    Direction: lower, a fraction; 0 = every change foreseen, 1 = no better than an explanation of zeros.
    Limits: an additive explanation cannot foresee interactions, nor which background row is drawn: a good one is not 0
    where the model is not additive. Sets of all sizes count alike. Compare explanations of one system.
    Source: Yeh et al. 2019, section 3, definition 2.1 with the noisy baseline of section 3.1, over the mean square.

    >>> from assay.registry import PROBES
    >>> PROBES["explanation_infidelity"].needs
    ('query', 'task', 'draws')
    """
    rows, is_unused = _masked.sample(query), _masked.unused(query)
    masked, again = _masked.passes(query, task), _masked.passes(query, task, name="masked again")
    values, weights = _masked.attributions(masked, is_unused).values, _masked.lime_weights(query, task, is_unused)
    places = np.arange(len(rows))
    found = []
    for metric, one in (("infidelity", values), ("lime_infidelity", weights)):
        missed, moved = _masked.infidelity(again, one, places)
        is_usable = _masked.finite(one, missed if again.outputs.size else masked.full)
        share = _masked.share(draws.of(rows), missed, moved, is_usable, nothing="no masked answer differs")
        found.append(
            measured(
                share, metric, unit="fraction", better="lower", attempted=len(rows), errored=int((~is_usable).sum())
            )
        )
    return _masked.noted(query, found)
