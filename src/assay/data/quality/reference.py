"""What the test rows look like, column by column, in so few numbers that anybody may read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.data.quality.drift import NUM_BINS, chi_square_of, features, stability_index
from assay.values import Array, Column, Data, modality

SCHEMA = "urn:assay:reference:v1"
ANSWERS = "(answers)"
FEWEST_ROWS = 100  # with fewer, nothing would be noticed and a share would say too much of one person
FEWEST_IN_CELL = 5
FEWEST_EXPECTED = 20.0  # rows of a window in a cell: alarms are far out in the tail of their distribution
MOST_ROWS, MOST_COLUMNS = 10_000, 1_000


@dataclass(frozen=True)
class Cells:
    """The cells of one column and the share of reference rows in each; the last is missing, unknown or refused.

    `edges`: of numbers, cell c holds (edges[c-1], edges[c]]; None: the values are the cells themselves, from 0.
    """

    name: str
    edges: Array | None
    shares: Array

    def counts(self, values: Array) -> Array:
        """Rows in each cell, of values `(N,)`."""
        last = len(self.shares) - 1
        if self.edges is None:
            cells = np.where((values >= 0) & (values < last), values, last).astype(np.int64)
        else:
            cells = np.where(np.isnan(values), last, np.searchsorted(self.edges, values, side="left"))
        found: Array = np.bincount(cells, minlength=last + 1)
        return found


@dataclass(frozen=True)
class Reference:
    """Cells of every column, and of the answers."""

    num_rows: int
    columns: tuple[Cells, ...]

    def compare(self, counts: Sequence[Array]) -> list[tuple[float, float]]:
        """(p, stability index) of each column, of rows counted in the same cells."""
        found = []
        for cells, counted in zip(self.columns, counts, strict=True):
            expected = cells.shares * self.num_rows
            p = chi_square_of(np.stack([expected, counted]).astype(np.float64), fewest=FEWEST_EXPECTED)
            found.append((p, float(stability_index(expected, counted.astype(np.float64)))))
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data that `reference_from_json` reads."""
        columns = [
            {
                "name": one.name,
                "edges": None if one.edges is None else one.edges.tolist(),
                "shares": one.shares.tolist(),
            }
            for one in self.columns
        ]
        return {"schema": SCHEMA, "split": "test", "num_rows": self.num_rows, "columns": columns}


def reference_from_json(told: Mapping[str, Any]) -> Reference:
    """The reference that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    if told["schema"] != SCHEMA:
        raise ValueError(f"schema {told['schema']!r}")
    columns = []
    for one in told["columns"]:
        edges = None if one["edges"] is None else np.array(one["edges"], dtype=np.float64)
        shares = np.array(one["shares"], dtype=np.float64)
        if shares.ndim != 1 or len(shares) < 1 or (edges is not None and edges.shape != (len(shares) - 2,)):
            raise ValueError(f"the cells of {one['name']!r} do not fit each other")
        columns.append(Cells(str(one["name"]), edges, shares))
    return Reference(int(told["num_rows"]), tuple(columns))


def described(columns: Sequence[Column], inputs: Array) -> Array:
    """What is compared of rows `(N, ...)`, as `(N, F)` float64: the cells of a table, brightness and contrast of a
    picture, how many words and letters of a text.
    """
    if modality(columns) == "table":
        return inputs.astype(np.float64)
    return np.stack([one.current for one in features(columns, inputs[:1], inputs)], axis=1).astype(np.float64)


def reference_of(data: Data, answers: Array | None) -> Reference | None:
    """Shares of cells of the test rows, which every measurement stands for, and of their `answers (N,)` where known.

    Numbers are told apart at deciles rounded to a power of ten, so that no edge is a cell of somebody. Cells of fewer
    than five rows show the mean of their shares; where they have fewer than five together 0, and the smallest other
    cell is told with their rows, which would else be what all others leave of the whole. Others show three digits. At
    most 10,000 rows, evenly taken. None for fewer than 100 test rows or more than 1,000 columns.
    """
    split = data.splits.get("test")
    if split is None or len(split) < FEWEST_ROWS or len(data.columns) > MOST_COLUMNS:
        return None
    taken = np.unique(np.linspace(0, len(split) - 1, min(len(split), MOST_ROWS)).astype(np.int64))
    values = described(data.columns, split.inputs[taken])
    if data.modality == "table":
        sizes = [(one.name, None if one.kind == "numeric" else len(one.categories)) for one in data.columns]
    else:
        sizes = [(one.name, None) for one in features(data.columns, split.inputs[:1], split.inputs[:1])]
    columns = [_cells(name, num, values[:, place]) for place, (name, num) in enumerate(sizes)]
    if answers is not None and answers.ndim == 1 and len(answers) == len(split):
        columns.append(_cells(ANSWERS, len(data.classes) or None, answers[taken].astype(np.float64)))
    return Reference(len(taken), tuple(columns))


def _cells(name: str, num: int | None, values: Array) -> Cells:
    edges = _edges(values[np.isfinite(values)]) if num is None else None
    empty = Cells(name, edges, np.zeros(num + 1 if edges is None else len(edges) + 2))  # type: ignore[operator]
    counted = empty.counts(values)
    told, is_rare = counted.astype(np.float64), counted < FEWEST_IN_CELL
    together = counted[is_rare].sum()
    told[is_rare] = together / is_rare.sum() if together >= FEWEST_IN_CELL else 0
    if together < FEWEST_IN_CELL:  # a test of shares joins these cells as well
        told[np.where(is_rare, np.inf, told).argmin()] += together
    return Cells(name, edges, np.where(is_rare, np.round(told / len(values), 6), np.round(told / len(values), 3)))


def _edges(values: Array) -> Array:
    """Deciles, rounded to the power of ten below a tenth of the distance from the first to the ninth."""
    if not len(values):
        return np.empty(0)
    deciles = np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS)
    spread = float(deciles[-1] - deciles[0]) or float(np.ptp(values))
    if spread == 0:
        return np.empty(0)
    digits = -math.floor(math.log10(spread / NUM_BINS))
    return np.unique([round(float(one), digits) for one in deciles])
