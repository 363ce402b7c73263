"""Transformer decoder, alone or after an encoder: next tokens from those before, with a cache for one at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models.attention import MultiHeadAttention, Rotary
from assay.models.text import PADDING, seen_of
from assay.models.transformer import Encoder, FeedForward, Positioned, Positions


@dataclass(frozen=True)
class Sizes:
    """Widths and depth that encoder and decoder share."""

    dim: int = 64
    num_heads: int = 4
    num_layers: int = 2
    num_hidden: int = 128
    max_length: int = 512
    dropout: float = 0.1
    positions: Positions = "rotary"


@dataclass(frozen=True)
class Cache:
    """What a decoder needs of the tokens it has read: keys and values by layer, `(N, heads, K, d)`; never changed.

    `memory` holds those of the encoder's states, projected once. `tokens` `(N, K)` tells which keys are padding.
    """

    own: tuple[tuple[Tensor, Tensor], ...] = ()
    memory: tuple[tuple[Tensor, Tensor], ...] = ()
    tokens: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """How many tokens were read."""
        return 0 if self.tokens is None else self.tokens.shape[1]


@dataclass(frozen=True)
class Memory:
    """States of an encoder `(N, S, D)` that a decoder may look at where `seen` `(N, S)`."""

    states: Tensor
    seen: Tensor


class DecoderBlock(nn.Module):
    """Pre-norm: masked attention to the tokens so far, attention to the memory if there is one, feed-forward."""

    def __init__(self, sizes: Sizes, *, reads_memory: bool) -> None:
        super().__init__()
        dim, dropout = sizes.dim, sizes.dropout
        self.attention = MultiHeadAttention(dim, sizes.num_heads, dropout=dropout)
        self.memory = MultiHeadAttention(dim, sizes.num_heads, dropout=dropout) if reads_memory else None
        self.forward_layers = FeedForward(dim, num_hidden=sizes.num_hidden, dropout=dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(3 if reads_memory else 2)])
        self.drop = nn.Dropout(dropout)

    def remember(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory's states. Raises ModelError for a block that reads none."""
        if self.memory is None:
            raise ModelError(Problem("this decoder reads no memory"))
        return self.memory.project(states)

    def extend(self, states: Tensor, before: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens before and of these states."""
        keys, values = self.attention.project(self.norms[0](states))
        if before is None:
            return keys, values
        return torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)

    def forward(
        self,
        states: Tensor,
        own: tuple[Tensor, Tensor],
        seen: Tensor,
        rotary: Rotary | None,
        memory: tuple[Tensor, Tensor, Tensor] | None,
    ) -> Tensor:
        """States `(N, Q, D)`, their keys and values, the mask `(N, 1, Q, K)`, and keys, values, mask of the memory."""
        states = states + self.drop(self.attention(self.norms[0](states), *own, seen, rotary))
        if self.memory is not None and memory is not None:
            states = states + self.drop(self.memory(self.norms[1](states), *memory))
        states = states + self.drop(self.forward_layers(self.norms[-1](states)))
        return states


class Decoder(nn.Module):
    r"""Token ids `(N, L)` to logits of the next token `(N, L, V)`: $p(t_{l+1} \mid t_{1..l})$, and given a memory.

    A position sees itself and those before it that are not padding. With `reads_memory` each block also attends to an
    encoder's states. Limits: greedy use only needs `read`; a text may have `max_length` tokens.
    Source: Vaswani et al. 2017, section 3.1, with the norms before the layers.
    """

    def __init__(self, vocab_size: int, sizes: Sizes | None = None, *, reads_memory: bool = False) -> None:
        super().__init__()
        self.sizes = sizes = sizes or Sizes()
        self.reads_memory = reads_memory
        self.embedding = nn.Embedding(vocab_size, sizes.dim, padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=sizes.dim**-0.5)
        self.positions = Positioned(
            sizes.positions, dim=sizes.dim, num_heads=sizes.num_heads, max_length=sizes.max_length
        )
        self.drop = nn.Dropout(sizes.dropout)
        self.blocks = nn.ModuleList([DecoderBlock(sizes, reads_memory=reads_memory) for _ in range(sizes.num_layers)])
        self.norm = nn.LayerNorm(sizes.dim)
        self.head = nn.Linear(sizes.dim, vocab_size)

    def forward(self, tokens: Tensor, memory: Memory | None = None) -> Tensor:
        """Ids `(N, L)` to logits `(N, L, V)`, all positions at once."""
        return self.read(tokens, Cache(), memory)[0]

    def read(self, tokens: Tensor, cache: Cache, memory: Memory | None = None) -> tuple[Tensor, Cache]:
        """Read the next tokens `(N, Q)` after those in `cache`: logits `(N, Q, V)`, and the cache that has them too.

        Equal to the last Q positions of reading everything at once. Raises ModelError for a text that is too long, and
        for a memory that is missing or cannot be read.
        """
        if self.reads_memory == (memory is None):
            what = "no memory to read" if memory is None else "a memory, which this decoder cannot read"
            raise ModelError(Problem(f"the decoder was given {what}"))
        first, end = cache.num_tokens, cache.num_tokens + tokens.shape[1]
        if end > self.sizes.max_length:
            raise ModelError(Problem(f"a text of {end} tokens", f"{self.sizes.max_length} or fewer"))
        known = tokens if cache.tokens is None else torch.cat([cache.tokens, tokens], dim=1)
        seen = causal(first, end, tokens.device) & known.ne(PADDING)[:, None, None]
        if memory is not None and not cache.memory:
            cache = replace(cache, memory=tuple(block.remember(memory.states) for block in self._layers()))
        states = self.drop(self.positions.start(self.embedding(tokens), first=first))
        own = []
        for number, block in enumerate(self._layers()):
            own.append(block.extend(states, cache.own[number] if cache.own else None))
            looked = None if memory is None else (*cache.memory[number], memory.seen[:, None, None])
            states = block(states, own[-1], seen, self.positions.rotary, looked)
        return self.head(self.norm(states)), replace(cache, own=tuple(own), tokens=known)

    def _layers(self) -> list[DecoderBlock]:
        return [block for block in self.blocks if isinstance(block, DecoderBlock)]


class EncoderDecoder(nn.Module):
    """Source ids `(N, S)` and target ids `(N, L)` to logits of the next target token `(N, L, V)`.

    Limits: one table of tokens a side; both sides have the same sizes. Source: Vaswani et al. 2017, section 3.
    """

    def __init__(self, num_source: int, num_target: int, sizes: Sizes | None = None) -> None:
        super().__init__()
        sizes = sizes or Sizes()
        self.embedding = nn.Embedding(num_source, sizes.dim, padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=sizes.dim**-0.5)
        self.encoder = Encoder(
            sizes.dim,
            num_heads=sizes.num_heads,
            num_layers=sizes.num_layers,
            num_hidden=sizes.num_hidden,
            positions=sizes.positions,
            max_length=sizes.max_length,
            layer_dropout=sizes.dropout,
        )
        self.decoder = Decoder(num_target, sizes, reads_memory=True)

    def remember(self, source: Tensor) -> Memory:
        """The encoder's states of source ids `(N, S)`."""
        seen = seen_of(source)
        return Memory(self.encoder(self.decoder.drop(self.embedding(source)), seen), seen)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits `(N, L, V)` of the token after each target token."""
        logits: Tensor = self.decoder(target, self.remember(source))
        return logits


def causal(first: int, end: int, device: torch.device | None = None) -> Tensor:
    """The mask `(Q, K)`, K = `end`: the queries are positions `first` to `end` - 1, and see themselves and before.

    >>> causal(1, 3).int().tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    positions = torch.arange(end, device=device)
    return positions[None] <= positions[first:, None]


@torch.no_grad()
def greedy(
    decoder: Decoder, start: Tensor, *, num_tokens: int, stop: int | None = None, memory: Memory | None = None
) -> Tensor:
    """The likeliest next token, `num_tokens` times: ids `(N, L)` to `(N, L + num_tokens)`, padding after `stop`.

    `start` holds no padding. Limits: greedy is not the likeliest text.
    """
    text, latest, cache = start, start, Cache()
    stopped = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    for _ in range(num_tokens):
        logits, cache = decoder.read(latest, cache, memory)
        latest = logits[:, -1].argmax(dim=1).masked_fill(stopped, PADDING)[:, None]
        text = torch.cat([text, latest], dim=1)
        if stop is not None:
            stopped = stopped | (latest[:, 0] == stop)
    return text
