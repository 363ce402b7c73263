"""Linear weights in 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from assay.errors import Problem
from assay.models.by_onnxruntime import onnxruntime_model
from assay.models.compensated import squares
from assay.models.four_bits import PAYS_FROM, Codes, compensated, four_bit_graph, nearest
from assay.models.graph_layers import Layer, layers_of
from assay.models.quantised_graph import marked
from assay.registry import treatment
from assay.treatments import _by_onnxruntime, _common
from assay.values import Array, System

ROUNDINGS = ("compensated", "nearest")
ARITHMETICS = ("auto", "int8", "float32")
GROUPS = (16, 32, 64, 128, 256)


@treatment("model", moves=("lower:model_bytes",))
def quantize_int4(
    system: System,
    *,
    group_size: int = 32,
    rounding: Literal["compensated", "nearest"] = "compensated",
    arithmetic: Literal["auto", "int8", "float32"] = "auto",
    calibration_num: int = 200,
) -> System:
    r"""Round each linear weight to 4 bits with one scale for `group_size` inputs: $w_{ok} \approx s_{og} (q_{ok} - 8)$.

    An eighth of the bytes, and the scales: 5 bits a weight at 32, 4.25 at 128. `rounding` "nearest" rounds each weight
    for itself; "compensated" moves what an input's rounding loses into the weights of inputs not yet rounded, so that
    outputs over `calibration_num` validation rows stay near (GPTQ). It runs by ONNX Runtime: `arithmetic` "int8"
    multiplies codes with inputs rounded row by row to 8 bits; "float32" expands weights when they are loaded: as fast
    as before, small only in storage; "auto" chooses by the size of each layer. At batch 1 codes are faster (1,024 x
    1,024: 2 to 3 times); over 64 rows as fast from 512 x 512 weights, and up to a tenth slower below. Limits: query and
    meter only afterwards, no gradients; small networks lose accuracy at 4 bits; convolutions, tables and recurrent
    weights stay float32. Raises TreatmentError unless the model is a module that torch can
    export, with linear layers; MissingExtraError without onnx, onnxscript and onnxruntime.

    Source: Frantar et al. 2023, "GPTQ", algorithm 1; ONNX Runtime contrib operators, MatMulNBits.
    """
    parameters = {
        "group_size": int(group_size),
        "rounding": rounding,
        "arithmetic": arithmetic,
        "calibration_num": int(calibration_num),
    }
    _common.refuse("quantize_int4", system, _wrong(system, parameters))
    before = _common.module_model(system)
    proto = _by_onnxruntime.graph("quantize_int4", system)
    layers = [one for one in layers_of(proto) if one.kind != "Conv"]
    _common.refuse("quantize_int4", system, [_common.unless(bool(layers), "it has no linear layer", "one or more")])
    rows = _common.spread_rows(system.data.splits["validation"], calibration_num)
    compensates = layers if rounding == "compensated" else []
    seen = squares(proto, _by_onnxruntime.session, _by_onnxruntime.fed(before, rows), compensates)
    codes, errors = _rounded(proto, layers, group_size, seen)
    chosen = {one.name: _arithmetic(one, arithmetic) for one in layers}
    made = four_bit_graph(proto, codes, chosen)
    made = marked(made, proto) if "int8" in chosen.values() else made
    model = onnxruntime_model(before, made.SerializeToString(deterministic=True))
    outcome = {
        "bytes_before": before.num_bytes,
        "bytes_after": model.num_bytes,
        "arithmetic": chosen,
        "relative_error": errors,
        "num_calibration": len(rows),
    }
    named = _common.grown(system, treatment="quantize_int4", stage="model", parameters=parameters, outcome=outcome)
    return replace(named, model=model)


def _wrong(system: System, given: Mapping[str, Any]) -> list[Problem | None]:
    asked = {name: f"{name} is {value!r}" for name, value in given.items()}
    return [
        _common.needs_module(system),
        _common.needs_split(system, "validation"),
        _common.unless(given["group_size"] in GROUPS, asked["group_size"], ", ".join(map(str, GROUPS))),
        _common.unless(given["rounding"] in ROUNDINGS, asked["rounding"], ", ".join(ROUNDINGS)),
        _common.unless(given["arithmetic"] in ARITHMETICS, asked["arithmetic"], ", ".join(ARITHMETICS)),
        _common.unless(given["calibration_num"] >= 1, asked["calibration_num"], "1 or more"),
    ]


def _rounded(
    proto: Any, layers: list[Layer], group: int, seen: Mapping[str, Array]
) -> tuple[dict[str, Codes], dict[str, float]]:
    """Codes of each layer, and the relative error of its weights, to 3 digits."""
    from onnx import numpy_helper

    weights = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    codes, errors = {}, {}
    for layer in layers:
        weight = weights[layer.weight].T if layer.axis else weights[layer.weight]
        known = seen.get(layer.weight)
        # A layer with fewer inputs than a group is not filled up to one.
        size = next((one for one in GROUPS if one >= layer.num_sums), group)
        here = min(group, size)
        codes[layer.name] = nearest(weight, here) if known is None else compensated(weight, here, known)
        lost, whole = (float(np.linalg.norm(one)) for one in (codes[layer.name].weights() - weight, weight))
        errors[layer.name] = round(lost / (whole or 1.0), 3)
    return codes, errors


def _arithmetic(layer: Layer, asked: str) -> str:
    if asked != "auto":
        return asked
    return "int8" if layer.num_weights >= PAYS_FROM and layer.num_outputs >= GROUPS[0] else "float32"
