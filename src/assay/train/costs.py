"""What a module costs before it is trained: parameters, bytes, operations for one example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from assay.models import describe, tensors
from assay.models.adapters.module import evaluation
from assay.values import Array, Column, modality, texts

NUM_WORDS = 32  # of the text that stands for all when none is given


def describe_costs(module: nn.Module, columns: Sequence[Column], *, inputs: Array | None = None) -> dict[str, int]:
    """Parameters, bytes of parameters and buffers, and floating-point operations of one forward pass per example.

    Counts matrix products and convolutions, a multiplication and an addition as two; element-wise work is left out.
    `inputs (n, ...)` are rows to take the mean over; without them one row of zeros, or a text of 32 words. A step of
    training takes about three times as many. Limits: operations that a module hides from torch's dispatcher (foreign
    kernels) are not counted.

    >>> from assay.models import build
    >>> columns = (Column("a", "numeric"), Column("b", "numeric"))
    >>> describe_costs(build("mlp", columns=columns, num_outputs=2, params={"hidden": [8]}), columns)["num_parameters"]
    58
    """
    rows = _stand_in(columns) if inputs is None else inputs
    with evaluation(module), torch.no_grad(), _open_kernels():
        ready = tensors(module, rows)
        with FlopCounterMode(display=False) as counter:
            module(ready)
    return {**describe(module), "flops_per_example": round(counter.get_total_flops() / len(rows))}


@contextmanager
def _open_kernels() -> Iterator[None]:
    """Without oneDNN, whose LSTM is one opaque operation to the counter: it counts 0 for it."""
    before = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)[0]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before, _fp32_precision=None)  # type: ignore[no-untyped-call]


def costs_in_words(costs: Mapping[str, int]) -> str:
    """One line for a person.

    >>> costs_in_words({"num_parameters": 56714, "num_bytes": 227000, "flops_per_example": 11_300_000})
    '56,714 parameters, 227 kB, 11.3 MFLOP an example'
    """
    size, flops = (_short(costs[name]) for name in ("num_bytes", "flops_per_example"))
    return f"{costs['num_parameters']:,} parameters, {size}B, {flops}FLOP an example"


def _short(number: float) -> str:
    for prefix in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:,.3g} G"


def _stand_in(columns: Sequence[Column]) -> Array:
    kind = modality(columns)
    if kind == "text":
        return texts([" ".join(["word"] * NUM_WORDS)])
    shape = columns[0].shape if kind == "image" else (len(columns),)
    return np.zeros((1, *shape), dtype=np.uint8 if kind == "image" else np.float32)
