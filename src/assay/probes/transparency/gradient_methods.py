"""What other explanations by gradients say, GradientSHAP and input times gradient, and how good they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.access.handles import Query
from assay.explain.gradients import Objective, gradient_shap, input_times_gradient
from assay.probes.transparency import _curves, _gradients, _masked, _units
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Array, Measurement, Task

METHODS = ("gradient_shap", "input_times_gradient")
NUM_POINTS = 50  # of GradientSHAP: as many as integrated gradients has, so that the two cost the same


def _cost(sizes: Sizes) -> dict[str, int]:
    num_rows = _gradients.num_rows(sizes)
    curves = _curves.curve_rows(sizes, num_rows=num_rows, num_orders=len(METHODS))
    again = num_rows if num_rows < _masked.explained_rows(sizes) else 0  # the rows themselves, in a batch of their own
    return {
        "masked": _masked.pass_rows(sizes),
        "gradients of other methods": num_rows * (NUM_POINTS + 1),
        "deletion and insertion by other gradients": curves + again,
        **_masked.screening(sizes),
    }


@probe("transparency", tasks=("classification", "regression"), cost=_cost, deep=True)
def gradient_methods(gradient: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Mean size of GradientSHAP and of input times gradient of each column, patch or word, with two checks of each.

    Definition: gradient_shap: phi = mean over 50 random pairs of a start b and a place a of (x - b) times the gradient
    of the explained output at b + a (x - b); input_times_gradient: phi = (x - b) times the gradient at x, b the start
    of gradient_attributions. gradient_shap_attribution, input_times_gradient_attribution = mean |phi_i|; and, with
    `method=` in the slice, gradient_faithfulness_gain (and insertion, deletion) and gradient_shapley_agreement.
    Shapes: the explained rows of gradient_attributions. Starts of GradientSHAP are all background rows, or, for texts,
    zero vectors; a category has no way from one to another where the model hides its encoding, and phi 0 there.
    Direction: attribution neither, in probability or the target's unit; gains and agreement higher.
    Limits: 50 points leave noise in GradientSHAP, which reads as size; input times gradient sees one point alone, and
    is blind where the answer no longer rises there. Errored rows are left out of sums and stay in the denominator.
    Source: Erion et al. 2021, section 2.2 (expected gradients); Shrikumar et al. 2016, section 2.

    >>> from assay.registry import PROBES
    >>> PROBES["gradient_methods"].deep
    True
    """
    rows, places = _gradients.sample(gradient), _gradients.among_masked(gradient)
    masked, is_unused = _masked.passes(gradient, task), _masked.unused(gradient)
    shapley, by_method = _masked.attributions(masked, is_unused).values, _by_method(gradient, task)
    gains, names = _gains(gradient, task, by_method)
    is_usable, sample = _masked.finite(*by_method, gains, shapley[places]), draws.of(rows)
    told, found = _units.told(gradient, shapley).of(places), []
    about: dict[str, Any] = {"attempted": len(rows), "errored": int((~is_usable).sum())}
    for method, values in zip(METHODS, by_method, strict=True):
        found += _units.means(told, values, is_usable, draws=sample, task=task, metric=f"{method}_attribution")
        alike = _masked.rank_correlation(values, shapley[places], is_unused[places])
        agrees = _masked.agreement(sample, alike, is_usable, bounds=(-1, 1), undefined="all attributions are equal")
        named = {"unit": "rank correlation", "slice": f"method={method}", **about}
        found.append(measured(agrees, "gradient_shapley_agreement", better="higher", **named))
    gained = _masked.row_means(sample, np.nan_to_num(gains), is_usable, bounds=_masked.bounds(task))
    for one, (metric, slice_) in zip(gained, names, strict=True):
        found.append(measured(one, metric, unit=_masked.unit(task), better="higher", slice=slice_, **about))
    return _masked.noted(gradient, found)


def _by_method(gradient: Query, task: Task) -> list[Array]:
    """Attributions `(R, U)` of each method."""
    inputs, rng = gradient.inputs[_gradients.sample(gradient)], gradient.rng("gradient methods")

    def drawn(entry: _gradients.Entry, objective: Objective) -> Array:
        starts = _starts(gradient, entry)
        return gradient_shap(entry.pull, entry.rows, starts, objective, num_points=NUM_POINTS, rng=rng)

    def at_the_row(entry: _gradients.Entry, objective: Objective) -> Array:
        return input_times_gradient(entry.pull, entry.rows, entry.starts, objective)

    return [_gradients.attributions(gradient, task, inputs, explainer=one) for one in (drawn, at_the_row)]


def _starts(gradient: Query, entry: _gradients.Entry) -> Array:
    """Starts of lines where the model is entered: `(B, ...)` of all rows, or `(R, B, F)` where each has its own."""
    kind = gradient.system.data.modality
    if kind == "text":
        return entry.starts
    if kind == "image":
        return gradient.background.astype(np.float32)
    if gradient.can_embed:
        return gradient.embedded(gradient.background).vectors
    own: Array = np.where(gradient.numeric, gradient.background[None], entry.rows[:, None])
    return own.astype(np.float32)


def _gains(gradient: Query, task: Task, by_method: list[Array]) -> tuple[Array, list[tuple[str, str]]]:
    """What each row gains `(R, P)` from the order of each method's values, and the metric and slice of each."""
    rng = gradient.rng("gradient faithfulness")  # the baselines and random orders of gradient_attributions
    ranks, inputs = _curves.orders(by_method, rng), gradient.inputs[_gradients.sample(gradient)]
    baselines, target = _curves.baselines(gradient, rng, len(inputs)), _gradients.targets(gradient, task)
    areas = _curves.areas(gradient, inputs, baselines, ranks=ranks, target=target)
    gains, names = _curves.gains(areas, METHODS)
    told = []
    for name, slice_ in names:
        method = next(one for one in METHODS if name.startswith(one))
        where = f"method={method} & {slice_}" if slice_ else f"method={method}"
        told.append((f"gradient_{name.removeprefix(method)}", where))
    return gains, told
