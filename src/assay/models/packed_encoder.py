"""A Transformer encoder written for torch's ONNX exporter: over the tokens that are there, in ONNX Runtime's kernels.

Of 64 film reviews 58 % of all places are padding: norms, linear layers and GELU skip them, and only attention sees rows
side by side. ONNX Runtime's LayerNormalization takes 5.8 ns a number, its SkipLayerNormalization, of a sum, 1.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from assay.models.attention import MultiHeadAttention
from assay.models.transformer import Encoder

CONTRIB = "com.microsoft::"  # ONNX Runtime's own operators, built in


class OnnxEncoder(nn.Module):
    """The same encoder as ONNX nodes: for the exporter only, it cannot be called.

    States are `(T, 1, D)`: the T tokens of all rows one after the other, and of a row without any its first place, so
    that no row is empty; that place is 0 in the answer, as in torch. The exporter is told N L for T, and notes that on
    tensors in between: the notes must be taken out (`by_onnxruntime.lean`).
    Source: ONNX Runtime, "Contrib operators": SkipLayerNormalization, RotaryEmbedding, MultiHeadAttention.
    """

    def __init__(self, body: Encoder) -> None:
        super().__init__()
        self.positions, self.norm = body.positions, body.norm
        self.blocks: Any = body.blocks
        self.num_outputs, self.last = body.num_outputs, body.last

    def forward(self, embedded: Tensor, seen: Tensor) -> Tensor:
        """`(N, L, D)` and the mask `(N, L)` to `(N, L, D)`."""
        layout = _Layout(seen)
        states, added = layout.packed(embedded), None
        if self.positions.learned is not None:
            states = states + self.positions.learned(layout.columns)
        turns = self._turns(seen.shape[1])
        for block in self.blocks:
            states, normed = _normed(block.norms[0], states, added)
            mixed = _attended(block.attention, normed, layout, turns)
            states, normed = _normed(block.norms[1], states, block.attention.join(mixed))
            added = block.forward_layers(normed)
        _, normed = _normed(self.norm, states, added)
        return layout.padded(normed) * seen[:, :, None]

    def _turns(self, length: int) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the rotary angles, `(L, d/2)` each."""
        if self.positions.rotary is None:
            return None
        frequencies = self.positions.rotary.frequencies
        angles = torch.arange(length, dtype=frequencies.dtype)[:, None] * frequencies
        return angles.cos(), angles.sin()


class _Layout:
    """Where the tokens of a mask `(N, L)` are among all places, and back."""

    def __init__(self, seen: Tensor) -> None:
        kept = seen | (torch.arange(seen.shape[1]) == 0)
        self.size, self.num = kept.shape, kept.numel()  # Size.numel() would fix the number of rows
        found = torch.onnx.ops.symbolic("NonZero", (kept,), dtype=torch.int64, shape=(2, self.num), version=13)
        self.places = found.t()  # row and column
        self.columns = self.places[:, 1:]
        self.ranks = kept.flatten().to(torch.int64).cumsum(0) - 1  # at padding that of the token before
        self.lengths = kept.sum(dim=1).to(torch.int32)

    def packed(self, padded: Tensor) -> Tensor:
        """`(N, L, D)` to `(T, 1, D)`."""
        given, shape = (padded, self.places), (self.num, padded.shape[2])
        told: Tensor = torch.onnx.ops.symbolic("GatherND", given, dtype=padded.dtype, shape=shape, version=13)
        return told.unsqueeze(1)

    def padded(self, packed: Tensor) -> Tensor:
        """`(T, 1, D)` to `(N, L, D)`, padding being whatever token stands before it."""
        return packed.squeeze(1)[self.ranks].reshape(*self.size, -1)


def _attended(
    layer: MultiHeadAttention, normed: Tensor, layout: _Layout, turns: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Every token's mixture of its own row's values, `(T, 1, D)`, before heads are joined."""
    about = {"num_heads": layer.num_heads}
    queries, keys, values = layer.query(normed), layer.key(normed), layer.value(normed)
    if turns is not None:
        by = (layout.columns, *turns)
        queries, keys = (_contrib("RotaryEmbedding", (one, *by), about, one) for one in (queries, keys))
    queries, keys, values = (layout.padded(one) for one in (queries, keys, values))
    return layout.packed(_contrib("MultiHeadAttention", (queries, keys, values, None, layout.lengths), about, queries))


def _normed(norm: nn.LayerNorm, states: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum of both, and its layer norm."""
    if added is None:  # of twice the states, with four times the constant beside their variance, it is the same
        twice = (states, states, norm.weight, norm.bias)
        return states, _contrib("SkipLayerNormalization", twice, {"epsilon": 4 * norm.eps}, states)
    found = torch.onnx.ops.symbolic_multi_out(
        f"{CONTRIB}SkipLayerNormalization",
        (states, added, norm.weight, norm.bias),
        {"epsilon": norm.eps},
        dtypes=[states.dtype] * 4,
        shapes=[states.shape, (*states.shape[:2], 1), (*states.shape[:2], 1), states.shape],
        version=1,
    )
    return found[3], found[0]


def _contrib(name: str, given: Sequence[Tensor | None], about: Mapping[str, Any], like: Tensor) -> Tensor:
    """A node of ONNX Runtime's own whose answer has the shape of `like`."""
    told: Tensor = torch.onnx.ops.symbolic(
        f"{CONTRIB}{name}", given, dict(about), dtype=like.dtype, shape=like.shape, version=1
    )
    return told
