"""What gradients say moves the answers, and how well that says it: sums, order, sizes."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.probes.transparency import _curves, _gradients, _masked, _units
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate, measured
from assay.values import Array, Better, Measurement, Task


def _cost(sizes: Sizes) -> dict[str, int]:
    num_rows = _gradients.num_rows(sizes)
    curves = _curves.curve_rows(sizes, num_rows=num_rows, num_orders=1)
    again = num_rows if num_rows < _masked.explained_rows(sizes) else 0  # the rows themselves, in a batch of their own
    return {
        "masked": _masked.pass_rows(sizes),
        _gradients.PASSES: _gradients.pull_rows(sizes),
        "deletion and insertion by gradients": curves + again,
        **_masked.screening(sizes),
    }


@probe("transparency", tasks=("classification", "regression"), cost=_cost)
def gradient_attributions(gradient: Query, task: Task, draws: Draws) -> list[Measurement]:
    """Mean size of integrated gradients of each column, patch or word, with four checks of them.

    Definition: phi = (x - b) times the mean gradient of the explained output on the line from b to x (Gauss-Legendre,
    50 points), summed over what a unit holds; gradient_attribution = mean |phi_i|; completeness_gap = sum over rows of
    |sum_i phi_i - (f(x) - f(b))| / sum |f(x) - f(b)|; gradient_faithfulness_gain (and insertion, deletion) as in
    explanation_faithfulness; gradient_infidelity = mean of (change - what phi says of it)^2 / mean change^2 over the
    masked passes; gradient_shapley_agreement = mean Spearman correlation of phi and the Shapley values.
    Shapes: 32 table rows, 16 pictures or texts, of those that shapley_attributions explains. b is the mean encoding of
    the background (categories are shares; a model that hides its encoding is explained in its numeric columns alone),
    the mean picture, or zero vectors in place of words.
    Direction: attribution neither, in probability or the target's unit; completeness_gap and infidelity lower (1 = no
    better than no explanation); gains and agreement higher.
    Limits: points on the line may be impossible inputs; another b is another explanation. Where gradients vanish and
    the answer still jumps, completeness_gap is near 1. Infidelity holds what a random background row adds, which no
    explanation foresees. Errored rows are left out of sums and stay in the denominator.
    Source: Sundararajan, Taly and Yan 2017, section 3; Yeh et al. 2019, section 3 (noisy baseline); Petsiuk, Das and
    Saenko 2018, section 4.2.

    >>> from assay.registry import PROBES
    >>> PROBES["gradient_attributions"].needs
    ('gradient', 'task', 'draws')
    """
    rows, places = _gradients.sample(gradient), _gradients.among_masked(gradient)
    found, masked = _gradients.explained(gradient, task), _masked.passes(gradient, task)
    is_unused, sample = _masked.unused(gradient), draws.of(rows)
    shapley = _masked.attributions(masked, is_unused).values
    gains, names = _gains(gradient, task, found.values)
    is_usable = _masked.finite(found.values, found.change, gains, shapley[places])
    told = _units.told(gradient, shapley).of(places)
    sizes = _units.means(told, found.values, is_usable, draws=sample, task=task, metric="gradient_attribution")
    gap = np.abs(found.total - found.change), np.abs(found.change)
    unforeseen = _masked.infidelity(masked, found.values, places)
    alike, bounds = _masked.rank_correlation(found.values, shapley[places], is_unused[places]), _masked.bounds(task)
    agrees = _masked.agreement(sample, alike, is_usable, bounds=(-1, 1), undefined="all attributions are equal")
    gained = _masked.row_means(sample, np.nan_to_num(gains), is_usable, bounds=bounds)
    fits = _masked.share(sample, *gap, is_usable, nothing="no answer moves from b")
    foreseen = _masked.share(sample, *unforeseen, is_usable, nothing="no masked answer differs")
    told_apart: list[tuple[Estimate, str, str, str, Better]] = [
        (fits, "completeness_gap", "", "fraction", "lower"),
        (foreseen, "gradient_infidelity", "", "fraction", "lower"),
        (agrees, "gradient_shapley_agreement", "", "rank correlation", "higher"),
        *((one, *name, _masked.unit(task), "higher") for one, name in zip(gained, names, strict=True)),
    ]
    errored = int((~is_usable).sum())
    sizes += [
        measured(one, metric, unit=unit, better=better, slice=slice_, attempted=len(rows), errored=errored)
        for one, metric, slice_, unit, better in told_apart
    ]
    return _masked.noted(gradient, sizes)


def _gains(gradient: Query, task: Task, values: Array) -> tuple[Array, list[tuple[str, str]]]:
    """What each row gains `(R, P)` from the order of its values, and the metric and slice of each."""
    rng = gradient.rng("gradient faithfulness")
    ranks, inputs = _curves.orders([values], rng), gradient.inputs[_gradients.sample(gradient)]
    baselines, target = _curves.baselines(gradient, rng, len(inputs)), _gradients.targets(gradient, task)
    return _curves.gains(_curves.areas(gradient, inputs, baselines, ranks=ranks, target=target), ("gradient_",))
