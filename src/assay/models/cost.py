"""What a model is and what one answer costs: parameters, bytes, floating-point operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from assay.digests import plain
from assay.errors import AssayError
from assay.models import Architecture, describe, tensors
from assay.models.adapters.module import ModuleModel, evaluation
from assay.models.int8 import Int8Linear
from assay.models.kernels import written_out
from assay.values import Array, Data, Model

NUM_EXAMPLES = 8  # texts differ in length


def flops_per_example(module: nn.Module, inputs: Array) -> float | None:
    """Mean floating-point operations of one answer over inputs `(M, ...)`, each asked alone; None without any input.

    Definition: 2 for every multiplication of a matrix product, a convolution or an attention (int8 ones count alike);
    activations, norms and look-ups are left out: of the models made here they are a few percent. Recurrent layers
    are counted by their equations, as fused kernels hide their products. Source: torch.utils.flop_counter.

    >>> flops_per_example(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), np.ones((1, 3), dtype=np.float32))
    50.0
    """
    if not len(inputs):
        return None
    total = 0
    hidden: list[int] = []

    def count(layer: Int8Linear, rows: tuple[Tensor, ...], _: Any) -> None:
        if layer.arithmetic == "int8":  # its kernel is no matrix product that torch knows
            hidden.append(2 * rows[0].numel() * layer.weight.shape[0])

    hooks = [one.register_forward_hook(count) for one in module.modules() if isinstance(one, Int8Linear)]
    try:
        with evaluation(module), written_out(module), torch.no_grad():
            for place in range(len(inputs)):
                with FlopCounterMode(display=False) as counter:
                    module(tensors(module, inputs[place : place + 1]))
                total += counter.get_total_flops()
    finally:
        for hook in hooks:
            hook.remove()
    return (total + sum(hidden)) / len(inputs)


def card(model: Model, data: Data) -> dict[str, Any]:
    """Architecture, parameters, bytes and operations of a module, for people; empty for a model made elsewhere.

    The operations are the mean over the first training rows. Unknown is None.
    """
    if not isinstance(model, ModuleModel):
        return {}
    rows = data.splits["train"].inputs[:NUM_EXAMPLES] if "train" in data.splits else np.empty(0)
    try:
        flops = flops_per_example(model.module, rows)
    except (AssayError, RuntimeError, ValueError):  # a module that cannot answer is for the audit to tell
        flops = None
    return {**_named(model.architecture), **describe(model.module), "flops_per_example": flops}


def _named(architecture: Architecture | None) -> Mapping[str, Any]:
    if architecture is None:
        return {"architecture": "", "params": {}}
    return {"architecture": architecture.name, "params": plain(architecture.params)}
