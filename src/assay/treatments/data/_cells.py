"""Cells of rows that lie close together, none with fewer than k: Mondrian's cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay.values import Array


def mondrian(rows: Array, is_number: Sequence[bool], k: int) -> Array:
    """Cell of each row `(n,)` of `(n, Q)` numbers and category codes, each with k rows or more (see `cells_of_both`).

    >>> mondrian(np.array([[1.0], [2.0], [3.0], [4.0], [4.0]]), [True], 2).tolist()
    [0, 0, 1, 1, 1]
    """
    return cells_of_both(rows, rows[:0], is_number, k)[0]


def cells_of_both(rows: Array, others: Array, is_number: Sequence[bool], k: int) -> tuple[Array, Array]:
    """Cells of `rows (n, Q)`, each with k of them or more, and the cells that `others (m, Q)` fall into.

    Greedy and strict: a cell is cut in two, as evenly as whole values allow, at the column where it is widest (range
    over the range of all rows; categories: their number less one, likewise) that leaves k rows or more on both sides;
    where none does, it stays. Numbers are cut between two values, categories into the most frequent and the others;
    what is missing (NaN) lies below all numbers. `others` decide nothing and go where the cuts send them; a category
    that no row of a cut has goes with the less frequent ones.

    >>> cells_of_both(np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[2.5], [9.0]]), [True], 2)[1].tolist()
    [1, 1]
    """
    filled, guests = (np.where(np.isnan(one), -np.inf, one) for one in (rows, others))
    spans = np.array([_width(filled[:, place], number) for place, number in enumerate(is_number)])
    cells, seats = np.zeros(len(rows), dtype=np.int64), np.zeros(len(others), dtype=np.int64)
    waiting, done = [(np.arange(len(rows)), np.arange(len(others)))], 0
    while waiting:
        inside, beside = waiting.pop()
        cut = _cut(filled, inside, (is_number, spans), k) if len(inside) >= 2 * k else None
        if cut is None:
            cells[inside], seats[beside] = done, done
            done += 1
        else:
            first, theirs = cut.first(filled[inside]), cut.first(guests[beside])
            waiting += [(inside[~first], beside[~theirs]), (inside[first], beside[theirs])]
    return cells, seats


@dataclass(frozen=True)
class Cut:
    """One cut at one column: numbers up to `highest`, or the categories in `codes`, are its first half."""

    place: int
    highest: float
    codes: Array | None

    def first(self, rows: Array) -> Array:
        """Of rows `(m, Q)`, which are in the first half `(m,)`."""
        column = rows[:, self.place]
        found: Array = column <= self.highest if self.codes is None else np.isin(column, self.codes)
        return found


def _cut(rows: Array, inside: Array, about: tuple[Sequence[bool], Array], k: int) -> Cut | None:
    is_number, spans = about
    widths = [_width(rows[inside, place], number) for place, number in enumerate(is_number)]
    order = np.argsort(-np.divide(widths, np.where(spans > 0, spans, 1.0)), kind="stable")
    for place in order:
        if widths[place] <= 0:
            return None
        cut = _halves(rows[inside, place], int(place), is_number=is_number[place])
        if k <= cut.first(rows[inside]).sum() <= len(inside) - k:
            return cut
    return None


def _width(column: Array, is_number: bool) -> float:
    if not len(column):
        return 0.0
    if not is_number:
        return float(len(np.unique(column)) - 1)
    known = column[np.isfinite(column)]
    span = float(known.max() - known.min()) if len(known) else 0.0
    # Where some are missing there is something to cut, however little the others differ.
    return max(span, 1e-9) if 0 < len(known) < len(column) else span


def _halves(column: Array, place: int, *, is_number: bool) -> Cut:
    """The most even cut between two values `(m,)`: numbers in order, categories the most frequent first."""
    values, counts = np.unique(column, return_counts=True)
    order = np.arange(len(values)) if is_number else np.lexsort((values, -counts))
    ends = np.cumsum(counts[order])[:-1]
    lower = values[order][: np.abs(ends - len(column) / 2).argmin() + 1]
    return Cut(place, float(lower[-1]), None if is_number else lower)


def middle(column: Array, cells: Array, *, is_number: bool) -> Array:
    """What takes the place of each row's value `(n,)`: its cell's median number, or most frequent category.

    Where more than half of a cell's numbers are missing, all become so; among equally frequent categories the lowest.

    >>> middle(np.array([1.0, 2.0, 9.0, 5.0]), np.array([0, 0, 0, 1]), is_number=True).tolist()
    [2.0, 2.0, 2.0, 5.0]
    """
    found = np.empty(len(column))
    for inside in _members(cells):
        found[inside] = _number(column[inside]) if is_number else _category(column[inside])
    return found


def _members(cells: Array) -> list[Array]:
    """Row numbers of each cell."""
    order = np.argsort(cells, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(cells[order])) + 1)


def _number(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if 2 * len(known) >= len(values) and len(known) else float("nan")


def _category(codes: Array) -> float:
    values, counts = np.unique(codes, return_counts=True)
    return float(values[counts.argmax()])


def middles_of_others(found: Array, cells: Array, theirs: Array) -> Array:
    """Of rows in the cells `theirs (m,)`, what `middle` found `(n,)` for those cells.

    >>> middles_of_others(np.array([2.0, 2.0, 5.0]), np.array([0, 0, 1]), np.array([1, 0])).tolist()
    [5.0, 2.0]
    """
    values: Array = found[np.unique(cells, return_index=True)[1]]
    return values[theirs]


def loss(rows: Array, cells: Array, is_number: Sequence[bool]) -> float:
    """Normalised certainty penalty, 0 (nothing lost) to 1: each cell's width in each column, averaged over rows.

    >>> loss(np.array([[1.0], [2.0], [5.0]]), np.array([0, 0, 1]), [True])
    0.16666666666666666
    """
    filled = np.where(np.isnan(rows), -np.inf, rows)
    total, members = 0.0, _members(cells)
    for place, number in enumerate(is_number):
        span = _width(filled[:, place], number)
        for inside in members:
            width = _width(filled[inside, place], number)
            if span > 0 and width > 0:  # categories: how many of all the cell holds (Xu et al.)
                share = width / span if number else (width + 1) / (span + 1)
                total += min(1.0, share) * len(inside)
    return total / max(rows.size, 1)
