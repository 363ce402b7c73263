"""Whether a person who asks twice, or differs by noise, is given the same explanation."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.probes.transparency import _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.units import pixels, typos
from assay.values import Array, Measurement, Task, modality

_JITTER = 0.05  # of the interquartile range
_PIXEL_JITTER = 0.02  # of the range
_TOP = 3


def _cost(sizes: Sizes) -> dict[str, int]:
    masked, num_rows = _masked.mask_rows(sizes), _masked.explained_rows(sizes)
    return {"masked": _masked.pass_rows(sizes), "masked again": masked, "masked after jitter": masked + num_rows}


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
    return [
        one("explanation_stability", _masked.cosine(values, moved), "cosine"),
        one("explanation_repeatability", _masked.cosine(values, again), "cosine"),
        one("top_units_kept", kept, "fraction"),
    ]


def jittered(query: Query, rows: Array) -> Array:
    """The test rows with a little noise: on numeric columns (by the background's quartiles), pixels, or one word."""
    (first, *_), kind = query.columns, modality(query.columns)
    if kind == "image":
        known = (float(query.low.item()), float(query.high.item()))
        return pixels.noisy(query.inputs[rows], _PIXEL_JITTER, known, query.rng("jitter"))
    if kind == "text":
        return typos.slipped_once(query.inputs[rows], language=first.language, rng=query.rng("jitter"))
    return _moved(query, rows)


def _moved(query: Query, rows: Array) -> Array:
    inputs = query.inputs[rows].astype(np.float64)
    background = query.background
    noise = query.rng("jitter").standard_normal(inputs.shape)
    for place, column in enumerate(query.columns):
        if column.kind != "numeric":
            continue
        low, high = np.nanquantile(background[:, place], [0.25, 0.75])
        moved = inputs[:, place] + _JITTER * (high - low) * noise[:, place]
        if (background[:, place] == np.round(background[:, place])).all():
            moved = np.round(moved)
        # A value that is already outside the plausible range is an honest one: it bounds its own noise.
        low_end = np.minimum(inputs[:, place], -np.inf if column.low is None else column.low)
        high_end = np.maximum(inputs[:, place], np.inf if column.high is None else column.high)
        inputs[:, place] = np.clip(moved, low_end, high_end)
    return inputs.astype(np.float32)
