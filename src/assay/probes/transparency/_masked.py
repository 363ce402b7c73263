"""One set of masked passes, and what every probe of explanations reads from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import gammaln
from scipy.stats import rankdata

from assay import stats
from assay.access.handles import Query
from assay.explain import Masked, background_effects, masked_passes, num_model_rows
from assay.registry import Sizes
from assay.stats import Draws, Estimate
from assay.values import Array, Task

NUM_ROWS = 64  # explained test rows
BLOCKS = 25  # background rows met by each: the standard error needs that many
ALL_ERRORED = "every explained row errored"
_KERNEL_WIDTH = 0.75  # LIME's default for tables, per square root of the number of columns
_RIDGE = 1.0  # LIME's default penalty on weights that add up to the number of samples


def budget(num_columns: int) -> int:
    """Coalitions a row: BLOCKS orders and their reverses."""
    return BLOCKS * (2 * num_columns - 2)


def passes(query: Query, task: Task, *, inputs: Array | None = None, name: str = "masked") -> Masked:
    """The masked passes of the keyed sample of test rows, or of `inputs (R, F)` in their place.

    Equal names draw equal coalitions, so every probe that asks for the plain ones shares one run. Explained is the
    positive class of two, else each row's most probable class; in regression the predicted value.
    """
    rows = query.inputs[query.rows(NUM_ROWS)] if inputs is None else inputs
    ground = query.ground
    return masked_passes(
        query.probabilities, rows, ground,
        num_coalitions=budget(ground.count), rng=query.rng(name), target=targets(query, task),
    )  # fmt: skip


def targets(query: Query, task: Task) -> Array:
    """Which output is explained `(R,)`, for each row of the keyed sample."""
    rows = query.rows(NUM_ROWS)
    if task.classes and task.positive_index is None:
        likely: Array = np.nan_to_num(query.probabilities(query.inputs[rows])).argmax(axis=1)
        return likely
    return np.full(len(rows), task.positive_index or 0)


def explained_rows(sizes: Sizes) -> int:
    """R: how many test rows are explained."""
    return min(NUM_ROWS, sizes.num_test)


def background_rows(sizes: Sizes) -> int:
    """Rows in the background: the query handle keeps at most 100 training rows."""
    return min(100, sizes.num_train)


def pass_rows(sizes: Sizes) -> int:
    """Model rows of `passes`, those of the rows themselves and of the background included."""
    columns = sizes.num_units
    return num_model_rows(
        columns, background_rows(sizes), num_rows=explained_rows(sizes), num_coalitions=budget(columns)
    )


def unit(task: Task) -> str:
    """What attributions are measured in."""
    return "probability" if task.classes else "unit of the target"


def local_weights(masked: Masked) -> Array:
    """LIME's weights `(R, F)` from the same passes: ridge regression of outputs on masks, near coalitions first.

    Weight of a coalition: exp(-(share masked)^2 / 0.75^2), times how much rarer its size is in the sample than among
    all 2^F. Each block keeps its own intercept, and what a background row does to every row's values is taken out.
    """
    num_columns = masked.num_columns
    size = masked.coalitions(slice(1))[0, 0].sum(axis=1)  # the same in every block
    size = np.concatenate([[0, num_columns], size])
    log_weight = -(((1 - size / num_columns) / _KERNEL_WIDTH) ** 2)
    if masked.place is not None:
        log_weight -= gammaln(size + 1) + gammaln(num_columns - size + 1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    effects = background_effects(masked)
    found = np.empty((len(masked.full), num_columns))
    for row, source in enumerate(masked.source):  # one at a time: the masks are the largest array here
        blocks = len(source)
        ends = np.broadcast_to(np.array([False, True])[:, None], (blocks, 2, num_columns))
        masks = np.concatenate([ends, masked.coalitions(slice(row, row + 1))[0]], axis=1).astype(np.float64)
        edges = np.stack([masked.empty[row, source], np.broadcast_to(masked.full[row], blocks)], axis=1)
        outputs = np.concatenate([edges, masked.outputs[row]], axis=1) - (masks @ effects[source][:, :, None])[:, :, 0]
        centred = (masks - (weight @ masks)[:, None]).reshape(-1, num_columns)
        weighted = (centred * np.tile(weight * len(weight), blocks)[:, None]).T
        normal = weighted @ centred + _RIDGE * np.eye(num_columns)
        found[row] = np.linalg.solve(normal, weighted @ (outputs - (outputs @ weight)[:, None]).ravel())
    return found


def finite(*arrays: Array) -> Array:
    """`(R,)` bool: rows with nothing missing in any of the `(R, ...)` arrays."""
    flat = np.concatenate([one.reshape(len(one), -1) for one in arrays], axis=1)
    return np.array(np.isfinite(flat).all(axis=1))


Bounds = tuple[float | None, float | None]


def row_means(draws: Draws, values: Array, is_usable: Array, *, bounds: Bounds = (None, None)) -> list[Estimate]:
    """Mean over the usable rows of each column of `(R, P)`, with the draws of these rows."""
    kept = np.where(is_usable[:, None], values, 0.0)
    sums = draws.sums(np.column_stack([kept, is_usable.astype(np.float64)]))
    return [stats.mean(one, sums[:, -1], level=draws.level, bounds=bounds) for one in sums[:, :-1].T]


def agreement(draws: Draws, values: Array, is_usable: Array, *, bounds: Bounds, undefined: str) -> Estimate:
    """Mean of `(R,)` over usable rows where it is defined; `undefined` says why a NaN is one."""
    is_defined = is_usable & np.isfinite(values)
    found = row_means(draws, values[:, None], is_defined, bounds=bounds)[0]
    if not is_usable.any():
        return replace(found, reason=ALL_ERRORED)
    missing = int((is_usable & ~is_defined).sum())
    left_out = f"{missing} rows left out: {undefined}" if missing else ""
    return replace(found, reason="; ".join(one for one in (left_out, found.reason) if one))


def cosine(first: Array, second: Array) -> Array:
    """Cosine of `(R, F)` rows; 1 where both are zero, 0 where one is."""
    lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    product = lengths[0] * lengths[1]
    inner = (first * second).sum(axis=1)
    both_zero = (lengths[0] == 0) & (lengths[1] == 0)
    ratio = np.divide(inner, product, out=0 * inner, where=product != 0)
    return np.where(both_zero, 1.0, np.clip(ratio, -1, 1))  # rounding may leave the range


def rank_correlation(first: Array, second: Array) -> Array:
    """Spearman's correlation of `(R, F)` rows, ties averaged; NaN where all of a row's values are equal."""
    ranks = [rankdata(np.nan_to_num(one), axis=1) for one in (first, second)]
    centred = [one - one.mean(axis=1, keepdims=True) for one in ranks]
    product = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    inner = (centred[0] * centred[1]).sum(axis=1)
    result: Array = np.divide(inner, product, out=np.full(len(inner), np.nan), where=product > 0)
    return result


def top_overlap(first: Array, second: Array, *, num: int) -> Array:
    """Share of the `num` largest of `(R, F)` that both rows name."""
    tops: Sequence[Array] = [
        rankdata(-np.abs(np.nan_to_num(one)), axis=1, method="ordinal") <= num for one in (first, second)
    ]
    result: Array = (tops[0] & tops[1]).sum(axis=1) / num
    return result
