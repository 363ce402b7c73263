"""The same numbers from a faster runtime."""

from __future__ import annotations

from dataclasses import replace

from assay.models.by_onnxruntime import onnxruntime_model
from assay.registry import treatment
from assay.treatments import _by_onnxruntime, _common
from assay.values import System


@treatment("model", moves=("lower:latency_p50",))
def run_by_onnxruntime(system: System) -> System:
    r"""Compute the same float32 module by ONNX Runtime: $|f'(x) - f(x)| \le 10^{-4} \max(1, \max |f|)$ on three rows.

    No weight is rounded. What it gains is the runtime's: fused layers, folded norms, less to do around each call. It is
    the second baseline of `quantize_static`, whose gain over torch is mostly this. The graph is kept as bytes of the
    system's own file; words are still turned into numbers here. Limits: query and meter only afterwards, no gradients;
    answers differ in the last digits. Raises TreatmentError unless the model is a module that torch can
    export; MissingExtraError without onnx, onnxscript and onnxruntime.

    Source: ONNX Runtime documentation, "Graph optimizations".
    """
    _common.refuse("run_by_onnxruntime", system, [_common.needs_module(system)])
    before = _common.module_model(system)
    proto = _by_onnxruntime.graph("run_by_onnxruntime", system)
    model = onnxruntime_model(before, proto.SerializeToString(deterministic=True))
    outcome = {
        "bytes_before": before.num_bytes,
        "bytes_after": model.num_bytes,
        "num_nodes": len(proto.graph.node),
    }
    named = _common.grown(system, treatment="run_by_onnxruntime", stage="model", parameters={}, outcome=outcome)
    return replace(named, model=model)
