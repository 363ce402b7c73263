"""Which of very many columns move the answers: groups of neighbours, then parts of those groups that move them most."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from assay.values import Array

NUM_GROUPS = 128  # asked in each round
KEPT, PARTS = 32, 4  # of them the groups that are taken apart, and into how many


def movers(function: Callable[[Array], Array], rows: Array, others: Array, *, num: int) -> Array:
    r"""Places `(num,)` of the columns that move the answers most, in the order of the columns.

    Definition: a group g of columns moves them by $m_g = \sum_k E[(f_k(z, g of x) - f_k(z) + f_k(x) - f_k(x, g of
    z))^2] / 4$ over pairs of a row x and another row z: the mean of g alone and of all but g, as in the ends of
    `multilinear`. 128 groups of neighbours are asked first; the 32 with the largest m are parted in four each, until
    every group is a column.
    Shapes: rows and others `(R, F)`, F > 128; function inputs `(M, F)` to outputs `(M, K)`; num <= 32. `num_rows` says
    how many are asked, which grows with the logarithm of F.
    Limits: where columns act by themselves and differ independently between x and z, m of a group is the sum of its
    columns', so that a column with more than a 32nd of the sum of all is found, up to the R pairs drawn. Columns that
    cancel out within a group, or that only act together with one of another group, may be missed, and so may each of
    many small ones: what the others move must be told beside those found.
    Source: group testing (Dorfman 1943; adaptive halving as Sobel and Groll 1959) on the measure of Owen 1972.

    >>> rng = np.random.default_rng(0)
    >>> def wide(inputs):
    ...     return inputs[:, [700]] - 2 * inputs[:, [31]] * (inputs[:, [700]] > 0)
    >>> movers(wide, rng.normal(size=(64, 1000)), rng.normal(size=(64, 1000)), num=2).tolist()
    [31, 700]
    """
    spans = _parted(np.array([[0, rows.shape[1]]]), NUM_GROUPS)
    full, empty = np.split(function(np.concatenate([rows, others])).astype(np.float64), 2)
    for _ in range(_rounds(rows.shape[1]) - 1):
        moved = _moved(function, (rows, full), (others, empty), spans)
        spans = _parted(spans[np.argsort(-moved, kind="stable")[:KEPT]], PARTS)
    moved = _moved(function, (rows, full), (others, empty), spans)
    return np.sort(spans[np.argsort(-moved, kind="stable")[:num], 0])


def num_rows(num_pairs: int, num_columns: int) -> int:
    """Rows that `movers` asks for.

    >>> num_rows(64, 1_000), num_rows(64, 10_000), num_rows(64, 1_000_000)
    (49280, 82048, 131200)
    """
    return num_pairs * (2 + 2 * NUM_GROUPS * _rounds(num_columns))


def _rounds(num_columns: int) -> int:
    size, found = -(-num_columns // NUM_GROUPS), 1
    while size > 1:
        size, found = -(-size // PARTS), found + 1
    return found


def _parted(spans: Array, parts: int) -> Array:
    """Spans `(G, 2)` of columns, each in parts of as equal length as may be; a short one has empty ones among them."""
    first, length = spans[:, :1], np.diff(spans, axis=1)
    ends = first + length * np.arange(parts + 1) // parts
    return np.stack([ends[:, :-1].ravel(), ends[:, 1:].ravel()], axis=1)


def _moved(
    function: Callable[[Array], Array], own: tuple[Array, Array], other: tuple[Array, Array], spans: Array
) -> Array:
    """The measure of each span `(G,)`, -1 of an empty one; pairs whose answers errored are left out."""
    total = np.zeros(len(spans))
    for row, full, background, empty in zip(*own, *other, strict=True):
        inputs = np.concatenate(
            [np.repeat(background[None], len(spans), axis=0), np.repeat(row[None], len(spans), axis=0)]
        )
        for place, (first, last) in enumerate(spans.tolist()):
            inputs[place, first:last] = row[first:last]
            inputs[len(spans) + place, first:last] = background[first:last]
        alone, without = np.split(function(inputs).astype(np.float64), 2)
        total += np.nan_to_num(((alone - empty + full - without) ** 2).sum(axis=1), posinf=0.0)
    return np.where(spans[:, 1] > spans[:, 0], total / (4 * len(own[0])), -1.0)
