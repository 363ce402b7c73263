"""Cells of rows that lie close together, none with fewer than k: Mondrian's cuts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.values import Array


def mondrian(rows: Array, is_number: Sequence[bool], k: int) -> Array:
    """Cell of each row `(n,)` of `(n, Q)` numbers and category codes, every cell with k rows or more.

    Greedy and strict: a cell is cut in two, as evenly as whole values allow, at the column where it is widest (range
    over the range of all rows; categories: their number less one, likewise) that leaves k rows or more on both sides;
    where none does, it stays. Numbers are cut between two values, categories into the most frequent and the others;
    what is missing (NaN) lies below all numbers.

    >>> mondrian(np.array([[1.0], [2.0], [3.0], [4.0], [4.0]]), [True], 2).tolist()
    [0, 0, 1, 1, 1]
    """
    filled = np.where(np.isnan(rows), -np.inf, rows)
    spans = np.array([_width(filled[:, place], number) for place, number in enumerate(is_number)])
    cells = np.zeros(len(rows), dtype=np.int64)
    waiting, done = [np.arange(len(rows))], 0
    while waiting:
        inside = waiting.pop()
        halves = _cut(filled, inside, (is_number, spans), k) if len(inside) >= 2 * k else None
        if halves is None:
            cells[inside] = done
            done += 1
        else:
            waiting += halves[::-1]
    return cells


def _cut(rows: Array, inside: Array, about: tuple[Sequence[bool], Array], k: int) -> list[Array] | None:
    is_number, spans = about
    widths = [_width(rows[inside, place], number) for place, number in enumerate(is_number)]
    order = np.argsort(-np.divide(widths, np.where(spans > 0, spans, 1.0)), kind="stable")
    for place in order:
        if widths[place] <= 0:
            return None
        ranks = rows[inside, place] if is_number[place] else _by_frequency(rows[inside, place])
        first = _first_half(ranks)
        if k <= first.sum() <= len(inside) - k:
            return [inside[first], inside[~first]]
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


def _by_frequency(codes: Array) -> Array:
    """Rank of each row's category `(m,)`, the most frequent first, equals by code."""
    values, place, counts = np.unique(codes, return_inverse=True, return_counts=True)
    ranks = np.empty(len(values))
    ranks[np.lexsort((values, -counts))] = np.arange(len(values))
    found: Array = ranks[place]
    return found


def _first_half(ranks: Array) -> Array:
    """Rows at or below the value after which the cut is the most even."""
    values, counts = np.unique(ranks, return_counts=True)
    ends = np.cumsum(counts)[:-1]
    below: Array = ranks <= values[np.abs(ends - len(ranks) / 2).argmin()]
    return below


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
