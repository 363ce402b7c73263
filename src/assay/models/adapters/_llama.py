"""A decoder of the Llama type, written out: rotary positions in neighbouring pairs, shared keys, gated feed-forward."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class LlamaSizes:
    """Sizes of a decoder, as a GGUF file's metadata have them."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_heads: int
    hidden: int
    head_width: int
    norm_epsilon: float
    rope_base: float


@dataclass(frozen=True)
class Past:
    """What was read so far: keys and values of every layer `(N, heads, P, d)`, which of the P are there, and the next
    position of each row `(N,)`.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    seen: Tensor
    position: Tensor

    def repeat(self, num: int) -> Past:
        """The past of one row, for `num` rows, without copying it."""
        keys, values = (tuple(one.expand(num, -1, -1, -1) for one in part) for part in (self.keys, self.values))
        return Past(keys, values, self.seen.expand(num, -1), self.position.expand(num))


class Block(nn.Module):
    """One layer: attention over what was read, then the feed-forward step, each on normalised states and added."""

    def __init__(self, sizes: LlamaSizes) -> None:
        super().__init__()
        self.sizes = sizes
        narrow = sizes.key_heads * sizes.head_width
        self.attention_norm = nn.RMSNorm(sizes.width, eps=sizes.norm_epsilon)
        self.query = nn.Linear(sizes.width, sizes.heads * sizes.head_width, bias=False)
        self.key = nn.Linear(sizes.width, narrow, bias=False)
        self.value = nn.Linear(sizes.width, narrow, bias=False)
        self.out = nn.Linear(sizes.heads * sizes.head_width, sizes.width, bias=False)
        self.norm = nn.RMSNorm(sizes.width, eps=sizes.norm_epsilon)
        self.gate = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.up = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.down = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(
        self, states: Tensor, turns: tuple[Tensor, Tensor], may_see: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States `(N, L, D)` to states, and the keys and values of past and these `(N, heads, P + L, d)`."""
        normed = self.attention_norm(states)
        query = turned(self._split(self.query(normed)), turns)
        keys, values = turned(self._split(self.key(normed)), turns), self._split(self.value(normed))
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        mixed = functional.scaled_dot_product_attention(query, keys, values, attn_mask=may_see, enable_gqa=True)
        states = states + self.out(mixed.transpose(1, 2).flatten(2))
        normed = self.norm(states)
        return states + self.down(functional.silu(self.gate(normed)) * self.up(normed)), keys, values

    def _split(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], -1, self.sizes.head_width).transpose(1, 2)


def turned(heads: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions: neighbours (x_2i, x_2i+1) of `(N, heads, L, d)` turned by cosines and sines `(N, 1, L, d/2)`.

    Source: Su et al. 2021, section 3.2.1; the order of the pairs is the one of GGUF files of the Llama type.
    """
    cosine, sine = turns
    first, second = heads[..., 0::2], heads[..., 1::2]
    return torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1).flatten(-2)


class Llama(nn.Module):
    """Token ids to states; `head` turns states `(..., D)` into logits over the vocabulary (Touvron 2023, 2.2)."""

    def __init__(self, sizes: LlamaSizes, *, is_tied: bool) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = nn.Embedding(sizes.vocabulary, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, eps=sizes.norm_epsilon)
        self.output = None if is_tied else nn.Linear(sizes.width, sizes.vocabulary, bias=False)

    def forward(self, ids: Tensor, is_token: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """Ids `(N, L)`, of which `is_token` are there (a row's padding is at its end), after what was read before.

        Gives the states `(N, L, D)` and the past with these added.
        """
        num, length = ids.shape
        offset = torch.zeros(num, dtype=torch.int64) if past is None else past.position
        positions = offset[:, None] + torch.arange(length)
        causal = torch.ones(length, length, dtype=torch.bool).tril() & is_token[:, None, :]
        before = causal.new_empty(num, 0) if past is None else past.seen
        may_see = torch.cat([before[:, None, :].expand(-1, length, -1), causal], dim=2)
        may_see = (may_see | ~is_token[:, :, None])[:, None]  # padding looks anywhere: no row of the softmax is empty
        turns = self._turns(positions)
        states, keys, values = self.words(ids), [], []
        for number, block in enumerate(self.blocks):
            known = None if past is None else (past.keys[number], past.values[number])
            states, key, value = block(states, turns, may_see, known)
            keys.append(key)
            values.append(value)
        seen = torch.cat([before, is_token], dim=1)
        return self.norm(states), Past(tuple(keys), tuple(values), seen, offset + is_token.sum(dim=1))

    def head(self, states: Tensor) -> Tensor:
        """States `(..., D)` to logits `(..., V)`."""
        weight = self.words.weight if self.output is None else self.output.weight
        return functional.linear(states, weight)

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        width = self.sizes.head_width
        rates = torch.exp(-math.log(self.sizes.rope_base) * torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = positions[:, None, :, None].double() * rates
        return angles.cos().float(), angles.sin().float()
