"""Layers that torch's ONNX exporter has no form for, written as ONNX's own: recurrent layers with lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from assay.models.recurrent import Recurrent
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


def exportable(module: nn.Module) -> nn.Module:
    """The module, changed in place, with every recurrent body in the form that the exporter takes."""
    swap(module, {name: OnnxRecurrent(one) for name, one in module.named_modules() if isinstance(one, Recurrent)})
    return module
