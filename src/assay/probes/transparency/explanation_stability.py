"""Whether a person who asks twice, or differs by noise, is given the same explanation."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.probes.transparency import _masked
from assay.probes.transparency._jitter import jittered
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Array, Measurement, Task

_TOP = 3


def _cost(sizes: Sizes) -> dict[str, int]:
    masked, num_rows = _masked.mask_rows(sizes), _masked.explained_rows(sizes)
    again = {"masked again": masked, "masked after jitter": masked + num_rows}
    return {"masked": _masked.pass_rows(sizes), **again, **_masked.screening(sizes)}


@probe("transparency", tasks=("classification", "regression"), cost=_cost)
def explanation_stability(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """How alike the explanations of a row are: for a row within noise of it, and for other coalitions.

    Definition: explanation_stability = mean over rows of cos(phi(x), phi(x')) under the same coalitions, x' = x with
    each numeric column moved by normal noise of 0.05 interquartile ranges (integers stay integers, within the plausible
    range), or each pixel by 0.02 of the range, or one word mistyped (in Chinese two neighbouring characters swapped);
    explanation_repeatability = the same cosine for x itself under another draw of coalitions and background rows;
    top_units_kept = share of the 3 largest attributions that x and x' share.
    Shapes: 64 table rows or texts, 48 pictures, of U units. Two zero explanations agree (1), a zero and another do not
    (0); a text without a word of four letters is its own x'.
    Direction: higher, -1 to 1 (top_units_kept 0 to 1).
    Limits: local, at one noise size; categories are not moved; a stable explanation may be stably wrong.
    Repeatability is that of 25 background rows a row (pictures 10, texts 8 orders): it rises with the budget and bounds
    how stability is read.
    Source: Alvarez-Melis and Jaakkola 2018, section 3; Yeh et al. 2019 (max-sensitivity), section 4.

    >>> from assay.registry import PROBES
    >>> PROBES["explanation_stability"].tasks
    ('classification', 'regression')
    """
    rows, is_unused = _masked.sample(query), _masked.unused(query)
    values, again, moved = (
        _masked.attributions(one, is_unused).values
        for one in (
            _masked.passes(query, task),
            _masked.passes(query, task, name="masked again"),
            _masked.passes(query, task, inputs=jittered(query, rows)),
        )
    )
    is_usable = _masked.finite(values, again, moved)
    attempted, errored = len(rows), int((~is_usable).sum())
    sample = draws.of(rows)
    values, again, moved = (np.nan_to_num(one) for one in (values, again, moved))

    def one(metric: str, alike: Array, unit: str) -> Measurement:
        bounds = (0 if unit == "fraction" else -1, 1)
        return measured(
            _masked.agreement(sample, alike, is_usable, bounds=bounds, undefined="one unit only"), metric,
            unit=unit, better="higher", attempted=attempted, errored=errored,
            headline=metric == "explanation_stability",
        )  # fmt: skip

    num = min(_TOP, values.shape[1] - 1)
    kept = _masked.top_overlap(values, moved, num=num) if num else np.full(attempted, np.nan)
    found = [
        one("explanation_stability", _masked.cosine(values, moved), "cosine"),
        one("explanation_repeatability", _masked.cosine(values, again), "cosine"),
        one("top_units_kept", kept, "fraction"),
    ]
    return _masked.noted(query, found)
