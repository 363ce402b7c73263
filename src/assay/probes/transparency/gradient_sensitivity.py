"""The most that integrated gradients change when the row hardly does."""

from __future__ import annotations

from assay.access.handles import Query
from assay.probes.transparency import _gradients, _masked
from assay.probes.transparency._jitter import jittered
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Measurement, Task

NUM_MOVES = {"table": 10, "image": 3, "text": 3}


def _cost(sizes: Sizes) -> dict[str, int]:
    moves = NUM_MOVES[sizes.modality] * _gradients.num_rows(sizes) * _gradients.NUM_STEPS
    asked = _masked.target_rows(sizes)
    again = {"gradients after jitter": moves, "explained rows": asked}
    return {_gradients.PASSES: _gradients.pull_rows(sizes), **again, **_masked.screening(sizes)}


@probe("transparency", tasks=("classification", "regression"), cost=_cost)
def gradient_sensitivity(gradient: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Largest relative change of the integrated gradients of a row among some rows within noise of it.

    Definition: gradient_max_sensitivity = mean over rows of max over moves k of |phi(x_k) - phi(x)| / |phi(x)|, phi
    by unit and from the same start; x_k = x moved as in explanation_stability, by independent noise.
    Shapes: the explained rows of gradient_attributions (U units); 10 moves a table row, 3 a picture or text.
    Direction: lower, a fraction of the explanation's length; 0 = none changes.
    Limits: a maximum over so few moves is below the maximum over all of them, by an unknown amount. A constant
    explanation has 0 and is useless. Rows whose explanation is all 0 are left out.
    Source: Yeh et al. 2019, section 4, definition 4.1 (max-sensitivity, by Monte Carlo).

    >>> from assay.registry import PROBES
    >>> PROBES["gradient_sensitivity"].needs
    ('gradient', 'task', 'draws')
    """
    rows = _gradients.sample(gradient)
    first = _gradients.explained(gradient, task)
    moves = range(NUM_MOVES[gradient.system.data.modality])
    moved = [_gradients.attributions(gradient, task, jittered(gradient, rows, f"jitter {move}")) for move in moves]
    is_usable = _masked.finite(first.values, first.change, *moved)
    change = _masked.largest_change(first.values, moved)
    mean = _masked.agreement(draws.of(rows), change, is_usable, bounds=(0, None), undefined="the explanation is all 0")
    errored = int((~is_usable).sum())
    found = measured(
        mean, "gradient_max_sensitivity", unit="fraction", better="lower", attempted=len(rows), errored=errored
    )
    return _masked.noted(gradient, [found])
