"""Linear layers with weights of 8 bits: a registered architecture, so that a quantised model saves and loads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.models import Architecture, register_architecture
from assay.models.compensated import in_turn
from assay.models.wrapped import build_base, named_base, resolve_base, swap_linear
from assay.values import Array, Column

LEVELS = 127  # weights use -127..127; inputs 0..127 within the calibrated range
NAME = "int8"


class Int8Linear(nn.Module):
    r"""`y = x W^T + b` with $W_{oi} \approx s_o q_{oi}$, q in -127..127, one scale per output: a quarter of the bytes.

    `arithmetic` "int8" also rounds inputs to a fixed grid and multiplies whole numbers; "float32" expands the weights
    once, at first use, and then costs what a float layer costs. The grid is fixed, not fitted to each batch, so that
    one row's answer never depends on the rows beside it. Inputs in the calibrated range use 7 of 8 bits: no
    instruction set saturates, and values up to twice the range are not clipped. Limits: no gradients.
    """

    weight: Tensor
    bias: Tensor | None
    weight_scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor

    def __init__(self, num_inputs: int, num_outputs: int, *, has_bias: bool = True, arithmetic: str = "int8") -> None:
        super().__init__()
        if arithmetic not in ("int8", "float32"):
            raise ModelError(Problem(f"arithmetic {arithmetic!r}", "int8, float32"))
        self.arithmetic = arithmetic
        self.register_buffer("weight", torch.zeros(num_outputs, num_inputs, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.ones(num_outputs))
        self.register_buffer("bias", torch.zeros(num_outputs) if has_bias else None)
        if arithmetic == "int8":
            self.register_buffer("input_scale", torch.ones(()))
            self.register_buffer("input_zero_point", torch.zeros((), dtype=torch.int32))
        self._ready: Any = None  # built from the buffers at first use; forgotten when they are loaded anew
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, in)` to `(N, out)` float32; a row with a NaN or infinite input answers NaN."""
        if self._ready is None:
            self._ready = self._prepare()
        if self.arithmetic == "float32":
            return functional.linear(inputs, self._ready, self.bias)
        scale, zero_point, packed = self._ready
        answer: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            inputs, scale, zero_point, packed
        )
        return answer + inputs.sum(dim=-1, keepdim=True) * 0  # rounding would hide a NaN

    def _prepare(self) -> Any:
        if self.arithmetic == "float32":
            return self.weight.float() * self.weight_scale[:, None]
        with warnings.catch_warnings():
            # torch 2.13 marks tensors of quantised types as deprecated; the packed weights have no other way in.
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*", category=UserWarning)
            zeros = torch.zeros(len(self.weight), dtype=torch.int64)
            quantised = torch._make_per_channel_quantized_tensor(self.weight, self.weight_scale.double(), zeros, 0)
            packed = torch.ops.quantized.linear_prepack(quantised, self.bias)
        return float(self.input_scale), int(self.input_zero_point), packed

    def __deepcopy__(self, memo: dict[int, Any]) -> Int8Linear:
        copied = Int8Linear(
            self.weight.shape[1], self.weight.shape[0], has_bias=self.bias is not None, arithmetic=self.arithmetic
        )
        copied.load_state_dict(self.state_dict())
        memo[id(self)] = copied
        return copied.train(self.training)


def _forget(layer: nn.Module, incompatible: Any) -> None:
    if isinstance(layer, Int8Linear):
        layer._ready = None


def quantised_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `(out, in)` as int8 and one float32 scale per output: `|w - s q| <= s / 2`.

    >>> quantised_weight(torch.tensor([[1.27, -0.5]]))[0].tolist()
    [[127, -50]]
    """
    largest = weight.detach().abs().amax(dim=1)
    scale = torch.where(largest > 0, largest / LEVELS, 1.0)
    return torch.round(weight.detach() / scale[:, None]).clamp(-LEVELS, LEVELS).to(torch.int8), scale


def from_linear(
    layer: nn.Linear, *, arithmetic: str, low: float, high: float, square: Array | None = None
) -> Int8Linear:
    """The 8-bit version of a layer whose inputs were seen to lie between `low` and `high`.

    With their mean square `(in, in)`, weights are rounded in turn: what one loses goes into those not yet rounded.
    """
    made = Int8Linear(layer.in_features, layer.out_features, has_bias=layer.bias is not None, arithmetic=arithmetic)
    made.weight, made.weight_scale = quantised_weight(layer.weight)
    if square is not None:
        exact = made.weight_scale.double().numpy()
        codes, _ = in_turn(layer.weight.detach().numpy(), square, lambda *_: exact, codes=(-LEVELS, LEVELS))
        made.weight = torch.from_numpy(codes.astype(np.int8))
    if layer.bias is not None:
        made.bias = layer.bias.detach().clone()
    if arithmetic == "int8":
        low, high = min(low, 0.0), max(high, 0.0)  # 0 must be on the grid: it is what a ReLU gives
        scale = (high - low) / LEVELS or 1.0
        made.input_scale = torch.tensor(scale, dtype=torch.float32)
        made.input_zero_point = torch.tensor(round(-low / scale), dtype=torch.int32)
    return made.eval()


def int8_architecture(base: Architecture, arithmetic: Mapping[str, str]) -> Architecture:
    """The architecture of `base` with the named linear layers in 8 bits."""
    return Architecture(NAME, {"base": named_base(base), "arithmetic": dict(arithmetic)})


def _int8(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    parts = ("base", "arithmetic")
    module = build_base(NAME, params, parts=parts, columns=columns, num_outputs=num_outputs)

    def make(layer: nn.Linear, arithmetic: Any) -> nn.Module:
        has_bias = layer.bias is not None
        return Int8Linear(layer.in_features, layer.out_features, has_bias=has_bias, arithmetic=str(arithmetic))

    return swap_linear(module, params["arithmetic"], within=params["base"]["name"], make=make)


register_architecture(NAME, _int8, resolver=resolve_base)
