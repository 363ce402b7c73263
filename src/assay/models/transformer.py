"""Transformer encoder: pre-norm blocks of attention and a two-layer network, and a classifier made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models import defaults_of, register_architecture
from assay.models.attention import MultiHeadAttention, Rotary
from assay.models.text import TextClassifier, resolve_text, text_options
from assay.values import Column

Positions = Literal["rotary", "learned", "none"]
POSITIONS = ("rotary", "learned", "none")


class FeedForward(nn.Module):
    """The same two linear layers with GELU at every position."""

    def __init__(self, dim: int, *, num_hidden: int, dropout: float) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(dim, num_hidden), nn.Linear(num_hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, L, D)` to `(N, L, D)`."""
        outputs: Tensor = self.narrow(self.drop(nn.functional.gelu(self.widen(inputs))))
        return outputs


class Positioned(nn.Module):
    """How positions enter: `start` adds learned ones to the input, `rotary` turns queries and keys of each layer.

    Raises ModelError for an unknown kind, and from `start` for a position that no learned embedding has.
    """

    def __init__(self, kind: Positions, *, dim: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        if kind not in POSITIONS:
            raise ModelError(Problem(f"positions is {kind!r}", ", ".join(POSITIONS)))
        self.rotary = Rotary(dim // num_heads) if kind == "rotary" else None
        self.learned = nn.Embedding(max_length, dim) if kind == "learned" else None
        if self.learned is not None:
            nn.init.normal_(self.learned.weight, std=0.02)

    def start(self, embedded: Tensor, *, first: int = 0) -> Tensor:
        """Embedded tokens `(N, L, D)` at positions `first`, `first` + 1, ... with their positions in them."""
        if self.learned is None:
            return embedded
        end = first + embedded.shape[1]
        if end > self.learned.num_embeddings:
            raise ModelError(Problem(f"a text of {end} tokens", f"{self.learned.num_embeddings} or fewer"))
        # One lookup a row: a gradient of single rows can then be read off what was looked up.
        places = torch.arange(first, end, device=embedded.device).expand(len(embedded), -1)
        placed: Tensor = embedded + self.learned(places)
        return placed


class EncoderBlock(nn.Module):
    """Pre-norm: $x + A(N(x))$, then $x + F(N(x))$ (Xiong et al. 2020, section 3.1)."""

    def __init__(self, dim: int, *, num_heads: int, num_hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, num_heads, dropout=dropout)
        self.forward_layers = FeedForward(dim, num_hidden=num_hidden, dropout=dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.drop = nn.Dropout(dropout)

    def forward(self, states: Tensor, seen: Tensor, rotary: Rotary | None) -> Tensor:
        """States `(N, L, D)` and the mask of keys `(N, 1, 1, L)` to states `(N, L, D)`."""
        normed = self.norms[0](states)
        states = states + self.drop(self.attention(normed, *self.attention.project(normed), seen, rotary))
        states = states + self.drop(self.forward_layers(self.norms[1](states)))
        return states


class Encoder(nn.Module):
    """Embedded tokens `(N, L, D)` to states `(N, L, D)`, each from the whole text; 0 at padding.

    Limits: time and memory grow with the square of L. Raises ModelError when `num_heads` does not divide `dim`.
    Source: Vaswani et al. 2017, section 3.1, with the norms before the layers.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 4,
        num_layers: int = 1,
        num_hidden: int | None = None,
        positions: Positions = "rotary",
        max_length: int = 512,
        layer_dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if not 0 <= layer_dropout < 1:
            raise ModelError(Problem(f"layer_dropout is {layer_dropout}", "0 to below 1"))
        hidden = 2 * dim if num_hidden is None else num_hidden
        self.blocks = nn.ModuleList(
            EncoderBlock(dim, num_heads=num_heads, num_hidden=hidden, dropout=layer_dropout) for _ in range(num_layers)
        )
        self.positions = Positioned(positions, dim=dim, num_heads=num_heads, max_length=max_length)
        self.norm = nn.LayerNorm(dim)
        self.num_outputs = dim

    def forward(self, embedded: Tensor, seen: Tensor) -> Tensor:
        """`(N, L, D)` and the mask `(N, L)`, True up to each row's last token, to `(N, L, D)`."""
        states = self.positions.start(embedded)
        for block in self.blocks:
            states = block(states, seen[:, None, None], self.positions.rotary)
        outputs: Tensor = self.norm(states) * seen[:, :, None]
        return outputs

    def last(self, states: Tensor, seen: Tensor) -> Tensor:
        """The state at the first token, which has seen all: `(N, D)`."""
        return states[:, 0]


def _transformer(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    rest = dict(params)
    options = text_options(columns, rest)
    pool = rest.pop("pool")
    body = Encoder(options.dim, max_length=options.max_length, **rest)
    return TextClassifier(body, num_outputs=num_outputs, options=options, pool=pool)


def _resolved(columns: Sequence[Column], params: Mapping[str, Any]) -> Mapping[str, Any]:
    rest = defaults_of(Encoder.__init__, without=["max_length"])  # that of the texts
    found = resolve_text(columns, params, rest={"pool": "mean_max", **rest})
    if found["num_hidden"] is None:
        found["num_hidden"] = 2 * text_options(columns, dict(params)).dim
    return found


register_architecture("transformer", _transformer, resolver=_resolved)
