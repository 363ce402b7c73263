"""Weights in 8 bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from assay.errors import Problem
from assay.models.adapters.module import ModuleModel
from assay.models.int8 import from_linear, int8_architecture
from assay.models.wrapped import linear_layers, swap
from assay.registry import EVERY_TASK, treatment
from assay.treatments import _common
from assay.values import Array, System

# Weights from which whole-number arithmetic is no slower than float32 at batch 1 (one x86 core with AVX-512 VNNI:
# 13 against 4 microseconds at 64 x 64, 16 against 27 at 512 x 512).
PAYS_FROM = 131_072
ARITHMETICS = ("auto", "int8", "float32")
ROUNDINGS = ("compensated", "nearest")
BATCH = 512  # calibration rows at once
PLACES = 8192  # rows, or tokens, that a layer's mean square is taken over; more say little new
WIDEST = 2048  # inputs of a layer up to which rounding is compensated: its mean square has as many numbers squared


@treatment("model", moves=("lower:model_bytes",), tasks=EVERY_TASK)
def quantize_int8(
    system: System,
    *,
    arithmetic: Literal["auto", "int8", "float32"] = "auto",
    rounding: Literal["compensated", "nearest"] = "compensated",
    calibration_num: int = 1024,
) -> System:
    r"""Round each linear weight to 8 bits with one scale per output, $w \approx s_o q$; a quarter of the bytes.

    `rounding` "nearest" rounds each weight for itself, $|w - s_o q| \le s_o/2$: a fixed shift of the function, which
    one class may bear alone. "compensated" moves what an input's rounding loses into the weights of inputs not yet
    rounded, so that the layer's answers to `calibration_num` validation rows change least; layers of more than 2,048
    inputs are rounded to the nearest.
    `arithmetic` "int8" multiplies whole numbers: two to four times faster from 256 x 256 weights at 32 rows and more,
    but some 10 microseconds a layer slower for small layers at batch 1; "float32" expands the weights at first
    use: as fast as before and nearer to it, small only in storage; "auto" chooses by the size of each layer, so that
    no layer becomes slower. Input ranges come from `calibration_num` validation rows. Convolutional, recurrent and
    embedding weights stay in float32; the outcome counts their bytes. Limits: query and meter only afterwards,
    no gradients; times hold for x86 and were taken on layers alone. Raises TreatmentError unless the model is a module
    with linear layers not yet in 8 bits that run as layers.

    Source: Jacob et al. 2018, section 2; per-channel symmetric weights as in Krishnamoorthi 2018, section 3.1;
    compensated: Frantar et al. 2023, "GPTQ", algorithm 1.
    """
    problems = [
        *_common.calibrates(system, calibration_num),
        _common.unless(arithmetic in ARITHMETICS, f"arithmetic is {arithmetic!r}", ", ".join(ARITHMETICS)),
        _common.unless(rounding in ROUNDINGS, f"rounding is {rounding!r}", ", ".join(ROUNDINGS)),
    ]
    _common.refuse("quantize_int8", system, problems)
    before = _common.module_model(system)
    layers = linear_layers(before.module)
    _common.refuse("quantize_int8", system, [_common.unless(bool(layers), "it has no float32 linear layer")])
    rows = _common.spread_rows(system.data.splits["validation"], calibration_num)
    chosen = {name: _arithmetic(layer, arithmetic) for name, layer in layers.items()}
    module = _rounded(before.module, rows, chosen, rounding)
    model = ModuleModel(
        module,
        outputs_are=before.outputs_are,
        architecture=int8_architecture(_common.architecture_within(system), chosen),
        differentiable=False,
        batch_size=before.batch_size,
    )
    parameters = {"arithmetic": arithmetic, "rounding": rounding, "calibration_num": int(calibration_num)}
    _common.refuse("quantize_int8", system, [_does_not_run(model, rows)])
    sizes = {"bytes_before": before.num_bytes, "bytes_after": model.num_bytes, "left_float": left_float(module)}
    outcome = {**sizes, "arithmetic": chosen, "num_calibration": len(rows)}
    named = _common.grown(system, treatment="quantize_int8", stage="model", parameters=parameters, outcome=outcome)
    return replace(named, model=model)


def _rounded(whole: nn.Module, rows: Array, arithmetic: Mapping[str, str], rounding: str) -> nn.Module:
    """A copy with its linear layers in 8 bits."""
    ranges, squares = Ranges(), Squares(len(rows))
    look_at_inputs(whole, rows, [ranges, squares] if rounding == "compensated" else [ranges])
    made, means = {}, squares.found
    for name, layer in linear_layers(whole).items():
        low, high = ranges.found.get(name, (0.0, 1.0))
        kind, square = arithmetic[name], means.get(name)
        made[name] = from_linear(layer, arithmetic=kind, low=low, high=high, square=square)
    module = copy.deepcopy(whole).eval()
    swap(module, made)
    return module.requires_grad_(False)


class Ranges:
    """Smallest and largest finite input of each layer that was shown; 0 is always within."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, given: Tensor) -> None:
        """What a layer reads in one batch."""
        seen = torch.nan_to_num(given, nan=0.0, posinf=0.0, neginf=0.0)
        low, high = self.found.get(name, (0.0, 0.0))
        self.found[name] = (min(low, seen.min().item()), max(high, seen.max().item()))


class Squares:
    """Of each layer of at most `WIDEST` inputs, the mean of $x x^T$ over rows, or `each` tokens of a row, x."""

    def __init__(self, num_rows: int) -> None:
        self.total: dict[str, Array] = {}
        self.num: dict[str, int] = {}
        self.each = -(-PLACES // max(1, num_rows))

    def __call__(self, name: str, given: Tensor) -> None:
        """What a layer reads in one batch."""
        if given.shape[-1] > WIDEST:
            return
        seen = given.flatten(1, -2) if given.ndim > 2 else given[:, None]
        at = _common.spread_places(seen.shape[1], self.each)
        exact = torch.nan_to_num(seen[:, at].flatten(0, 1).double(), nan=0.0, posinf=0.0, neginf=0.0).numpy()
        self.total[name] = self.total.get(name, 0.0) + exact.T @ exact
        self.num[name] = self.num.get(name, 0) + len(exact)

    @property
    def found(self) -> dict[str, Array]:
        """`(in, in)` by layer."""
        return {name: one / self.num[name] for name, one in self.total.items()}


def look_at_inputs(module: nn.Module, inputs: Array, looks: Sequence[Callable[[str, Tensor], None]]) -> None:
    """Show what every linear layer reads to each of `looks`, in one pass."""
    handles = []
    for name, layer in linear_layers(module).items():

        def watch(layer: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
            for look in looks:
                look(name, given[0])

        handles.append(layer.register_forward_pre_hook(watch))
    _common.pass_over(module, inputs, handles, batch_size=BATCH)


def left_float(module: nn.Module) -> dict[str, int]:
    """Bytes of weight matrices, filters and tables that are not in 8 bits, by kind of layer."""
    found: dict[str, int] = {}
    for layer in module.modules():
        num_bytes = sum(one.numel() * one.element_size() for one in layer.parameters(recurse=False) if one.ndim > 1)
        if num_bytes:
            found[type(layer).__name__] = found.get(type(layer).__name__, 0) + num_bytes
    return found


def _does_not_run(model: ModuleModel, rows: Array) -> Problem | None:
    """Modules that hand the weights of their linear layers to other code cannot work with these layers."""
    try:
        model.outputs(rows[:2])
    except (AttributeError, RuntimeError, TypeError) as error:
        what = f"its module reads the weights of its linear layers itself ({str(error).splitlines()[0][:80]})"
        return Problem(what, "linear layers that are called", "Quantise it where it was made, and audit the result")
    return None


def _arithmetic(layer: nn.Linear, asked: str) -> str:
    if asked != "auto":
        return asked
    return "int8" if layer.in_features * layer.out_features >= PAYS_FROM else "float32"
