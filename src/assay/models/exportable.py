"""Layers written for torch's ONNX exporter: with lengths, over the tokens that are there, in fewer nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay.models.mlp import TableEncoder
from assay.models.packed_encoder import OnnxEncoder
from assay.models.recurrent import Recurrent
from assay.models.transformer import Encoder
from assay.models.wrapped import swap

# ONNX has the gates in another order: i, o, f, g for an LSTM (here i, f, g, o), and z, r, n for a GRU (here r, z, n).
GATES = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
OPSET = 20


class OnnxRecurrent(nn.Module):
    """A recurrent body as ONNX nodes that read each row's length: for the exporter only, it cannot be called.

    Source: ONNX operators RNN, LSTM and GRU, version 14 (`linear_before_reset` 1 is torch's GRU).
    """

    def __init__(self, body: Recurrent) -> None:
        super().__init__()
        self.body = body
        self.num_outputs = body.num_outputs
        self.last = body.last
        for layer in range(body.layers.num_layers):
            parts = [
                self._weights(f"l{layer}{way}") for way in (["", "_reverse"] if body.layers.bidirectional else [""])
            ]
            for name, tensors in zip(("weight", "recurrent", "bias"), zip(*parts, strict=True), strict=True):
                self.register_buffer(f"{name}_{layer}", torch.stack(tensors).detach())

    def forward(self, embedded: Tensor, seen: Tensor) -> Tensor:
        """`(N, L, D)` and the mask `(N, L)` to `(N, L, num_outputs)`."""
        layers, kind = self.body.layers, self.body.cell
        lengths = seen.sum(dim=1).clamp_min(1).to(torch.int32)
        about: dict[str, Any] = {
            "hidden_size": layers.hidden_size,
            "direction": "bidirectional" if layers.bidirectional else "forward",
        }
        about |= {"linear_before_reset": 1} if kind == "gru" else {}
        states = embedded.transpose(0, 1)
        for layer in range(layers.num_layers):
            weights = [getattr(self, f"{name}_{layer}") for name in ("weight", "recurrent", "bias")]
            shape = (states.shape[0], len(weights[0]), states.shape[1], layers.hidden_size)
            given = (states, *weights, lengths)
            told = torch.onnx.ops.symbolic(kind.upper(), given, about, dtype=states.dtype, shape=shape, version=OPSET)
            states = told.permute(0, 2, 1, 3).flatten(2)
        return states.transpose(0, 1) * seen[:, :, None]

    def _weights(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        layers, order = self.body.layers, GATES[self.body.cell]

        def ordered(part: str) -> Tensor:
            gates = getattr(layers, f"{part}_{name}").chunk(len(order))
            return torch.cat([gates[place] for place in order])

        biases = torch.cat([ordered("bias_ih"), ordered("bias_hh")])
        return ordered("weight_ih"), ordered("weight_hh"), biases


class OnnxTable(nn.Module):
    """A fitted encoding of table rows with the same answers in fewer nodes: at batch 1 they were half of an MLP's time.

    What no training row called for (a missing number, a logarithm) is left out. A category's slot is 1 for codes c with
    low <= c < high, and the slot of unknown ones for all others, NaN included: two comparisons for all slots at once.
    """

    is_rest: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, encoder: TableEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        code, size = encoder.slot_code, encoder.slot_size
        self.register_buffer("is_rest", code < 0)
        self.register_buffer("low", code.clamp_min(0))
        self.register_buffer(
            "high", torch.where(code < 0, size, torch.nextafter(code, torch.full_like(code, torch.inf)))
        )
        self.has_missing, self.has_logs = bool(encoder.saw_missing.any()), bool((encoder.log_scale > 0).any())

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, F)` to `(N, D)`."""
        known = self.encoder
        values = linear = inputs.index_select(1, known.numeric)
        if self.has_missing:
            missing = torch.isnan(values) & known.saw_missing
            values = linear = torch.where(missing, known.fill, values)
        if self.has_logs:
            scale = torch.where(known.log_scale > 0, known.log_scale, 1.0)
            logs = torch.sign(values) * torch.log1p(values.abs() / scale)
            linear = torch.where(known.log_scale > 0, logs, values)
        linear = (linear - known.centre) / known.scale
        parts = [linear, missing.to(inputs.dtype) if self.has_missing else linear * 0]
        if known.num_bins:
            left, right = known.edges[:, :-1], known.edges[:, 1:]
            parts.append(((values[:, :, None] - left) / (right - left)).clamp(0, 1).flatten(1))
        codes = inputs.index_select(1, known.slot_column)
        parts.append((((codes >= self.low) & (codes < self.high)) ^ self.is_rest).to(inputs.dtype))
        return torch.cat(parts, dim=1)


def exportable(module: nn.Module) -> nn.Module:
    """The module, changed in place, with recurrent bodies, Transformers and encodings of rows as they are exported."""
    parts = [(name, part) for name, part in module.named_modules() if name]
    swap(module, {name: OnnxRecurrent(part) for name, part in parts if isinstance(part, Recurrent)})
    swap(module, {name: OnnxEncoder(part) for name, part in parts if isinstance(part, Encoder)})
    swap(module, {name: OnnxTable(part) for name, part in parts if isinstance(part, TableEncoder)})
    return module
