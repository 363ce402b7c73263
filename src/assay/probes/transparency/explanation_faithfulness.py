"""Whether the columns an explanation names first are those whose loss moves the answer."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.explain import shapley
from assay.probes.transparency import _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Array, Column, Measurement, Task

_NUM_BACKGROUND = 3  # background rows used as baselines, beside the mean row
_NUM_RANDOM = 2  # random orders; each serves forwards and backwards
_CHUNK = 1 << 24  # numbers in one batch of inputs


def _cost(sizes: Sizes) -> dict[str, int]:
    baselines = 1 + min(_NUM_BACKGROUND, _masked.background_rows(sizes))
    curves = _masked.explained_rows(sizes) * (2 + _NUM_RANDOM) * baselines * 2 * (sizes.num_units - 1)
    return {"masked": _masked.pass_rows(sizes), "deletion and insertion": curves + baselines}


@probe("transparency", tasks=("classification", "regression"), cost=_cost)
def explanation_faithfulness(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    """How much more the answer moves when columns go in the order of their attributions than at random.

    Definition: columns in falling order of attribution; insertion curve = output with the first k kept, deletion
    curve = output with the first k gone, the rest at a baseline; area = trapezoid over k/F. insertion_gain = insertion
    area - random area; deletion_gain = random area - deletion area; faithfulness_gain = their mean, per row, so
    the random area cancels.
    Shapes: 64 test rows (F columns), baselines mean row and 3 background rows, 2 random orders and their reverses.
    Direction: higher, in probability (or the target's unit); 0 is what a random order gives.
    Limits: partly replaced rows leave the data; baselines disagree, so both are shown (`baseline=mean|background`).
    A nearly constant model leaves nothing to gain: compare with attributions. Tests the order, not the sizes.
    Source: Petsiuk, Das and Saenko 2018 (RISE), section 4.2; Samek et al. 2017, section III.

    >>> from assay.registry import PROBES
    >>> PROBES["explanation_faithfulness"].family
    'transparency'
    """
    rows = query.rows(_masked.NUM_ROWS)
    masked = _masked.passes(query, task)
    values, weights = shapley(masked).values, _masked.local_weights(masked)
    rng = query.rng("faithfulness")
    ranks = [np.argsort(np.argsort(-one, axis=1, kind="stable"), axis=1) for one in (values, weights)]
    ranks += [rng.random(values.shape).argsort(axis=1) for _ in range(_NUM_RANDOM)]
    chosen = rng.permutation(len(query.background))[:_NUM_BACKGROUND]
    baselines = np.concatenate([mean_row(query.background, query.columns)[None], query.background[chosen]])
    areas = _areas(query, baselines, np.stack(ranks, axis=1), target=_masked.targets(query, task))
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


def mean_row(background: Array, columns: tuple[Column, ...]) -> Array:
    """`(F,)`: the mean of numeric columns and the most frequent category of the others."""
    result = background.astype(np.float64).mean(axis=0)
    for place, column in enumerate(columns):
        if column.kind == "categorical":
            found, times = np.unique(background[:, place], return_counts=True)
            result[place] = found[times.argmax()]
    return np.asarray(result, dtype=np.float32)


def _areas(query: Query, baselines: Array, ranks: Array, *, target: Array) -> Array:
    """Areas `(R, Q, Z, 2)` under the insertion and deletion curves, for ranks `(R, Q, F)` and baselines `(Z, F)`."""
    rows = query.inputs[query.rows(_masked.NUM_ROWS)]
    num_rows, orders, num_columns = ranks.shape
    first = ranks[:, :, None, None, :] < np.arange(1, num_columns)[:, None]
    masks = np.concatenate([first, ~first], axis=3)
    shape = (orders, len(baselines), 2 * (num_columns - 1))
    outputs = np.zeros((num_rows, *shape))
    step = max(1, _CHUNK // max(1, int(np.prod(shape)) * num_columns))
    for start in range(0, num_rows if num_columns > 1 else 0, step):
        part = slice(start, start + step)
        inputs = np.where(masks[part], rows[part, None, None, None, :], baselines[:, None, :])
        found = query.probabilities(inputs.reshape(-1, num_columns)).reshape(len(inputs), int(np.prod(shape)), -1)
        outputs[part] = np.take_along_axis(found, target[part, None, None], axis=2).reshape(-1, *shape)
    full = query.probabilities(rows)[np.arange(num_rows), target][:, None, None]
    empty = query.probabilities(baselines)[:, target].T[:, None, :]
    ends = (full + empty) / 2  # the trapezoid counts both ends half
    kept, gone = outputs[..., : num_columns - 1].sum(axis=3), outputs[..., num_columns - 1 :].sum(axis=3)
    areas: Array = np.stack([kept + ends, gone + ends], axis=3) / num_columns
    return areas


def _gains(areas: Array) -> tuple[Array, list[tuple[str, str]]]:
    """Per-row gains `(R, P)` and the metric and slice of each. Orders are Shapley, LIME, then random ones."""
    # A random order read backwards swaps its two curves, so their mean is the area of both.
    chance = areas[:, 2:].mean(axis=(1, 3))
    columns, names = [], []
    weights = np.zeros((3, areas.shape[2]))
    weights[0, 0], weights[1, 1:] = 1, 1 / (areas.shape[2] - 1)
    weights[2] = (weights[0] + weights[1]) / 2
    for share, slice_ in zip(weights, ("baseline=mean", "baseline=background", ""), strict=True):
        for order, prefix in ((0, ""), (1, "lime_")):
            insertion = (areas[:, order, :, 0] - chance) @ share
            deletion = (chance - areas[:, order, :, 1]) @ share
            columns += [insertion, deletion, (insertion + deletion) / 2]
            names += [(prefix + name, slice_) for name in ("insertion_gain", "deletion_gain", "faithfulness_gain")]
    return np.stack(columns, axis=1), names
