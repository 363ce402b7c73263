"""Whether what an explanation names first is what moves the answer when it is lost."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.probes.transparency import _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Array, Column, Measurement, Task, modality

_NUM_RANDOM = 2  # random orders; each serves forwards and backwards
_CHUNK = 1 << 24  # numbers in one batch of inputs


def _cost(sizes: Sizes) -> dict[str, int]:
    num_baselines = 1 + min(_masked.BUDGETS[sizes.modality].baselines, _masked.background_rows(sizes))
    curves = _masked.explained_rows(sizes) * (2 + _NUM_RANDOM) * num_baselines * 2 * (sizes.num_units - 1)
    ends = 0 if sizes.modality == "text" else num_baselines  # the empty text was asked by the masked passes
    return {"masked": _masked.pass_rows(sizes), "deletion and insertion": curves + ends}


@probe("transparency", tasks=("classification", "regression"), cost=_cost)
def explanation_faithfulness(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """How much more the answer moves when units go in the order of their attributions than at random.

    Definition: units (columns, patches, words) in falling order of attribution; insertion curve = output with the
    first k kept, deletion curve = output with the first k gone, the rest at a baseline; area = trapezoid over k/U.
    insertion_gain = insertion area - random area; deletion_gain = random area - deletion area; faithfulness_gain =
    their mean, per row, so the random area cancels.
    Shapes: the explained rows of shapley_attributions (U units); baselines: the mean row and 3 background rows, the
    mean picture and 2 others, or the empty text; 2 random orders and their reverses.
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
    values, weights = _masked.attributions(masked, is_unused).values, _masked.local_weights(masked, is_unused)
    rng = query.rng("faithfulness")
    ranks = [np.argsort(np.argsort(-one, axis=1, kind="stable"), axis=1) for one in (values, weights)]
    ranks += [rng.random(values.shape).argsort(axis=1) for _ in range(_NUM_RANDOM)]
    areas = _areas(query, _baselines(query, rng), np.stack(ranks, axis=1), target=_masked.targets(query, task))
    gains, names = _gains(areas)
    is_usable = _masked.finite(values, gains)
    bounds = (-1, 1) if task.classes else (None, None)
    estimates = _masked.row_means(draws.of(rows), gains, is_usable, bounds=bounds)
    return [
        measured(
            estimate, metric, unit=_masked.unit(task), better="higher", slice=slice_, attempted=len(rows),
            errored=int((~is_usable).sum()), headline=metric == "faithfulness_gain" and not slice_,
        )
        for (metric, slice_), estimate in zip(names, estimates, strict=True)
    ]  # fmt: skip


def _baselines(query: Query, rng: np.random.Generator) -> Array:
    """`(Z, ...)`: the mean row and a few background rows; for texts the empty one."""
    if modality(query.columns) == "text":
        return query.background
    chosen = rng.permutation(len(query.background))[: _masked.budget_of(query).baselines]
    return np.concatenate([mean_row(query.background, query.columns)[None], query.background[chosen]])


def mean_row(background: Array, columns: tuple[Column, ...]) -> Array:
    """The mean of each numeric column or pixel (whole numbers), and the most frequent category of the others."""
    result = background.astype(np.float64).mean(axis=0)
    if modality(columns) == "image":
        return np.asarray(np.round(result), dtype=background.dtype)
    for place, column in enumerate(columns):
        if column.kind == "categorical":
            found, times = np.unique(background[:, place], return_counts=True)
            result[place] = found[times.argmax()]
    return np.asarray(result, dtype=np.float32)


def _areas(query: Query, baselines: Array, ranks: Array, *, target: Array) -> Array:
    """Areas `(R, Q, Z, 2)` under the insertion and deletion curves, for ranks `(R, Q, U)` and baselines `(Z, ...)`."""
    rows = query.inputs[_masked.sample(query)]
    num_rows, orders, num_units = ranks.shape
    first = ranks[:, :, None, None, :] < np.arange(1, num_units)[:, None]
    masks = np.concatenate([first, ~first], axis=3)
    pairs, steps = orders * len(baselines), 2 * (num_units - 1)  # an order and a baseline stand in for one block
    masks = np.broadcast_to(masks, (num_rows, orders, len(baselines), steps, num_units))
    masks = masks.reshape(num_rows, pairs, steps, num_units)
    others = np.concatenate([baselines] * orders)
    outputs = np.zeros((num_rows, orders, len(baselines), steps))
    step = max(1, _CHUNK // max(1, pairs * steps * max(num_units, rows[:1].size)))
    for start in range(0, num_rows if num_units > 1 else 0, step):
        part = slice(start, start + step)
        own = masks[part]
        inputs = query.ground.units.mix(rows[part], own, np.broadcast_to(others, (len(own), *others.shape)))
        found = query.probabilities(inputs).reshape(len(own), pairs * steps, -1)
        outputs[part] = np.take_along_axis(found, target[part, None, None], axis=2).reshape(-1, *outputs.shape[1:])
    full = query.probabilities(rows)[np.arange(num_rows), target][:, None, None]
    empty = query.probabilities(baselines)[:, target].T[:, None, :]
    ends = (full + empty) / 2  # the trapezoid counts both ends half
    kept, gone = outputs[..., : num_units - 1].sum(axis=3), outputs[..., num_units - 1 :].sum(axis=3)
    areas: Array = np.stack([kept + ends, gone + ends], axis=3) / num_units
    return areas


def _gains(areas: Array) -> tuple[Array, list[tuple[str, str]]]:
    """Per-row gains `(R, P)` and the metric and slice of each. Orders are Shapley, LIME, then random ones."""
    # A random order read backwards swaps its two curves, so their mean is the area of both.
    chance = areas[:, 2:].mean(axis=(1, 3))
    columns, names, num = [], [], areas.shape[2]
    shares = {"": np.ones(1)}  # the empty text is the only baseline of texts
    if num > 1:
        mean, others = np.eye(num)[0], np.where(np.arange(num) > 0, 1 / (num - 1), 0.0)
        shares = {"baseline=mean": mean, "baseline=background": others, "": (mean + others) / 2}
    for slice_, share in shares.items():
        for order, prefix in ((0, ""), (1, "lime_")):
            insertion = (areas[:, order, :, 0] - chance) @ share
            deletion = (chance - areas[:, order, :, 1]) @ share
            columns += [insertion, deletion, (insertion + deletion) / 2]
            names += [(prefix + name, slice_) for name in ("insertion_gain", "deletion_gain", "faithfulness_gain")]
    return np.stack(columns, axis=1), names
