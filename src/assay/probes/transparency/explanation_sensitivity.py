"""The most that an explanation by masking changes when the row hardly does."""

from __future__ import annotations

from assay.access.handles import Query
from assay.probes.transparency import _masked
from assay.probes.transparency._jitter import jittered
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Array, Measurement, Task

NUM_MOVES = {"table": 10, "image": 3, "text": 3}


def _cost(sizes: Sizes) -> dict[str, int]:
    moves = NUM_MOVES[sizes.modality] * (_masked.mask_rows(sizes) + _masked.explained_rows(sizes))
    return {"masked": _masked.pass_rows(sizes), "masked after many jitters": moves, **_masked.screening(sizes)}


@probe("transparency", tasks=("classification", "regression"), cost=_cost, deep=True)
def explanation_sensitivity(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Largest relative change of the Shapley values and LIME weights of a row among some rows within noise of it.

    Definition: max_sensitivity = mean over rows of max over moves k of |phi(x_k) - phi(x)| / |phi(x)|, under the same
    coalitions; lime_max_sensitivity the same for LIME weights; x_k = x moved as in explanation_stability, by
    independent noise.
    Shapes: the explained rows of shapley_attributions (U units); 10 moves a table row, 3 a picture or text.
    Direction: lower, a fraction of the explanation's length; 0 = none changes.
    Limits: a maximum over so few moves is below the maximum over all of them, by an unknown amount. A constant
    explanation has 0 and is useless. Rows whose explanation is all 0 are left out.
    Source: Yeh et al. 2019, section 4, definition 4.1 (max-sensitivity, by Monte Carlo).

    >>> from assay.registry import PROBES
    >>> PROBES["explanation_sensitivity"].deep
    True
    """
    rows, is_unused = _masked.sample(query), _masked.unused(query)

    def both(inputs: Array | None = None) -> tuple[Array, Array]:
        masked = _masked.passes(query, task, inputs=inputs)
        return _masked.attributions(masked, is_unused).values, _masked.local_weights(masked, is_unused)

    first = both()
    moves = range(NUM_MOVES[query.system.data.modality])
    moved = [both(jittered(query, rows, f"jitter {move}")) for move in moves]
    found = []
    for place, metric in enumerate(("max_sensitivity", "lime_max_sensitivity")):
        change = _masked.largest_change(first[place], [one[place] for one in moved])
        is_usable = _masked.finite(first[place], *(one[place] for one in moved))
        mean = _masked.agreement(
            draws.of(rows), change, is_usable, bounds=(0, None), undefined="the explanation is all 0"
        )
        errored = int((~is_usable).sum())
        found.append(measured(mean, metric, unit="fraction", better="lower", attempted=len(rows), errored=errored))
    return _masked.noted(query, found)
