"""Table rows as numbers a generator can draw, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.values import Array, Column

KNOTS = 201


class RowCode(nn.Module):
    r"""Rows `(N, F)` to codes `(N, D)` and back to rows of the same kinds of values.

    Numeric column: $u = 2 F(x) - 1$ with F the piecewise-linear distribution function through 201 training quantiles
    (of equal values the middle rank), and one slot each for "present" and "missing"; back by $F^{-1}$. Categorical
    column: one slot per category and one for unknown. Limits: values between training quantiles are interpolated, so
    gaps inside a column are not kept, and nothing outside the training range can be drawn. Raises ModelError for a
    column without any finite value.
    """

    knots: Tensor
    saw_missing: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        if not columns:
            raise ModelError(Problem("a table model needs at least one column"))
        self.numeric = [i for i, column in enumerate(columns) if column.kind == "numeric"]
        self.categorical = [i for i, column in enumerate(columns) if column.kind != "numeric"]
        # Slots come in blocks, one of which is chosen: (present, missing) a numeric column, then (unknown, categories).
        self.sizes = [2] * len(self.numeric) + [1 + len(columns[i].categories) for i in self.categorical]
        self.num_encoded = len(self.numeric) + sum(self.sizes)
        self.register_buffer("knots", torch.linspace(0, 1, KNOTS, dtype=torch.float64).repeat(len(self.numeric), 1))
        self.register_buffer("saw_missing", torch.zeros(len(self.numeric), dtype=torch.bool))

    def fit(self, inputs: Array) -> None:
        """Set the quantiles from training rows `(N, F)`."""
        for k, column in enumerate(self.numeric):
            values = inputs[:, column].astype(np.float64)
            seen = values[np.isfinite(values)]
            if not len(seen):
                raise ModelError(Problem(f"column {column} has no finite value in the training split"))
            self.saw_missing[k] = len(seen) < len(values)
            self.knots[k] = torch.from_numpy(np.quantile(seen, np.linspace(0, 1, KNOTS)))

    def encode(self, inputs: Array) -> Tensor:
        """`(N, F)` to `(N, D)`."""
        parts: list[Array] = []
        blocks: list[Array] = []
        grid = np.linspace(-1, 1, KNOTS)
        for k, column in enumerate(self.numeric):
            values = inputs[:, column].astype(np.float64)
            missing = ~np.isfinite(values)
            parts.append(_middle_rank(np.where(missing, np.median(self.knots[k].numpy()), values), self.knots[k], grid))
            blocks.append(missing.astype(np.int64))
        for size, column in zip(self.sizes[len(self.numeric) :], self.categorical, strict=True):
            codes = inputs[:, column]
            known = (codes >= 0) & (codes < size - 1)
            blocks.append(np.where(known, codes, -1).astype(np.int64) + 1)
        slots = [
            functional.one_hot(torch.from_numpy(block), size) for block, size in zip(blocks, self.sizes, strict=True)
        ]
        ranks = torch.from_numpy(np.stack(parts, axis=1)) if parts else torch.zeros(len(inputs), 0)
        return torch.cat([ranks.float(), *(slot.float() for slot in slots)], dim=1)

    def choose(self, drawn: Tensor) -> Tensor:
        """Free numbers `(N, D)` to codes: ranks by tanh, one slot a block, with the gradient of its softmax."""
        count = len(self.numeric)
        chosen = [drawn[:, :count].tanh()]
        for k, given in enumerate(torch.split(drawn[:, count:], self.sizes, dim=1)):
            block = given
            if k < count:
                impossible = torch.stack([torch.tensor(False), ~self.saw_missing[k]])
                block = block.masked_fill(impossible, -torch.inf)
            soft = block.softmax(dim=1)
            hard = functional.one_hot(soft.argmax(dim=1), soft.shape[1]).to(soft.dtype)
            chosen.append(hard - soft.detach() + soft)
        return torch.cat(chosen, dim=1)

    def decode(self, encoded: Tensor) -> Array:
        """`(N, D)` to rows `(N, F)` float32, categories as codes."""
        count = len(self.numeric)
        numbers = encoded.detach().double().numpy()
        rows = np.zeros((len(numbers), count + len(self.categorical)), dtype=np.float32)
        chosen = [block.argmax(dim=1).numpy() for block in torch.split(encoded[:, count:], self.sizes, dim=1)]
        for k, column in enumerate(self.numeric):
            values = np.interp(numbers[:, k], np.linspace(-1, 1, KNOTS), self.knots[k].numpy())
            rows[:, column] = np.where(chosen[k] == 1, np.nan, values)
        for block, column in zip(chosen[count:], self.categorical, strict=True):
            rows[:, column] = block - 1
        return rows


def _middle_rank(values: Array, knots: Tensor, grid: Array) -> Array:
    """Where `values` lie between the knots, on `grid`; for a value that many knots share, their middle."""
    sorted_knots = knots.numpy()
    clipped = np.clip(values, sorted_knots[0], sorted_knots[-1])
    left = np.searchsorted(sorted_knots, clipped, side="left")
    right = np.searchsorted(sorted_knots, clipped, side="right") - 1
    exact = right >= left
    below, above = np.minimum(left, right).clip(0), np.maximum(left, right).clip(0, len(grid) - 1)
    width = np.where(exact, 1.0, sorted_knots[above] - sorted_knots[below])
    part = np.where(exact, 0.5, (clipped - sorted_knots[below]) / width)
    found: Array = grid[below] + part * (grid[above] - grid[below])
    return found
