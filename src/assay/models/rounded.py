"""A module that answers with fewer digits: a registered architecture, so that what is served saves and loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.models import Architecture, register_architecture
from assay.models.wrapped import build_base, named_base, resolve_base
from assay.values import Column

NAME = "rounded"
FLOOR = 1e-9  # a probability that is rounded to nothing: its logarithm stays finite


class Rounded(nn.Module):
    """Log of the base's probabilities rounded to `decimals`, or with `top_only` of the largest one alone.

    The most probable class stays the most probable one: where rounding makes it tie, it keeps a thousandth of a step
    more. With `top_only` the other classes share what is left evenly, so that their order is not told.

    >>> Rounded(nn.Identity(), decimals=1)(torch.tensor([[0.3, 1.0]])).exp().round(decimals=3).tolist()
    [[0.30000001192092896, 0.699999988079071]]
    """

    def __init__(self, base: nn.Module, *, decimals: int, top_only: bool = False) -> None:
        super().__init__()
        self.base, self.decimals, self.top_only = base, decimals, top_only
        if hasattr(base, "encode"):
            self.encode = base.encode

    def forward(self, inputs: Tensor) -> Tensor:
        """What the base takes to `(N, K)`."""
        shares = torch.softmax(self.base(inputs), dim=1)
        largest, top = shares.max(dim=1, keepdim=True)
        told = torch.round(largest, decimals=self.decimals)
        if self.top_only:
            others = (1 - told) / max(1, shares.shape[1] - 1)
            kept = others.expand_as(shares).scatter(1, top, told)
        else:
            kept = torch.round(shares, decimals=self.decimals)
        rest = kept.scatter(1, top, -1.0).amax(dim=1, keepdim=True)
        kept = kept.scatter(1, top, torch.maximum(told, rest + 10.0 ** (-self.decimals - 3)))
        logs: Tensor = kept.clamp_min(FLOOR).log()
        return torch.where(torch.isfinite(largest), logs, torch.nan)


def rounded_architecture(base: Architecture, *, decimals: int, top_only: bool) -> Architecture:
    """The architecture of `base`, answering with fewer digits."""
    return Architecture(NAME, {"base": named_base(base), "decimals": decimals, "top_only": top_only})


def _rounded(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    parts = ("base", "decimals", "top_only")
    base = build_base(NAME, params, parts=parts, columns=columns, num_outputs=num_outputs)
    return Rounded(base, decimals=int(params["decimals"]), top_only=bool(params["top_only"]))


register_architecture(NAME, _rounded, resolver=resolve_base)
