"""A multilayer perceptron on raw table rows; encoding is inside, so gradients and files are of the whole system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.values import Array, Column, Split

HEAVY_TAIL = 8.0  # a column whose largest |z| exceeds this is put on a log scale first
MAX_BINS = 64
OUT_OF_REACH = 1e36  # where the edges lie that a column with few distinct values has no use for: their ramps stay 0


class TableEncoder(nn.Module):
    r"""Raw rows `(N, F)` to encoded rows `(N, D)`, with buffers fitted on the training split only.

    Numeric column: $z = (g(x) - \mu)/\sigma$, where $g$ is the identity, or $\mathrm{sign}(x)\log(1+|x|/s)$ for a heavy
    tail, and `num_bins` ramps $\min(\max((x-a_k)/(a_{k+1}-a_k), 0), 1)$ between training quantiles $a_k$
    (piecewise-linear encoding: Gorishniy et al. 2022, section 3.2). Categorical column: one slot per category and one
    for unknown. A numeric NaN gets its own slot when the training split had one in that column; otherwise it stays NaN
    and so does the row's output. Limits: ramps are flat outside the training range.
    """

    numeric: Tensor
    slot_column: Tensor
    slot_code: Tensor
    slot_size: Tensor
    categorical: Tensor
    num_codes: Tensor
    slot_place: Tensor
    centre: Tensor
    scale: Tensor
    log_scale: Tensor
    fill: Tensor
    saw_missing: Tensor
    edges: Tensor
    is_log: Tensor
    divisor: Tensor
    left: Tensor
    rise: Tensor

    def __init__(self, columns: Sequence[Column], *, num_bins: int = 0) -> None:
        super().__init__()
        if not columns:
            raise ModelError(Problem("a table model needs at least one column"))
        if not 0 <= num_bins <= MAX_BINS:
            raise ModelError(Problem(f"num_bins is {num_bins}", f"0 to {MAX_BINS}"))
        numeric = [i for i, column in enumerate(columns) if column.kind == "numeric"]
        slots = [
            (i, code)
            for i, column in enumerate(columns)
            if column.kind == "categorical"
            for code in range(-1, len(column.categories))
        ]
        sizes = [len(column.categories) for column in columns]
        places = {column: place for place, column in enumerate(dict.fromkeys(column for column, _ in slots))}
        count = len(numeric)
        self.num_columns = len(columns)
        self.num_bins = num_bins
        self.num_encoded = count * (2 + num_bins) + len(slots)
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.int64))
        self.register_buffer("slot_column", torch.tensor([i for i, _ in slots], dtype=torch.int64))
        self.register_buffer("slot_code", torch.tensor([code for _, code in slots], dtype=torch.float32))
        self.register_buffer("slot_size", torch.tensor([sizes[i] for i, _ in slots], dtype=torch.float32))
        # Follow from the slots, so files do not hold them: each column is looked at once, not once a slot.
        self.register_buffer("categorical", torch.tensor(list(places), dtype=torch.int64), persistent=False)
        limits = torch.tensor([sizes[i] for i in places], dtype=torch.float32)
        self.register_buffer("num_codes", limits, persistent=False)
        place = torch.tensor([places[i] for i, _ in slots], dtype=torch.int64)
        self.register_buffer("slot_place", place, persistent=False)
        self.register_buffer("centre", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("log_scale", torch.zeros(count))  # 0: linear column
        self.register_buffer("fill", torch.zeros(count))
        self.register_buffer("saw_missing", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("edges", torch.linspace(0, 1, num_bins + 1).repeat(count, 1))
        for name in ("is_log", "divisor", "left", "rise"):
            self.register_buffer(name, None, persistent=False)
        self._follow()

    def _follow(self) -> None:
        """What each call would make anew of the fitted buffers: a fifth of the time of one row."""
        self.is_log = self.log_scale > 0
        self.divisor = torch.where(self.is_log, self.log_scale, 1.0)
        self.left, self.rise = self.edges[:, :-1].clone(), self.edges[:, 1:] - self.edges[:, :-1]

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._follow()

    @torch.no_grad()
    def fit(self, inputs: Array) -> None:
        """Set every buffer from training inputs `(N, F)`. Raises ModelError for a column without any finite value."""
        for k, column in enumerate(self.numeric.tolist()):
            values = inputs[:, column].astype(np.float64)
            seen = values[np.isfinite(values)]
            if not len(seen):
                raise ModelError(Problem(f"column {column} has no finite value in the training split"))
            self.saw_missing[k] = bool(np.isnan(values).any())
            self.fill[k] = float(np.median(seen))
            log_scale = _log_scale(seen)
            moved = seen if log_scale == 0 else np.sign(seen) * np.log1p(np.abs(seen) / log_scale)
            self.log_scale[k] = log_scale
            self.centre[k] = float(moved.mean())
            self.scale[k] = float(moved.std()) or 1.0
            if self.num_bins:
                self.edges[k] = torch.from_numpy(_edges(seen, self.num_bins))
        self._follow()

    def columns_of_slots(self) -> Tensor:
        """Which column each encoded number is of, `(D,)`."""
        ramps = [self.numeric.repeat_interleave(self.num_bins)] if self.num_bins else []
        return torch.cat([self.numeric, self.numeric, *ramps, self.slot_column])

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, F)` to `(N, D)`; differentiable with respect to the numeric columns."""
        raw = inputs.index_select(1, self.numeric)
        missing = torch.isnan(raw) & self.saw_missing
        values = torch.where(missing, self.fill, raw)
        logs = torch.sign(values) * torch.log1p(values.abs() / self.divisor)
        linear = (torch.where(self.is_log, logs, values) - self.centre) / self.scale
        parts = [linear, missing.to(inputs.dtype)]
        if self.num_bins:
            parts.append(((values[:, :, None] - self.left) / self.rise).clamp(0, 1).flatten(1))
        codes = inputs.detach().index_select(1, self.categorical)
        codes = torch.where((codes >= 0) & (codes < self.num_codes), codes, -1.0)
        # 1 where the code is the slot's, else 0. In numbers, for comparing to booleans and casting takes twice as long.
        apart = (codes.index_select(1, self.slot_place) - self.slot_code).abs_().ceil_()
        parts.append(functional.relu(1 - apart))
        return torch.cat(parts, dim=1)


def _log_scale(seen: Array) -> float:
    """0 for a column that is fine as it is; else the scale of its signed logarithm: median of non-zero sizes."""
    spread = seen.std()
    sizes = np.abs(seen[seen != 0])
    if not spread or not len(sizes) or np.abs(seen - seen.mean()).max() <= HEAVY_TAIL * spread:
        return 0.0
    return float(np.median(sizes))


def _edges(seen: Array, num_bins: int) -> Array:
    """`num_bins + 1` increasing edges: training quantiles, then the most frequent other values, then out of reach."""
    values, counts = np.unique(seen.astype(np.float32), return_counts=True)
    share = np.cumsum(counts) / len(seen)
    at = np.searchsorted(share, np.linspace(0, 1, num_bins + 1)).clip(0, len(values) - 1)
    chosen = np.zeros(len(values), dtype=bool)
    chosen[at] = True
    # Where one value fills many quantiles (zero capital gain), the spare edges go to the next most frequent values.
    others = np.flatnonzero(~chosen)
    others = others[np.argsort(-counts[others], kind="stable")]
    chosen[others[: num_bins + 1 - chosen.sum()]] = True
    unused = num_bins + 1 - int(chosen.sum())
    return np.concatenate([values[chosen], (1 + np.arange(unused)) * OUT_OF_REACH]).astype(np.float32)


class MLP(nn.Module):
    """Raw rows `(N, F)` to outputs `(N, K)`: encoding, hidden layers with ReLU, one linear `head`.

    All weights are in `nn.Linear` layers (what pruning, quantisation and clipped gradients want); no BatchNorm, so one
    row's answer never depends on another's. With `scale_outputs` the head's output is multiplied by the standard
    deviation of the training labels and shifted by their mean, so that a regression answers in target units.
    Call `fit_encoding` before training. Raises ModelError for sizes that make no network.
    """

    output_scale: Tensor
    output_centre: Tensor

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        hidden: Sequence[int] = (64, 64),
        num_outputs: int = 2,
        num_bins: int = 0,
        dropout: float = 0.0,
        scale_outputs: bool = False,
    ) -> None:
        super().__init__()
        if num_outputs < 1 or any(width < 1 for width in hidden):
            raise ModelError(Problem(f"layer widths {list(hidden)} and {num_outputs} outputs", "whole numbers from 1"))
        self.encoder = TableEncoder(columns, num_bins=num_bins)
        layers: list[nn.Module] = []
        width = self.encoder.num_encoded
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = size
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, num_outputs)
        self.scale_outputs = scale_outputs
        if scale_outputs:
            self.register_buffer("output_scale", torch.ones(num_outputs))
            self.register_buffer("output_centre", torch.zeros(num_outputs))

    def fit_encoding(self, split: Split) -> None:
        """Fit the encoder's buffers, and the output scale if there is one, on this split only."""
        self.encoder.fit(split.inputs)
        if self.scale_outputs:
            labels = split.labels.reshape(len(split), -1).astype(np.float64)
            spread = np.where(labels.std(axis=0) > 0, labels.std(axis=0), 1.0)
            self.output_scale.copy_(torch.from_numpy(spread))
            self.output_centre.copy_(torch.from_numpy(labels.mean(axis=0)))

    def encoded_columns(self, inputs: Tensor) -> Tensor:
        """`(N, F)` to the encoding `(N, D)`."""
        encoded: Tensor = self.encoder(inputs)
        return encoded

    def columns_of_slots(self) -> Tensor:
        """Which column each encoded number is of, `(D,)`."""
        return self.encoder.columns_of_slots()

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, F)` to `(N, K)`."""
        return self.from_encoded(self.encoder(inputs))

    def from_encoded(self, encoded: Tensor) -> Tensor:
        """The encoding `(N, D)` to `(N, K)`."""
        outputs: Tensor = self.head(self.body(encoded))
        return outputs * self.output_scale + self.output_centre if self.scale_outputs else outputs
