"""Shapley values of a black box from one set of masked passes: which units moved this answer, and how surely.

A coalition S of units (columns, patches, words) keeps the explained row's values; the others take those of a
background row z. Each (row, z) pair gets one block: a random order of the F units, its F-1 prefixes and their
complements. Prefix sizes 1..F-1 come up equally often, which is leverage-score sampling of the coalitions without
replacement, in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import factorial

import numpy as np

from assay.errors import Problem, UsageError
from assay.units import Columns, Ground
from assay.values import Array

Function = Callable[[Array], Array]  # inputs (M, ...) to outputs (M, K)
_CHUNK = 1 << 24  # numbers in one batch of masked inputs: 64 MiB of float32
_TABLE_CHUNK = 1 << 20  # of a table, whose rows cost little more than masking them: 4 MiB stay in a cache
_EXACT_COLUMNS = 20  # 2^20 coalitions is as far as enumeration goes, whatever the budget


@dataclass(frozen=True)
class Explanation:
    """`values (R, F)` sum to the row's output minus `base (R,)`, the mean background output, for each row.

    `standard_error (R, F)` is that of sampling coalitions and background rows; 0 where all were enumerated.
    A row whose passes errored is NaN throughout.
    """

    values: Array
    base: Array
    standard_error: Array


@dataclass(frozen=True)
class Masked:
    """What the masked passes gave. R rows explained, W blocks a row, C coalitions a block, b background rows.

    `place (R, W, F)` is where in the block's order each column comes, None where all coalitions were enumerated;
    `outputs (R, W, C)`; `source (R, W)` the background row of each block; `full (R,)` and `empty (R, b)` the
    outputs of the row and of the background.
    """

    num_columns: int
    place: Array | None
    outputs: Array
    source: Array
    full: Array
    empty: Array

    def coalitions(self, rows: slice) -> Array:
        """`(r, W, C, F)` bool for some explained rows, True = the row's own value; made when asked for, being large."""
        return _coalitions(None if self.place is None else self.place[rows], self.source[rows], self.num_columns)


def num_blocks(num_columns: int, num_background: int, num_coalitions: int) -> tuple[int, int]:
    """Blocks a row (W) and coalitions a block (C) for a budget of masked passes a row.

    Everything is enumerated when the budget covers (2^F - 2) b passes; else W = budget / (2F - 2), at least 2.

    >>> num_blocks(14, 100, 650), num_blocks(3, 10, 60)
    ((25, 26), (10, 6))
    """
    if num_columns <= _EXACT_COLUMNS and num_coalitions >= num_background * (2**num_columns - 2):
        return num_background, 2**num_columns - 2
    return max(2, num_coalitions // (2 * num_columns - 2)), 2 * num_columns - 2


def num_model_rows(num_columns: int, num_background: int, *, num_rows: int, num_coalitions: int) -> int:
    """Model rows `masked_passes` runs: R W C masked ones, the R rows themselves and the b background rows.

    >>> num_model_rows(14, 100, num_rows=64, num_coalitions=650)
    41764
    """
    blocks, coalitions = num_blocks(num_columns, num_background, num_coalitions)
    return num_rows * blocks * coalitions + num_rows + num_background


def masked_passes(
    function: Function,
    rows: Array,
    ground: Ground,
    *,
    num_coalitions: int,
    rng: np.random.Generator,
    target: Array | int | None = None,
) -> Masked:
    """Run `function` on rows `(R, ...)` with some of their F units taken from the ground's background rows `(b, ...)`.

    Source and coalitions are drawn from `rng` before anything is run, so equal seeds ask for equal inputs. `target`
    is the output column explained, one for all or one for each row; None is each row's largest output.
    Raises UsageError when rows and background do not fit.
    """
    background, num_columns = ground.background, ground.count
    if rows.shape[1:] != background.shape[1:] or not len(background) or not num_columns:
        allowed = "rows (R, ...) and background (b, ...) of one shape, with b > 0 and at least one unit"
        raise UsageError(Problem(f"rows {rows.shape} and background {background.shape} do not fit", allowed))
    num_rows = len(rows)
    blocks, per_block = num_blocks(num_columns, len(background), num_coalitions)
    place, source = None, np.broadcast_to(np.arange(blocks), (num_rows, blocks))
    if per_block != 2**num_columns - 2 or blocks != len(background):
        rounds = -(-blocks // len(background))
        shuffled = rng.random((num_rows, rounds, len(background))).argsort(axis=2)
        source = shuffled.reshape(num_rows, -1)[:, :blocks]  # every background row once before any comes twice
        place = rng.random((num_rows, blocks, num_columns)).argsort(axis=2)
    full, empty = function(rows), function(background)
    columns = np.nan_to_num(full).argmax(axis=1) if target is None else np.broadcast_to(target, num_rows)
    outputs = np.zeros((num_rows, blocks, per_block))
    most = (_TABLE_CHUNK if rows.ndim == 2 else _CHUNK) // max(1, per_block * max(num_columns, rows[:1].size))
    for part, some in _parts(num_rows if per_block else 0, blocks, max(1, most)):
        theirs = source[part, some]
        own = _coalitions(None if place is None else place[part, some], theirs, num_columns)
        found = function(ground.units.mix(rows[part], own, background[theirs]))
        found = found.reshape(len(own), own.shape[1] * per_block, -1)
        outputs[part, some] = np.take_along_axis(found, columns[part, None, None], axis=2).reshape(own.shape[:3])
    picked = full[np.arange(num_rows), columns].astype(np.float64)
    return Masked(num_columns, place, outputs, source, picked, empty.T[columns].astype(np.float64))


def _parts(num_rows: int, blocks: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Rows and blocks of each batch of at most `most` blocks: several rows with all of theirs, or a part of one's."""
    step = max(1, most // blocks)
    for start in range(0, num_rows, step):
        for first in range(0, blocks, blocks if step > 1 else most):
            yield slice(start, start + step), slice(first, first + (blocks if step > 1 else most))


def _coalitions(place: Array | None, source: Array, num_columns: int) -> Array:
    if place is None:
        subsets = _subsets(num_columns)[1:-1]
        return np.broadcast_to(subsets, (*source.shape, *subsets.shape))
    prefixes = place[:, :, None, :] < np.arange(1, num_columns)[:, None]
    return np.concatenate([prefixes, ~prefixes], axis=2)


def _subsets(num_columns: int) -> Array:
    return ((np.arange(2**num_columns)[:, None] >> np.arange(num_columns)) & 1).astype(bool)


def shapley(masked: Masked) -> Explanation:
    """Shapley values of each explained row, from one set of masked passes.

    A block's F unknowns are determined by its F-1 pairs and efficiency, sum = f(row) - f(z): no regression is left
    to do. Blocks average to the row's value once the effect of having drawn this background row and not another is
    taken out: least squares on row + background row, which shares that effect over all explained rows.
    """
    estimates = _block_values(masked)
    is_usable = np.isfinite(estimates).all(axis=(1, 2))
    gain = masked.full - masked.empty.mean(axis=1)
    values, error = (np.full((len(estimates), masked.num_columns), np.nan) for _ in range(2))
    if masked.place is None:
        values[is_usable], error[is_usable] = estimates[is_usable].mean(axis=1), 0.0
    elif is_usable.any():
        kept, source = estimates[is_usable], masked.source[is_usable]
        effect, freedom = _effects(kept, source, masked.empty.shape[1])
        found = (kept - effect[source]).mean(axis=1)
        residuals = kept - found[:, None] - effect[source]
        error[is_usable] = np.sqrt((residuals**2).mean(axis=1) * len(kept) / freedom)
        values[is_usable] = found + (gain[is_usable] - found.sum(axis=1))[:, None] / masked.num_columns
    return Explanation(values, np.where(is_usable, masked.full - gain, np.nan), error)


def background_effects(masked: Masked) -> Array:
    """`(b, F)`: how far each background row moves the values of all rows that meet it; 0 on average."""
    estimates = _block_values(masked)
    is_usable = np.isfinite(estimates).all(axis=(1, 2))
    if masked.place is None or not is_usable.any():
        return np.zeros((masked.empty.shape[1], masked.num_columns))
    return _effects(estimates[is_usable], masked.source[is_usable], masked.empty.shape[1])[0]


def _block_values(masked: Masked) -> Array:
    """Each block's own Shapley values `(R, W, F)`: exact, or the mean of the order's and its reverse's steps."""
    num_columns = masked.num_columns
    full = np.broadcast_to(masked.full[:, None, None], (*masked.source.shape, 1))
    empty = np.take_along_axis(masked.empty, masked.source, axis=1)[:, :, None]
    if masked.place is None:
        exact: Array = np.concatenate([empty, masked.outputs, full], axis=2) @ _enumeration_weights(num_columns)
        return exact
    half = num_columns - 1
    forward = np.diff(np.concatenate([empty, masked.outputs[:, :, :half], full], axis=2), axis=2)
    reverse = np.diff(np.concatenate([full, masked.outputs[:, :, half:], empty], axis=2), axis=2)
    return np.take_along_axis((forward - reverse) / 2, masked.place, axis=2)


def _enumeration_weights(num_columns: int) -> Array:
    """`(2^F, F)`: what each coalition's output adds to each Shapley value (Shapley 1953)."""
    member = _subsets(num_columns)
    size = member.sum(axis=1)
    total = factorial(num_columns)
    order = [factorial(s) * factorial(num_columns - s - 1) / total for s in range(num_columns)]
    joins = np.array([0.0, *order])[size]  # the column came last into a coalition of this size
    leaves = np.array([*order, 0.0])[size]
    return np.array(np.where(member, joins[:, None], -leaves[:, None]))


def _effects(estimates: Array, source: Array, num_background: int) -> tuple[Array, int]:
    """Background effects `(b, F)` of block estimates `(R, W, F)`, and the degrees of freedom that are left."""
    num_rows, blocks, num_columns = estimates.shape
    effect = np.zeros((num_background, num_columns))
    if num_rows * blocks < 2 * num_background:  # too few blocks: the effects would be noise
        return effect, num_rows * (blocks - 1)
    times = np.zeros((num_rows, num_background))
    np.add.at(times, (np.arange(num_rows)[:, None], source), 1.0)
    np.add.at(effect, source, estimates)
    normal = np.diag(times.sum(axis=0)) - times.T @ times / blocks
    effect = np.linalg.lstsq(normal, effect - times.T @ estimates.mean(axis=1), rcond=1e-9)[0]
    return effect - effect.mean(axis=0), num_rows * (blocks - 1) - int((times.sum(axis=0) > 0).sum()) + 1


def explain(
    probabilities: Function,
    rows: Array,
    background: Array,
    *,
    num_coalitions: int,
    rng: np.random.Generator,
    target: Array | int | None = None,
) -> Explanation:
    """Shapley values of rows `(R, F)` against background rows `(b, F)`: which columns moved these answers.

    Definition: phi_i = E_z E_order [f(x on order up to i, z elsewhere) - f(x on order before i, z elsewhere)].
    Shapes: probabilities (M, F) to (M, K); values (R, F), in the unit of the output; num_coalitions per row.
    Direction: neither; a positive value raised the explained output above the background's mean.
    Limits: masked inputs mix two rows and may be impossible ones; says what the model uses, not what causes the
    outcome. `standard_error` needs 25 blocks (50 (F-1) coalitions) to be trusted; it is up to 3 times too large
    where each background row is met once and no other rows are explained; it excludes the choice of background.
    Source: Strumbelj and Kononenko 2014, section 3 (orders); Musco and Witter 2025 (arXiv 2410.01917), section 3
    (paired, without replacement, sizes by leverage score); Mitchell et al. 2022, section 4.1 (antithetic orders).

    >>> def linear(inputs):
    ...     return inputs @ np.array([[2.0], [-1.0], [0.0]])
    >>> background = np.array([[0.0, 0, 0], [2, 2, 2]])
    >>> found = explain(linear, np.ones((1, 3)) * 3, background, num_coalitions=12, rng=np.random.default_rng(0))
    >>> found.values.round(9).tolist(), found.base.tolist()
    ([[4.0, -2.0, -0.0]], [1.0])
    """
    if rows.ndim != 2:
        raise UsageError(Problem(f"rows have shape {rows.shape}", "(R, F); for other inputs use masked_passes"))
    ground = Ground(background, Columns(tuple(str(place) for place in range(rows.shape[1]))))
    return shapley(masked_passes(probabilities, rows, ground, num_coalitions=num_coalitions, rng=rng, target=target))
