"""What would have to change: the fewest columns of a row, set to values that occur, that bring another answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from assay.values import Array, Column

NUM_VALUES = 8  # tried for each column
BEAM = 2  # partial changes that are taken further


@dataclass(frozen=True)
class Contrast:
    """`changed (R, F)` rows with another answer where one was found, `cost (R,)` columns changed, -1 = none found."""

    changed: Array
    cost: Array


def candidates(known: Array, columns: Sequence[Column], *, fixed: Sequence[str]) -> list[tuple[int, float]]:
    """(column, value) pairs to try, from rows `(b, F)`: quantiles of 5 to 95 %, or the most frequent categories.

    At most 8 a column, all of them values that occur. Columns named in `fixed` are never changed.

    >>> columns = [Column("age", "numeric"), Column("sex", "categorical")]
    >>> candidates(np.array([[1.0, 0], [3, 0], [5, 1]]), columns, fixed=["sex"])
    [(0, 1.0), (0, 3.0), (0, 5.0)]
    """
    found: list[tuple[int, float]] = []
    for place, column in enumerate(columns):
        seen = known[:, place][np.isfinite(known[:, place])]
        if column.name in fixed or not len(seen):
            continue
        if column.kind == "categorical":
            codes, times = np.unique(seen, return_counts=True)
            values = codes[np.argsort(-times, kind="stable")][:NUM_VALUES]
        else:
            values = np.unique(
                np.quantile(seen, np.linspace(0.05, 0.95, NUM_VALUES), method="nearest")
            )  # values that occur
        found += [(place, float(value)) for value in values]
    return found


def contrast(
    decide: Callable[[Array, Array], tuple[Array, Array]],
    rows: Array,
    values: Sequence[tuple[int, float]],
    *,
    most: int = 3,
) -> Contrast:
    """For each of rows `(R, F)` the fewest changes, out of `values` and at most `most`, that bring the wanted answer.

    `decide(inputs (M, F), owner (M,))` gives whether the answer is the wanted one, and how near it is, `(M,)` each.
    All single changes are tried, so a cost of 1 is the truth; of more, the 2 changes that come nearest are taken
    further, and from there every pair with them: a cost of 2 or 3 may be one that a full search would undercut, and
    rows may be missed. Among the changes that reach it the nearest to the wanted answer is taken.
    Source: Wachter, Mittelstadt and Russell 2017, section III (nearest worlds); Mothilal et al. 2020, section 3
    (sparsity, plausible values); counted in columns, as Ustun, Spangher and Liu 2019, section 2 allow.
    """
    changed, cost = rows.astype(np.float32).copy(), np.full(len(rows), -1)
    if not len(values):
        return Contrast(changed, cost)
    places, numbers = (np.array(one) for one in zip(*values, strict=True))
    owner = np.arange(len(rows))
    beam = changed.copy()  # partial changes, and whose they are
    touched = np.zeros(beam.shape, dtype=bool)
    for step in range(1, most + 1):
        if not len(owner):
            break
        inputs = np.repeat(beam, len(places), axis=0)
        inputs[np.arange(len(inputs)), np.tile(places, len(beam))] = np.tile(numbers, len(beam))
        source, which = np.repeat(np.arange(len(beam)), len(places)), np.tile(places, len(beam))
        is_reached, nearness = decide(inputs, owner[source])
        # A column changed twice is one change less: it was tried the step before.
        rank = np.where(touched[source, which] | ~np.isfinite(nearness), -np.inf, nearness)
        rank = np.where(is_reached & np.isfinite(rank), rank + 1e6, rank)
        order = np.lexsort((-rank, owner[source]))
        first = np.concatenate([[0], 1 + np.flatnonzero(np.diff(owner[source][order]))])
        best = order[first]
        done = is_reached[best] & np.isfinite(rank[best])
        for at in best[done]:
            changed[owner[source[at]]], cost[owner[source[at]]] = inputs[at], step
        kept = np.concatenate([order[first + turn] for turn in range(min(BEAM, len(places)))])
        kept = kept[np.isfinite(rank[kept]) & (cost[owner[source[kept]]] < 0)]
        touched = touched[source[kept]]
        touched[np.arange(len(kept)), which[kept]] = True
        beam, owner = inputs[kept], owner[source[kept]]
    return Contrast(changed, cost)
