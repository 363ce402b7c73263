"""Attention: where each query looks, as weights that sum to 1 over the keys it may see."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.models.kernels import Switched


def masked_softmax(logits: Tensor, seen: Tensor | None) -> Tensor:
    """Softmax over the last axis among positions where `seen` is True; all 0 where nothing may be seen.

    >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    if seen is None:
        return logits.softmax(dim=-1)
    # The smallest finite number instead of -inf: a row without any key has gradients of 0, not NaN.
    weights = logits.masked_fill(~seen, torch.finfo(logits.dtype).min).softmax(dim=-1)
    return weights.masked_fill(~seen, 0.0)


def attend(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Scaled dot-product attention, written out: $\mathrm{softmax}(QK^T/\sqrt{d})V$ and its weights.

    Shapes `(..., Q, d)`, `(..., K, d)`, `(..., K, v)` give `(..., Q, v)` and `(..., Q, K)`. `seen` `(..., Q, K)`
    is True where a query may look; a query that may look nowhere answers 0. Limits: memory grows with Q times K.
    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.1.

    >>> context, weights = attend(torch.zeros(1, 2), torch.zeros(4, 2), torch.arange(4.0)[:, None])
    >>> context.item(), weights.tolist()
    (1.5, [[0.25, 0.25, 0.25, 0.25]])
    """
    logits = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    weights = masked_softmax(logits, seen)
    return weights @ values, weights


class AdditiveAttention(nn.Module):
    r"""One context a query: $e_t = v^T \tanh(W_q q + W_k k_t)$, $a = \mathrm{softmax}(e)$, context $\sum_t a_t k_t$.

    Limits: costs Q times K times `num_hidden`, without a fused kernel.
    Source: Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", A.1.2.
    """

    def __init__(self, num_query: int, num_key: int, *, num_hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(num_query, num_hidden)
        self.key = nn.Linear(num_key, num_hidden, bias=False)
        self.energy = nn.Linear(num_hidden, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Queries `(N, Q, A)` over keys `(N, K, B)` where `seen` `(N, K)`: context `(N, Q, B)`, weights `(N, Q, K)`."""
        hidden = torch.tanh(self.query(queries)[:, :, None] + self.key(keys)[:, None])
        weights = masked_softmax(self.energy(hidden).squeeze(-1), seen[:, None])
        return weights @ keys, weights


class MultiHeadAttention(Switched):
    """Scaled dot-product attention in `num_heads` subspaces of width `dim / num_heads`, joined by a linear layer.

    Equal to `torch.nn.MultiheadAttention` with the same weights, in four `nn.Linear` layers, so that whatever works on
    linear layers finds them. `rotary`, where given, turns queries and keys by their positions.
    Source: Vaswani et al. 2017, section 3.2.2. Raises ModelError when `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ModelError(Problem(f"dim {dim} with {num_heads} heads", "heads that divide dim"))
        self.num_heads, self.width, self.dropout = num_heads, dim // num_heads, dropout
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.join = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def project(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `(N, heads, K, d)` of inputs `(N, K, dim)`."""
        return self._split(self.key(inputs)), self._split(self.value(inputs))

    def forward(
        self, inputs: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None, rotary: Rotary | None = None
    ) -> Tensor:
        """Inputs `(N, Q, dim)` over projected keys and values `(N, heads, K, d)` to `(N, Q, dim)`.

        `seen` broadcasts to `(N, heads, Q, K)`. With `rotary`, the queries are the last Q of the K positions.
        """
        queries = self._split(self.query(inputs))
        if rotary is not None:
            queries = rotary(queries, first=keys.shape[2] - queries.shape[2])
            keys = rotary(keys)
        outputs: Tensor = self.join(self.mix(queries, keys, values, seen).transpose(1, 2).flatten(2))
        return outputs

    def attention_weights(
        self, inputs: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None, rotary: Rotary | None = None
    ) -> Tensor:
        """Of the same arguments as `forward`: the weights `(N, heads, Q, K)`; values are not read."""
        queries = self._split(self.query(inputs))
        if rotary is not None:
            queries, keys = rotary(queries, first=keys.shape[2] - queries.shape[2]), rotary(keys)
        return masked_softmax(queries @ keys.transpose(-1, -2) / math.sqrt(self.width), seen)

    def mix(self, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        """Attention by head, `(N, heads, Q, d)`, by the kernel that is switched on."""
        dropout = self.dropout if self.training else 0.0
        if self.kernel == "fused":
            return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, dropout_p=dropout)
        context, weights = attend(queries, keys, values, seen)
        return context if not dropout else functional.dropout(weights, dropout) @ values

    def _split(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(*inputs.shape[:-1], self.num_heads, self.width).transpose(1, 2)


class Rotary(nn.Module):
    r"""Rotary positions: pair $(x_i, x_{i+d/2})$ at position p is turned by the angle $p\,b^{-2i/d}$, b = `base`.

    The product of a query at p and a key at q then depends on positions through p - q alone. No parameters.
    Source: Su et al. 2021, "RoFormer", section 3.2. Raises ModelError for an odd width.
    """

    frequencies: Tensor

    def __init__(self, width: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ModelError(Problem(f"rotary positions on heads of width {width}", "an even width"))
        frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        self.register_buffer("frequencies", frequencies.float(), persistent=False)

    def forward(self, inputs: Tensor, *, first: int = 0) -> Tensor:
        """Inputs `(..., L, d)` at positions `first`, `first` + 1, ..."""
        positions = torch.arange(first, first + inputs.shape[-2], device=inputs.device, dtype=self.frequencies.dtype)
        angles = positions[:, None] * self.frequencies
        cos, sin = angles.cos().to(inputs.dtype), angles.sin().to(inputs.dtype)
        left, right = inputs.chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
