"""One set of masked passes, and what every probe of explanations reads from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import gammaln
from scipy.stats import rankdata

from assay import stats
from assay.access.handles import Query
from assay.explain import Explanation, Masked, background_effects, masked_passes, num_blocks, screen, shapley
from assay.registry import Sizes
from assay.stats import Draws, Estimate
from assay.units import Ground, SomeColumns, is_wide
from assay.units.table import NUM_ALONE
from assay.values import Array, Measurement, Task, modality


@dataclass(frozen=True)
class Budget:
    """How much is asked of a model of one modality: pictures and texts cost a hundred times what table rows cost."""

    num_rows: int  # explained test rows
    blocks: int  # background rows met by each
    baselines: int  # background rows that deletion and insertion fall back to, beside the mean row


# Tables: 25 blocks, so that a row's own standard error can be trusted. Others: the error is stated for all rows
# together, which 48 rows of 10 blocks give as surely; the empty text is the only background, so nothing is drawn there.
BUDGETS = {"table": Budget(64, 25, 3), "image": Budget(48, 10, 2), "text": Budget(64, 8, 0)}
SCREENED = "screened columns"
ALL_ERRORED = "every explained row errored"
_KERNEL_WIDTH = 0.75  # LIME's default for tables, per square root of the number of columns
Bounds = tuple[float | None, float | None]
_RIDGE = 1.0  # LIME's default penalty on weights that add up to the number of samples


def budget_of(query: Query) -> Budget:
    """The budget of the modality at hand."""
    return BUDGETS[modality(query.columns)]


def sample(query: Query) -> Array:
    """The explained test rows `(R,)`, a keyed sample."""
    return query.rows(budget_of(query).num_rows)


def passes(query: Query, task: Task, *, inputs: Array | None = None, name: str = "masked") -> Masked:
    """The masked passes of the keyed sample of test rows, or of `inputs (R, ...)` in their place.

    Equal names draw equal coalitions, so every probe that asks for the plain ones shares one run. Explained is the
    positive class of two, else each row's most probable class; in regression the predicted value.
    """
    if inputs is not None:
        return _passes(query, task, inputs, name)

    def made() -> Mapping[str, Array | None]:
        return {**vars(_passes(query, task, query.inputs[sample(query)], name)), "num_columns": None}

    found: Any = _remembered(query, name, made)
    return Masked(**{"place": None, **found, "num_columns": ground(query).count})


def _passes(query: Query, task: Task, rows: Array, name: str) -> Masked:
    units = ground(query)
    return masked_passes(
        query.probabilities, rows, units,
        num_coalitions=_coalitions(budget_of(query), units.count), rng=query.rng(name), target=targets(query, task),
    )  # fmt: skip


def ground(query: Query) -> Ground:
    """What is masked: of a wide table the columns that move the answers most, and the others in groups."""
    if not is_wide(query.columns):
        return query.ground
    alone = _remembered(query, SCREENED, lambda: {"places": _screened(query)})["places"]
    return Ground(query.background, SomeColumns(tuple(one.name for one in query.columns), tuple(alone.tolist())))


def looked_at(query: Query) -> Array:
    """Places of the columns that are looked at one by one `(F,)`: all, but of a wide table those that stand alone."""
    units = ground(query).units
    return np.array(units.alone) if isinstance(units, SomeColumns) else np.arange(len(query.columns))


def _screened(query: Query) -> Array:
    rows, num = query.inputs[sample(query)], len(query.background)
    others = query.background[np.resize(query.rng(SCREENED).permutation(num), len(rows))]
    return screen.movers(query.probabilities, rows, others, num=NUM_ALONE)


def screening(sizes: Sizes) -> dict[str, int]:
    """Model rows of finding the columns of a wide table that are looked at one by one."""
    rows = explained_rows(sizes)
    return {SCREENED: screen.num_rows(rows, sizes.num_screened)} if sizes.num_screened else {}


def num_looked_at(sizes: Sizes) -> int:
    """How many columns `looked_at` names."""
    return NUM_ALONE if sizes.num_screened else sizes.num_units


def noted(query: Query, found: Sequence[Measurement], *, others: bool = True) -> list[Measurement]:
    """Measurements that say what of a wide table they rest on: others in groups, or only the columns looked at."""
    if not is_wide(query.columns):
        return list(found)
    rest = "the others in groups of neighbours" if others else "the others left as they are"
    note = f"partial: {NUM_ALONE} of {len(query.columns)} columns by themselves, {rest}"
    return [replace(one, reason="; ".join(filter(None, (note, one.reason)))) for one in found]


def _remembered(query: Query, name: str, make: Callable[[], Mapping[str, Array | None]]) -> Mapping[str, Array]:
    """The arrays that `make` gives for the keyed sample: made once for all probes that ask for them."""
    cache, key = query.workspace.cache.in_memory(), ["made", name, query.system.digest, sample(query)]
    stored = cache.get(key)
    if stored is None:
        stored = {what: one for what, one in make().items() if one is not None}, {}
        cache.put(key, *stored)
    return stored[0]


def _coalitions(allowed: Budget, num_units: int) -> int:
    """Coalitions a row: its blocks' orders and their reverses."""
    return allowed.blocks * (2 * num_units - 2)


def targets(query: Query, task: Task) -> Array:
    """Which output is explained `(R,)`, for each row of the keyed sample."""
    rows = sample(query)
    if task.classes and task.positive_index is None:
        likely: Array = np.nan_to_num(query.probabilities(query.inputs[rows])).argmax(axis=1)
        return likely
    return np.full(len(rows), task.positive_index or 0)


def target_rows(sizes: Sizes) -> int:
    """Model rows that `targets` runs: to know each row's most probable class, where there are more than two."""
    return explained_rows(sizes) if sizes.num_outputs > 2 else 0


def unused(query: Query) -> Array:
    """`(R, U)` bool: units of the explained rows that hold nothing (a short text's last runs)."""
    return ground(query).units.unused(query.inputs[sample(query)])


def attributions(masked: Masked, is_unused: Array) -> Explanation:
    """Shapley values `(R, U)`; exactly 0 for units that hold nothing, which sampling gives only up to rounding."""
    found = shapley(masked)
    values, errors = (np.where(is_unused & np.isfinite(one), 0.0, one) for one in (found.values, found.standard_error))
    return Explanation(values, found.base, errors)


def explained_rows(sizes: Sizes) -> int:
    """R: how many test rows are explained."""
    return min(BUDGETS[sizes.modality].num_rows, sizes.num_test)


def background_rows(sizes: Sizes) -> int:
    """Rows in the background: the query handle keeps at most 100 training rows, and one empty text."""
    return 1 if sizes.modality == "text" else min(100, sizes.num_train)


def mask_rows(sizes: Sizes) -> int:
    """Masked rows of `passes` alone."""
    num_coalitions = _coalitions(BUDGETS[sizes.modality], sizes.num_units)
    blocks, per_block = num_blocks(sizes.num_units, background_rows(sizes), num_coalitions)
    return explained_rows(sizes) * blocks * per_block


def pass_rows(sizes: Sizes) -> int:
    """Model rows of `passes`, those of the rows themselves and of the background included."""
    return mask_rows(sizes) + explained_rows(sizes) + background_rows(sizes)


def unit(task: Task) -> str:
    """What attributions are measured in."""
    return "probability" if task.classes else "unit of the target"


def bounds(task: Task) -> Bounds:
    """Between which a difference of two explained outputs must lie."""
    return (-1, 1) if task.classes else (None, None)


def lime_weights(query: Query, task: Task, is_unused: Array) -> Array:
    """`local_weights` of the plain masked passes."""
    whole: Array = lime_thrice(query, task, is_unused)[0]
    return whole


def lime_thrice(query: Query, task: Task, is_unused: Array) -> Array:
    """LIME's weights `(3, R, F)`: of all blocks of the plain masked passes, and of every other one by itself, twice."""
    return _remembered(query, "lime", lambda: {"found": _local(passes(query, task), is_unused)})["found"]


def local_weights(masked: Masked, is_unused: Array | None = None) -> Array:
    """LIME's weights `(R, F)` from the same passes: ridge regression of outputs on masks, near coalitions first.

    Weight of a coalition: exp(-(share masked)^2 / 0.75^2), times how much rarer its size is in the sample than among
    all 2^F. Each block keeps its own intercept, and what a background row does to every row's values is taken out.
    Units that hold nothing, `is_unused (R, F)`, are never in a mask: their weight is 0.
    """
    whole: Array = _local(masked, is_unused)[0]
    return whole


def _local(masked: Masked, is_unused: Array | None) -> Array:
    """`local_weights` of all blocks, of the even and of the odd ones, `(3, R, F)`."""
    num_columns = masked.num_columns
    size = masked.coalitions(slice(1))[0, 0].sum(axis=1)  # the same in every block
    size = np.concatenate([[0, num_columns], size])
    log_weight = -(((1 - size / num_columns) / _KERNEL_WIDTH) ** 2)
    if masked.place is not None:
        log_weight -= gammaln(size + 1) + gammaln(num_columns - size + 1)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    effects = background_effects(masked)
    found = np.zeros((3, len(masked.full), num_columns))
    ridge = _RIDGE * np.eye(num_columns)
    for row, source in enumerate(masked.source):  # one at a time: the masks are the largest array here
        blocks = len(source)
        ends = np.broadcast_to(np.array([False, True])[:, None], (blocks, 2, num_columns))
        masks = np.concatenate([ends, masked.coalitions(slice(row, row + 1))[0]], axis=1).astype(np.float64)
        if is_unused is not None:
            masks[:, :, is_unused[row]] = 0.0
        edges = np.stack([masked.empty[row, source], np.broadcast_to(masked.full[row], blocks)], axis=1)
        outputs = np.concatenate([edges, masked.outputs[row]], axis=1) - (masks @ effects[source][:, :, None])[:, :, 0]
        centred, own = masks - (weight @ masks)[:, None], outputs - (outputs @ weight)[:, None]
        parts = [_equations(centred[turn::2], own[turn::2], weight * len(weight)) for turn in (0, 1)]
        normal, right = (first + second for first, second in zip(*parts, strict=True))
        found[0, row] = np.linalg.solve(normal + ridge, right)
        for turn, (half, answers) in enumerate(parts, 1):
            found[turn, row] = np.linalg.solve(half + ridge / 2, answers)  # half the rows, half the penalty
    return found


def _equations(masks: Array, outputs: Array, weight: Array) -> tuple[Array, Array]:
    """Both sides of the normal equations `(F, F)` and `(F,)` of masks `(W, C, F)` and outputs `(W, C)`."""
    flat = masks.reshape(-1, masks.shape[2])
    weighted = (flat * np.tile(weight, len(masks))[:, None]).T
    return weighted @ flat, weighted @ outputs.ravel()


def finite(*arrays: Array) -> Array:
    """`(R,)` bool: rows with nothing missing in any of the `(R, ...)` arrays."""
    flat = np.concatenate([one.reshape(len(one), -1) for one in arrays], axis=1)
    return np.array(np.isfinite(flat).all(axis=1))


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


def rank_correlation(first: Array, second: Array, is_unused: Array | None = None) -> Array:
    """Spearman's correlation of `(R, F)` rows, ties averaged; NaN where all of a row's values are equal.

    Units that hold nothing are left out: they are equal in both without having been explained.
    """
    gone = np.zeros(first.shape, dtype=bool) if is_unused is None else is_unused
    num = np.maximum((~gone).sum(axis=1, keepdims=True), 1)
    centred = []
    for one in (first, second):
        ranks = np.where(gone, 0.0, rankdata(np.where(gone, np.inf, np.nan_to_num(one)), axis=1))
        centred.append(np.where(gone, 0.0, ranks - ranks.sum(axis=1, keepdims=True) / num))
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


def infidelity(masked: Masked, values: Array, rows: Array) -> tuple[Array, Array]:
    """Of each of `rows`: mean squares `(r,)` of what `values (r, U)` leave unexplained of each change, and of changes.

    A change is f(x) - f(x with some units from a background row); explained is the sum of those units' values.
    """
    missed, moved = np.empty(len(rows)), np.empty(len(rows))
    for place, row in enumerate(rows.tolist()):  # one at a time: the masks are the largest array here
        gone = ~masked.coalitions(slice(row, row + 1))[0]
        change = masked.full[row] - masked.outputs[row]
        missed[place] = ((gone @ values[place] - change) ** 2).mean() if change.size else np.nan
        moved[place] = (change**2).mean() if change.size else np.nan
    return missed, moved


def share(draws: Draws, parts: Array, wholes: Array, is_usable: Array, *, nothing: str) -> Estimate:
    """Sum of `parts (R,)` over the sum of `wholes (R,)`, over usable rows; `nothing` says why it may be undefined."""
    kept = is_usable & np.isfinite(parts) & np.isfinite(wholes)
    sums = draws.sums(np.where(kept[:, None], np.nan_to_num(np.column_stack([parts, wholes])), 0.0))
    if not sums[0, 1] > 0:
        return Estimate(None, None, None, "recentred bootstrap", None, nothing if kept.any() else ALL_ERRORED)
    ratio = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    return stats.statistic(ratio, level=draws.level, bounds=(0, None), num=int(kept.sum()))


def largest_change(first: Array, others: Sequence[Array]) -> Array:
    """`(R,)`: the largest |other - first| / |first| of rows `(R, U)`; NaN where the first is all 0."""
    length = np.linalg.norm(first, axis=1)
    largest = np.max([np.linalg.norm(one - first, axis=1) for one in others], axis=0)
    result: Array = np.divide(largest, length, out=np.full(len(first), np.nan), where=length > 0)
    return result
