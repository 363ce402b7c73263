"""What treatments that hand a module to ONNX Runtime do alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from assay.errors import ModelError, Problem
from assay.models import tensors
from assay.models.adapters.module import ModuleModel
from assay.models.adapters.onnx import parsed, session_of
from assay.models.by_onnxruntime import graph_of
from assay.treatments import _common
from assay.values import Array, System

BATCH = 64  # calibration rows at once


def graph(treatment: str, system: System, model: ModuleModel | None = None) -> Any:
    """The system's module, or another of its kind, as an ONNX graph; TreatmentError says why it cannot be one."""
    model = model or _common.module_model(system)
    rows = next((split.inputs[:3] for split in system.data.splits.values() if len(split)), None)
    try:
        if rows is None:
            raise ModelError(Problem("its data has no rows"))
        return parsed(graph_of(model, rows), "the graph")
    except ModelError as error:
        following = "Quantise it where it was made, or use quantize_int8, and audit the result"
        allowed = "modules that torch can export"
        _common.refuse(treatment, system, [Problem(one.what, allowed, following) for one in error.problems])
        raise


def session(content: bytes) -> Any:
    """A session of a graph made here."""
    return session_of(parsed(content, "the graph"), "the graph")


def fed(model: ModuleModel, rows: Array) -> list[Mapping[str, Array]]:
    """Raw rows as what the graph takes, in batches."""
    found: list[Mapping[str, Array]] = []
    for start in range(0, len(rows), BATCH):
        given = tensors(model.module, rows[start : start + BATCH]).numpy()
        found.append({"inputs": given.astype(np.float32) if given.dtype == np.uint8 else given})
    return found


def unknown(names: Sequence[str], known: Sequence[str]) -> Problem | None:
    """Names of layers that there are not."""
    odd = [name for name in names if name not in known]
    return Problem(f"it has no layer {', '.join(odd)}", ", ".join(known)) if odd else None
