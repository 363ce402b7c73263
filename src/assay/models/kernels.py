"""Which code computes a layer: PyTorch's fused kernel, or the same equations written out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

Kernel = Literal["fused", "written"]


class Switched(nn.Module):
    """A layer that can be computed by either kernel; both have the same parameters and the same answers."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel: Kernel = "fused"


@contextmanager
def written_out(module: nn.Module) -> Iterator[None]:
    """Compute every layer of `module` by its written-out equations inside; as before afterwards.

    Fused kernels know neither `torch.func.vmap` (gradients of single examples) nor gradients of gradients; equations
    do. Limits: slower, and a batch is then not trimmed to its longest row.

    >>> layer = Switched()
    >>> with written_out(layer):
    ...     layer.kernel
    'written'
    """
    layers = [layer for layer in module.modules() if isinstance(layer, Switched)]
    before = [layer.kernel for layer in layers]
    for layer in layers:
        layer.kernel = "written"
    try:
        yield
    finally:
        for layer, kernel in zip(layers, before, strict=True):
            layer.kernel = kernel
