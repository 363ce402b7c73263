"""Pruning: networks in which nothing is 0 or 1 by chance, and units that nobody reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def draw_numbers(module, *, spared: Sequence[str] = ()):
    """All floating-point weights and buffers drawn anew, norms included, but those whose name has a spared word."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point() and not any(word in key for word in spared):
                drawn = torch.rand(tensor.shape, generator=random)
                tensor.copy_(drawn + 0.5 if "running_var" in key else (drawn - 0.5) * 0.8)
    return module.eval()


def silence(module, group, gone):
    """What the units say is read by nobody."""
    with torch.no_grad():
        for cut in group.read:
            weight = getattr(module.get_submodule(cut.layer), cut.tensor)
            weight.index_fill_(cut.dim, cut.places[gone].reshape(-1), 0.0)
