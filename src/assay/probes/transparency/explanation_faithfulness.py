"""Whether what an explanation names first is what moves the answer when it is lost."""

from __future__ import annotations

from assay.access.handles import Query
from assay.probes.transparency import _curves, _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Measurement, Task


def _cost(sizes: Sizes) -> dict[str, int]:
    curves = _curves.curve_rows(sizes, num_rows=_masked.explained_rows(sizes), num_orders=2)
    return {"masked": _masked.pass_rows(sizes), "deletion and insertion": curves, **_masked.screening(sizes)}


@probe("transparency", tasks=("classification", "regression"), cost=_cost)
def explanation_faithfulness(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """How much more the answer moves when units go in the order of their attributions than at random.

    Definition: units (columns, patches, words) in falling order of attribution; insertion curve = output with the
    first k kept, deletion curve = output with the first k gone, the rest at a baseline; area = trapezoid over k/U.
    insertion_gain = insertion area - random area; deletion_gain = random area - deletion area; faithfulness_gain =
    their mean, per row, so the random area cancels.
    Shapes: the explained rows of shapley_attributions (U units); baselines: the mean row and 3 background rows of
    each row's own, the mean picture and 2 others, or the empty text; 2 random orders and their reverses.
    Direction: higher, in probability (or the target's unit); 0 is what a random order gives.
    Limits: partly replaced rows leave the data; baselines disagree, so both are shown (`baseline=mean|background`).
    A nearly constant model leaves nothing to gain: compare with attributions. Tests the order, not the sizes.
    Source: Petsiuk, Das and Saenko 2018 (RISE), section 4.2; Samek et al. 2017, section III.

    >>> from assay.registry import PROBES
    >>> PROBES["explanation_faithfulness"].family
    'transparency'
    """
    rows, is_unused = _masked.sample(query), _masked.unused(query)
    masked = _masked.passes(query, task)
    values, weights = _masked.attributions(masked, is_unused).values, _masked.lime_weights(query, task, is_unused)
    rng = query.rng("faithfulness")
    ranks = _curves.orders([values, weights], rng)
    areas = _curves.areas(
        query,
        query.inputs[rows],
        _curves.baselines(query, rng, len(rows)),
        ranks=ranks,
        target=_masked.targets(query, task),
    )
    gains, names = _curves.gains(areas)
    is_usable = _masked.finite(values, gains)
    bounds = (-1, 1) if task.classes else (None, None)
    estimates = _masked.row_means(draws.of(rows), gains, is_usable, bounds=bounds)
    found = [
        measured(
            estimate, metric, unit=_masked.unit(task), better="higher", slice=slice_, attempted=len(rows),
            errored=int((~is_usable).sum()), headline=metric == "faithfulness_gain" and not slice_,
        )
        for (metric, slice_), estimate in zip(names, estimates, strict=True)
    ]  # fmt: skip
    return _masked.noted(query, found)
