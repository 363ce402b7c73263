"""Weights and activations in 8 bits, by ONNX Runtime."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from assay.errors import Problem
from assay.models.by_onnxruntime import onnxruntime_model
from assay.models.compensated import Squares, compensated_codes, num_rows_of
from assay.models.graph_layers import Layer, Look, Ranges, layers_of, look, moved_by, pays
from assay.models.quantised_graph import Finer, behind_layers, quantised, rounded_weight, unpacked
from assay.registry import treatment
from assay.treatments import _by_onnxruntime, _common
from assay.values import Array, System

CHOICES = ("rule", "measured", "all")
ROUNDINGS = ("compensated", "nearest")
SIZES = (1, 64)  # batches at which a choice is timed
ROUNDS = 9
SECONDS = 0.01  # of one round of one choice at one size


@treatment("model", moves=("lower:model_bytes",))
def quantize_static(
    system: System,
    *,
    layers: str | Sequence[str] = "rule",
    rounding: Literal["compensated", "nearest"] = "compensated",
    calibration_num: int = 200,
) -> System:
    r"""Round weights and layer inputs to 8 bits: $w \approx s_o q$, $x \approx s_x (q_x - z_x)$, summed as integers.

    Convolutions and linear layers of any module that torch can export, run by ONNX Runtime; one weight scale $s_o$ an
    output, one fixed input grid $(s_x, z_x)$ a tensor, from the smallest and largest value over `calibration_num`
    validation rows. `rounding` "nearest" rounds each weight for itself; "compensated" moves what an input's rounding
    loses into the weights of inputs not yet rounded, so that sums over the calibration rows stay near (GPTQ), and gives
    what lies between layers all 256 levels, a tenth beyond its range, and the weights that read it 129: half the step,
    and no sum of two products exceeds 16 bits whatever comes in. `layers` says which compute in whole numbers: "rule"
    those whose size makes them no slower than float32 at batch 1 and 64 (`assay.models.graph_layers.pays`), "measured"
    those with which the whole was fastest on this machine now, kept by name in the lineage, "all", or names. All others
    are stored in 8 bits and computed in float32, and so are tables of embeddings. Limits: query and meter only
    afterwards, no gradients; recurrent weights stay float32; the rule's sizes hold for x86 with VNNI; where float sums
    come before a rounding, another batch size may move an answer by one step; what is more than a tenth beyond the
    range that was seen between layers is cut off ("nearest": beyond twice that range).
    Raises TreatmentError unless the model is a module that torch can export, with such
    layers, and for names of no layer; MissingExtraError without onnx, onnxscript and onnxruntime.

    Source: Jacob et al. 2018, section 2; Krishnamoorthi 2018, section 3.1 (per channel); Frantar et al. 2023, "GPTQ",
    algorithm 1; ONNX Runtime, "Quantize".
    """
    asked = layers if isinstance(layers, str) else [str(name) for name in layers]
    parameters = {"layers": asked, "rounding": rounding, "calibration_num": int(calibration_num)}
    _common.refuse("quantize_static", system, _wrong(system, parameters))
    before = _common.module_model(system)
    proto = _by_onnxruntime.graph("quantize_static", system)
    known = layers_of(proto)
    _common.refuse("quantize_static", system, [_wrong_layers(asked, known)])
    rows = _common.spread_rows(system.data.splits["validation"], calibration_num)
    batches = _by_onnxruntime.fed(before, rows)
    ranges, squares = _seen(proto, batches, rounding)
    whole = _chosen(asked, known, proto, ranges, batches[0]["inputs"])
    arithmetic = {one.name: "int8" if one.name in whole else "float32" for one in known}
    made = quantised(proto, ranges, arithmetic, _finer(proto, arithmetic, squares, rounding))
    model = onnxruntime_model(before, made.SerializeToString(deterministic=True))
    outcome = {
        "bytes_before": before.num_bytes,
        "bytes_after": model.num_bytes,
        "arithmetic": arithmetic,
        "num_calibration": len(rows),
    }
    parameters |= {"layers": whole} if asked == "measured" else {}
    named = _common.grown(system, treatment="quantize_static", stage="model", parameters=parameters, outcome=outcome)
    return replace(named, model=model)


def _wrong(system: System, given: Mapping[str, Any]) -> list[Problem | None]:
    asked = {name: f"{name} is {value!r}" for name, value in given.items()}
    known = not isinstance(given["layers"], str) or given["layers"] in CHOICES
    return [
        _common.needs_module(system),
        _common.needs_split(system, "validation"),
        _common.unless(known, asked["layers"], ", ".join(CHOICES) + ", or names"),
        _common.unless(given["rounding"] in ROUNDINGS, asked["rounding"], ", ".join(ROUNDINGS)),
        _common.unless(given["calibration_num"] >= 1, asked["calibration_num"], "1 or more"),
    ]


def _seen(
    proto: Any, batches: Sequence[Mapping[str, Array]], rounding: str
) -> tuple[dict[str, tuple[float, float]], dict[str, Array]]:
    """The ranges of tensors, and, for weights that are rounded in turn, the mean squares of inputs: of one pass.

    Of two where a sum reads a convolution, so that digests stay: looking at it moves what comes after by a last bit.
    """
    layers = {one.weight: one for one in layers_of(proto)} if rounding == "compensated" else {}
    ranges, squares = Ranges(proto), Squares(proto, list(layers.values()), num_rows_of(batches))
    both: list[Look] = [ranges, squares]
    for looks in [[one] for one in both] if moved_by(proto, squares, ranges) else [both]:
        look(proto, _by_onnxruntime.session, batches, looks)
    return ranges.found, squares.found


def _finer(proto: Any, arithmetic: Mapping[str, str], squares: Mapping[str, Array], rounding: str) -> Finer:
    """Codes of all weights that keep each layer's sums near, and twice as fine a grid wherever a layer is before."""
    if rounding == "nearest":
        return Finer()
    from onnx import numpy_helper

    wide = behind_layers(proto)
    levels, codes = Finer(wide).levels(proto, arithmetic), {}
    layers = {one.weight: one for one in layers_of(proto)}
    weights = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer if one.name in layers}
    for name, square in squares.items():
        layer, weight = layers[name], weights[name]
        _, scale = rounded_weight(weight, layer.axis, levels[name])
        codes[name] = compensated_codes(layer, weight, scale, square, levels=levels[name])
    return Finer(wide, codes)


def _wrong_layers(asked: str | Sequence[str], known: Sequence[Layer]) -> Problem | None:
    names = [one.name for one in known]
    if not names:
        return Problem("it has no linear or convolutional layer with weights of its own", "one or more")
    return None if isinstance(asked, str) else _by_onnxruntime.unknown(asked, names)


def _chosen(
    asked: str | Sequence[str],
    known: Sequence[Layer],
    proto: Any,
    ranges: Mapping[str, tuple[float, float]],
    rows: Array,
) -> list[str]:
    """The names of the layers that compute in whole numbers, in order."""
    if not isinstance(asked, str):
        return [one.name for one in known if one.name in asked]
    if asked == "all":
        return [one.name for one in known]
    rule = [one.name for one in known if pays(one)]
    return rule if asked == "rule" else fastest([one.name for one in known], rule, proto, ranges, rows)


def fastest(
    names: Sequence[str], rule: Sequence[str], proto: Any, ranges: Mapping[str, tuple[float, float]], rows: Array
) -> list[str]:
    """Of no layer, the rule's, all, and the rule's with one more or less: those fastest over both batch sizes.

    A set that is slower than float32 at either size is out; none at all never is.
    """
    sets = [[], list(rule), list(names)]
    sets += [[one for one in names if (one in rule) != (one == other)] for other in names]
    sets = [one for place, one in enumerate(sets) if one not in sets[:place]]
    graphs = [quantised(proto, ranges, {name: "int8" if name in one else "float32" for name in names}) for one in sets]
    sessions = [_by_onnxruntime.session(unpacked(graph).SerializeToString()) for graph in graphs]
    whole = np.resize(rows, (max(SIZES), *rows.shape[1:]))
    seconds = np.array([_seconds(sessions, np.ascontiguousarray(whole[:size])) for size in SIZES])
    ratios = seconds / seconds[:, :1]
    fine = (ratios <= 1).all(axis=0)
    return sets[int(np.where(fine, ratios.sum(axis=0), np.inf).argmin())]


def _seconds(sessions: Sequence[Any], rows: Array) -> list[float]:
    """The median time of one call of each session, taken in turns."""
    counts, found = [], [[] for _ in sessions]  # type: tuple[list[int], list[list[float]]]
    for session in sessions:
        session.run(None, {"inputs": rows})
        began = time.perf_counter()
        session.run(None, {"inputs": rows})
        counts.append(max(1, round(SECONDS / max(1e-6, time.perf_counter() - began))))
    for _ in range(ROUNDS):
        for session, count, times in zip(sessions, counts, found, strict=True):
            began = time.perf_counter()
            for _ in range(count):
                session.run(None, {"inputs": rows})
            times.append((time.perf_counter() - began) / count)
    return [statistics.median(times) for times in found]
