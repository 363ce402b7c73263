"""Every slice of up to three conditions with its rows and errors, from joint tables of a few columns at a time.

A table of six columns holds all twenty of their triples, so the rows are read once for twenty: on 20 columns 120 passes
count what 1,140 would. Slices too small to count, and columns that together cannot reach far enough, are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from assay.probes.utility._conditions import Conditions
from assay.values import Array

OUTCOMES = 4  # right and wrong in the half that tests, right and wrong in the half that searches
MOST_PAIRED, MOST_TRIPLED = 100, 24  # columns searched two and three at a time, those that fail most alone
MOST_CELLS = 1 << 14  # of a table: times 4 outcomes they number within 16 bits
BATCH = 8_192  # slices weighed at once
KEPT = 500  # most certain slices that are looked at again


@dataclass(frozen=True)
class Search:
    """What was searched: the most certain slices `(S, 3)`, most certain first, each with its z.

    Beside them how many slices were counted, and how many at most were cut off because they could not be among these.
    """

    slices: Array
    z: Array
    num_counted: int
    num_cut: int


class _Found:
    """Slices as they are counted: the best so far, and what is needed to know that none was missed."""

    def __init__(self, totals: Array, least: float, kept: int) -> None:
        self.totals, self.least, self.kept = totals, least, kept
        self.slices, self.z = [np.zeros((0, 3), dtype=np.int32)], [np.zeros(0)]
        self.num_counted, self.num_cut, self.threshold = 0, 0, -np.inf
        self.waiting, self.num_waiting = [(np.zeros((0, 3), dtype=np.int32), np.zeros((0, OUTCOMES)))], 0

    def add(self, slices: Array, counts: Array) -> None:
        """Slices `(S, 3)` with their outcomes `(S, 4)`; those too small, or too large, were left out before."""
        self.num_counted += len(slices)
        self.waiting.append((slices, counts))
        self.num_waiting += len(slices)
        if self.num_waiting >= BATCH:
            self.weigh()

    def weigh(self) -> None:
        """Look at what waits."""
        slices, counts = (np.concatenate(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting, self.num_waiting = [(slices[:0], counts[:0])], 0
        if not len(slices):
            return
        z = self.certainty(counts[:, 2] + counts[:, 3], counts[:, 3])
        better = np.flatnonzero(z >= self.threshold)
        self.slices.append(slices[better])
        self.z.append(z[better])

    def trim(self) -> None:
        """Keep the most certain; equals in the order of their conditions, so the order of counting is of no account."""
        self.weigh()
        slices, z = np.concatenate(self.slices), np.concatenate(self.z)
        order = np.lexsort((*slices.T[::-1], -z))[: self.kept]
        self.slices, self.z = [slices[order]], [z[order]]
        if len(order) == self.kept:
            self.threshold = float(z[order[-1]])

    def certainty(self, rows: Array, errors: Array) -> Array:
        """Errors beyond the expected in standard deviations (hypergeometric), in the half that searches."""
        num, wrong = self.totals[2] + self.totals[3], self.totals[3]
        spread = rows * (num - rows) * wrong * (num - wrong)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (errors * num - rows * wrong) * np.sqrt((num - 1) / spread)
        return np.where(spread > 0, z, 0.0)

    def can_matter(self, errors: Array) -> Array:
        """Whether a slice with at most `errors (S,)` of the searching half, and enough rows, could be among the best.

        Certainty grows with errors and falls with rows, so all errors in the fewest rows is the best there can be.
        """
        return self.certainty(np.maximum(self.least / 2, errors), errors) >= self.threshold


def search(conditions: Conditions, outcome: Array, *, least: float, kept: int = KEPT) -> Search:
    """All slices of one to three conditions on different columns with half of `least` rows in and out, in each half.

    `outcome (N,)` is 0 to 3 (see OUTCOMES). Exact: what is cut off could not be among the `kept`.
    """
    totals = np.bincount(outcome, minlength=OUTCOMES).astype(np.float64)
    found = _Found(totals, least, kept)
    widths, owners = conditions.widths, np.arange(len(conditions.codes))
    singles: dict[tuple[int, ...], Array] = {
        (c,): np.bincount(codes.astype(np.intp) * OUTCOMES + outcome, minlength=width * OUTCOMES).reshape(-1, OUTCOMES)
        for c, (codes, width) in enumerate(zip(conditions.codes, widths, strict=True))
    }
    _add(found, conditions, singles.items())
    worst = [found.certainty(table[:, 2:].sum(axis=1), table[:, 3]).max() for table in singles.values()]
    order = np.argsort(-np.array(worst), kind="stable") if worst else owners
    parts = conditions.codes
    paired, tripled = (sorted(order[:most].tolist()) for most in (MOST_PAIRED, MOST_TRIPLED))
    pairs = dict(joint_counts(parts, widths, outcome, combinations(paired, 2)))
    _add(found, conditions, pairs.items())
    found.trim()
    wanted = _worth_counting(found, conditions.nums, pairs, list(combinations(tripled, 3)))
    _add(found, conditions, joint_counts(parts, widths, outcome, wanted))
    found.trim()
    return Search(found.slices[0], found.z[0], found.num_counted, found.num_cut)


def _add(found: _Found, conditions: Conditions, tables: Iterable[tuple[tuple[int, ...], Array]]) -> None:
    """Slices of joint counts by their columns, many tables at a time: each has tens of cells, and a call its price."""
    waiting: list[tuple[tuple[int, ...], Array]] = []
    num_waiting = 0
    for columns, table in tables:
        real = table[tuple(slice(conditions.nums[column]) for column in columns)]  # codes above are no condition
        waiting.append((columns, real.reshape(-1, OUTCOMES)))
        num_waiting += len(waiting[-1][1])
        if num_waiting >= BATCH:
            _add_together(found, conditions, waiting)
            waiting, num_waiting = [], 0
    if waiting:
        _add_together(found, conditions, waiting)


def _add_together(found: _Found, conditions: Conditions, tables: Sequence[tuple[tuple[int, ...], Array]]) -> None:
    """Tables of one number of columns, their cells `(M, 4)` in the order of the codes, the last column's fastest."""
    counts, least = np.concatenate([cells for _, cells in tables]), found.least / 2
    large = np.ones(len(counts), dtype=bool)
    for half in (slice(2), slice(2, OUTCOMES)):
        rows = counts[:, half].sum(axis=1)
        large &= (rows >= least) & (found.totals[half].sum() - rows >= least)
    inside = np.flatnonzero(large)
    ends = np.cumsum([len(cells) for _, cells in tables])
    of = np.searchsorted(ends, inside, side="right")
    columns = np.array([columns for columns, _ in tables])[of]
    rest = inside - np.concatenate([[0], ends])[of]
    slices = np.full((len(inside), 3), -1, dtype=np.int32)
    for place in reversed(range(columns.shape[1])):
        rest, code = np.divmod(rest, np.asarray(conditions.nums)[columns[:, place]])
        slices[:, place] = conditions.starts[columns[:, place]] + code
    found.add(slices, counts[inside].astype(np.float64))


def _worth_counting(
    found: _Found, nums: Sequence[int], pairs: dict[tuple[int, ...], Array], trios: Sequence[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Sets of three columns with a slice that could matter: none has more errors than the fewest of its three pairs."""
    real = {(i, j): table[: nums[i], : nums[j]] for (i, j), table in pairs.items()}
    errors = {pair: table[..., 3] for pair, table in real.items()}
    enough = {pair: table.sum(axis=-1) >= found.least for pair, table in real.items()}
    sizes, most = np.zeros((2, len(trios)), dtype=np.int64)
    for place, (a, b, c) in enumerate(trios):
        large = (enough[a, b][:, :, None] & enough[a, c][:, None, :]) & enough[b, c]
        sizes[place] = np.count_nonzero(large)
        fewest = np.minimum(np.minimum(errors[a, b][:, :, None], errors[a, c][:, None, :]), errors[b, c])
        most[place] = fewest.max(where=large, initial=0)
    kept = found.can_matter(most) & (sizes > 0)
    found.num_cut += int(sizes[~kept].sum())
    return [trio for trio, one in zip(trios, kept.tolist(), strict=True) if one]


def joint_counts(
    parts: Sequence[Array],
    widths: Sequence[int],
    outcome: Array,
    wanted: Iterable[tuple[int, ...]],
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Joint counts `(width, ..., 4)` of every wanted set of columns: columns in bundles, sets of bundles at a time."""
    wanted = list(wanted)
    if not wanted:
        return
    size = len(wanted[0])
    columns = sorted({one for columns in wanted for one in columns})
    bundles = _bundles(columns, widths, max(2.0, min(len(outcome) / 16, MOST_CELLS)) ** (1 / size))
    codes = []
    for bundle in bundles:
        code = np.zeros(len(outcome), dtype=np.uint16)
        for column in bundle:
            code = code * np.uint16(widths[column]) + parts[column]
        codes.append(code)
    at = {column: index for index, bundle in enumerate(bundles) for column in bundle}
    jobs: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for columns_ in wanted:
        jobs.setdefault(tuple(sorted({at[one] for one in columns_})), []).append(columns_)
    jobs = _merged(jobs, len(bundles), size)
    for chosen, asked in jobs.items():
        inside = [column for index in chosen for column in bundles[index]]
        shape = [widths[column] for column in inside]
        scale = OUTCOMES * math.prod(shape)
        cell = codes[chosen[0]] if scale <= 1 << 16 else codes[chosen[0]].astype(np.uint32)
        for index in chosen[1:]:
            cell = cell * cell.dtype.type(math.prod(widths[column] for column in bundles[index])) + codes[index]
        cell = cell * cell.dtype.type(OUTCOMES) + outcome
        table = np.bincount(cell, minlength=scale).reshape(*shape, OUTCOMES)
        for columns_ in asked:
            others = tuple(place for place, column in enumerate(inside) if column not in columns_)
            order = [column for column in inside if column in columns_]
            counted = table.sum(axis=others)
            turn = [order.index(column) for column in columns_]
            yield columns_, counted.transpose(*turn, len(turn))


def _merged(
    jobs: dict[tuple[int, ...], list[tuple[int, ...]]], num_bundles: int, size: int
) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
    """Sets within fewer bundles ride along with a set of bundles that is counted anyway."""
    full: dict[tuple[int, ...], list[tuple[int, ...]]] = {key: list(v) for key, v in jobs.items() if len(key) == size}
    for key, asked in jobs.items():
        if len(key) == size:
            continue
        host = next((one for one in full if set(key) <= set(one)), key)
        full.setdefault(host, []).extend(asked)
    return full


def _bundles(columns: Sequence[int], widths: Sequence[int], most: float) -> list[list[int]]:
    """Columns packed first-fit into bundles of at most `most` joint cells (or of one column)."""
    bundles: list[list[int]] = []
    cells: list[int] = []
    for column in sorted(columns, key=lambda one: (-widths[one], one)):
        for index, size in enumerate(cells):
            if size * widths[column] <= most:
                bundles[index].append(column)
                cells[index] *= widths[column]
                break
        else:
            bundles.append([column])
            cells.append(widths[column])
    return bundles
