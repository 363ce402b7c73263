"""Linear layers as products of two thinner ones: a registered architecture, so that it saves and loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.models import Architecture, register_architecture
from assay.models.wrapped import build_base, named_base, resolve_base, swap_linear
from assay.values import Column

NAME = "low_rank"


class LowRank(nn.Module):
    """`x -> U (V x) + b` with V `(r, in)` and U `(out, r)`: r (in + out) weights in place of in * out."""

    def __init__(self, num_inputs: int, num_outputs: int, rank: int, *, has_bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(num_inputs, rank, bias=False)
        self.second = nn.Linear(rank, num_outputs, bias=has_bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        outputs: Tensor = self.second(self.first(inputs))
        return outputs


def factored(layer: nn.Linear, second: Tensor, *, share: float) -> tuple[LowRank, float]:
    r"""The thinnest factors that keep `share` of what the layer's outputs vary, and the share that is kept.

    With inputs of second moments $M = \frac1n\sum x x^T = LL^T$ the mean squared change of the outputs is
    $\|(W - W')L\|_F^2$, least for the largest singular values of $WL$ (Eckart and Young 1936).
    """
    weight = layer.weight.detach().double()
    ridge = 1e-6 * second.diagonal().mean().clamp_min(1e-12)
    root = torch.linalg.cholesky(second.double() + ridge * torch.eye(len(second), dtype=torch.float64))
    left, values, right = torch.linalg.svd(weight @ root, full_matrices=False)
    kept = values.square().cumsum(0) / values.square().sum().clamp_min(1e-30)
    rank = min(int((kept < share).sum()) + 1, len(values))
    made = LowRank(layer.in_features, layer.out_features, rank, has_bias=layer.bias is not None)
    with torch.no_grad():
        made.second.weight.copy_(left[:, :rank] * values[:rank].sqrt())
        inner = values[:rank, None].sqrt() * right[:rank]
        made.first.weight.copy_(torch.linalg.solve_triangular(root.T, inner.T, upper=True).T)
        if layer.bias is not None:
            made.second.bias.copy_(layer.bias)
    return made, float(kept[rank - 1])


def low_rank_architecture(base: Architecture, ranks: Mapping[str, int]) -> Architecture:
    """The architecture of `base` with the named linear layers factored."""
    return Architecture(NAME, {"base": named_base(base), "ranks": dict(ranks)})


def _low_rank(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    module = build_base(NAME, params, parts=("base", "ranks"), columns=columns, num_outputs=num_outputs)

    def make(layer: nn.Linear, rank: Any) -> nn.Module:
        return LowRank(layer.in_features, layer.out_features, int(rank), has_bias=layer.bias is not None)

    return swap_linear(module, params["ranks"], within=params["base"]["name"], make=make)


register_architecture(NAME, _low_rank, resolver=resolve_base)
