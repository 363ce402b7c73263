"""A table module whose encoding is free of what group columns say of it linearly, and of these columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import Architecture, register_architecture
from assay.models.mlp import TableEncoder
from assay.models.wrapped import build_base, named_base, resolve_base, swap
from assay.values import Array, Column

NAME = "uncorrelated"
AT_ONCE = 65_536  # rows that are encoded together while fitting


class UncorrelatedEncoder(nn.Module):
    r"""`inner(x)` with $E' = E - \alpha S B$ for all slots but those of the hidden columns, S, which become 0.

    B are the least-squares weights of E on S and 1 over the training rows, each hidden column's weights moved so that
    their mean over these rows is 0. Then $S B = (S - \bar S) B$, and a category that training never had shifts nothing.
    """

    weights: Tensor  # (S, D), 0 for hidden slots
    slots: Tensor  # (S,) places of the hidden columns' slots in the encoding
    kept: Tensor  # (D,) 1, and 0 for hidden slots

    def __init__(self, inner: TableEncoder, *, hidden: Sequence[int], alpha: float) -> None:
        super().__init__()
        of_column = inner.columns_of_slots()
        is_hidden = torch.isin(of_column, torch.tensor(list(hidden), dtype=torch.int64))
        self.inner, self.alpha, self.num_encoded = inner, alpha, inner.num_encoded
        self.register_buffer("slots", torch.nonzero(is_hidden)[:, 0], persistent=False)  # follows from the columns
        self.register_buffer("kept", (~is_hidden).float(), persistent=False)
        self.register_buffer("weights", torch.zeros(int(is_hidden.sum()), self.num_encoded))

    @torch.no_grad()
    def fit(self, inputs: Array) -> None:
        """Fit the inner encoder, then the weights, on training inputs `(N, F)`."""
        self.inner.fit(inputs)
        num = len(self.slots)
        gram, cross = np.zeros((num, num)), np.zeros((num, self.num_encoded))
        for start in range(0, len(inputs), AT_ONCE):
            rows = torch.from_numpy(np.array(inputs[start : start + AT_ONCE], dtype=np.float32))
            encoded = self.inner(rows).double().numpy()
            own = encoded[:, self.slots.numpy()]
            gram, cross = gram + own.T @ own, cross + own.T @ encoded
        of_column = self.inner.columns_of_slots()[self.slots].numpy()
        weights = shifts(gram, cross, of_column) * self.kept.numpy()
        self.weights.copy_(torch.from_numpy(weights))

    def columns_of_slots(self) -> Tensor:
        """Which column each encoded number is of, `(D,)`."""
        return self.inner.columns_of_slots()

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, F)` to `(N, D)`; differentiable with respect to the numeric columns."""
        encoded = self.inner(inputs)
        shift = encoded.detach().index_select(1, self.slots) @ self.weights
        found: Tensor = (encoded - self.alpha * shift) * self.kept
        return found


def shifts(gram: Array, cross: Array, of_column: Array) -> Array:
    r"""Weights `(S, D)` from $S^T S$ and $S^T E$ of indicators S; the slots of each of `of_column (S,)` sum to 1 a row.

    Of weights that fit alike the shortest; then each column's are moved to a mean of 0 over the rows, but for slots
    that no row had, which stay 0. Of one column they are each group's mean of E, less the mean of all rows.

    >>> own, encoded = np.eye(2)[[0, 0, 1, 1]], np.array([[3.0], [5.0], [1.0], [3.0]])
    >>> shifts(own.T @ own, own.T @ encoded, np.array([0, 0])).tolist()
    [[1.0], [-1.0]]
    """
    weights: Array = np.linalg.lstsq(gram, cross, rcond=None)[0]
    counts = np.diag(gram)
    for column in np.unique(of_column):
        inside = (of_column == column) & (counts > 0)
        mean = counts[inside] @ weights[inside] / counts[inside].sum()
        weights[inside] -= mean
    weights[counts == 0] = 0
    return weights


def uncorrelated_architecture(base: Architecture, *, hidden: Sequence[str], alpha: float) -> Architecture:
    """The architecture of `base`, its encoding without what the hidden columns say of it."""
    return Architecture(NAME, {"base": named_base(base), "hidden": list(hidden), "alpha": float(alpha)})


def _uncorrelated(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    base = build_base(NAME, params, parts=("base", "hidden", "alpha"), columns=columns, num_outputs=num_outputs)
    names = [str(name) for name in params["hidden"]]
    places = [place for place, column in enumerate(columns) if column.kind == "categorical" and column.name in names]
    encoders = {name: one for name, one in base.named_modules() if isinstance(one, TableEncoder)}
    if len(places) != len(names) or not names or len(encoders) != 1 or len(columns) == len(names):
        known = ", ".join(column.name for column in columns if column.kind == "categorical") or "there is none"
        what = f"{NAME!r} cannot take {', '.join(names) or 'nothing'} out of what {params['base']['name']!r} reads"
        raise ModelError(Problem(what, f"some, not all, columns of a table model, categorical: {known}"))
    alpha = float(params["alpha"])
    swap(base, {name: UncorrelatedEncoder(one, hidden=places, alpha=alpha) for name, one in encoders.items()})
    return base


register_architecture(NAME, _uncorrelated, resolver=resolve_base)
