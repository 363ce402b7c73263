"""Several modules of one architecture, one of which answers each row: the share of them that select."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import Architecture, register_architecture
from assay.models.wrapped import build_base, named_base, resolve_base
from assay.values import Column

NAME = "votes"
FLOOR = 1e-6  # a probability that nobody votes for: its logarithm stays finite


class Votes(nn.Module):
    r"""$\log \sum_k w_k [\arg\max_j f_{kj}(x) = y]$ for each class y, of members f and weights w of sum 1.

    The probability of an answer when the member that gives it is drawn by the weights. A row that any member cannot
    answer is NaN.

    >>> first, second = nn.Linear(1, 2), nn.Linear(1, 2)
    >>> _ = [nn.init.constant_(one.bias, 0) for one in (first, second)]
    >>> first.weight.data, second.weight.data = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]])
    >>> Votes([first, second], torch.tensor([0.25, 0.75]))(torch.ones(1, 1)).exp().tolist()
    [[0.75, 0.25]]
    """

    weights: Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", weights.to(torch.float32))
        if hasattr(members[0], "encode"):
            self.encode = members[0].encode

    def forward(self, inputs: Tensor) -> Tensor:
        """What the members take to `(N, K)`."""
        total = None
        for member, weight in zip(self.members, self.weights, strict=True):
            outputs = member(inputs)
            vote = nn.functional.one_hot(outputs.argmax(dim=1), outputs.shape[1]) * weight
            vote = torch.where(torch.isfinite(outputs).all(dim=1, keepdim=True), vote, torch.nan)
            total = vote if total is None else total + vote
        if total is None:
            raise ModelError(Problem("votes need at least one member"))
        return total.clamp(min=FLOOR).log()


def votes_architecture(base: Architecture, num: int) -> Architecture:
    """`num` modules of `base`; their weights in the vote are among the tensors."""
    return Architecture(NAME, {"base": named_base(base), "num": num})


def _votes(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    num = params.get("num", 0)
    members = [build_base(NAME, params, parts=("base", "num"), columns=columns, num_outputs=num_outputs)]
    members += [
        build_base(NAME, params, parts=("base",), columns=columns, num_outputs=num_outputs) for _ in range(1, num)
    ]
    return Votes(members, torch.full((len(members),), 1 / len(members)))


register_architecture(NAME, _votes, resolver=resolve_base)
