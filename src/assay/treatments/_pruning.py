"""What goes first when a network is pruned: units that carry least, weights that are smallest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from assay.models import tensors
from assay.models.adapters.module import evaluation
from assay.models.channels import Cut, Group
from assay.train.objectives import task_loss
from assay.values import Split, Task

BATCH = 32  # rows whose gradient is squared: smaller tells units apart better, larger is faster
FITS = "nn.Sequential of plain layers, MLP, ImageNetwork (LeNet, VGG, residual), Transformer, RNN, LSTM or GRU"
FACTORS = ("_g", "_v")  # of torch.nn.utils.weight_norm: a direction of zeros is no direction
PRUNED = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.Embedding, nn.MultiheadAttention)


def magnitudes(module: nn.Module, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Norm of the weights that make a unit times norm of those that read it, `(size,)` a group."""

    def squares(cuts: Sequence[Cut]) -> Tensor:
        return sum((_by_unit(_weight(module, cut).square(), cut) for cut in cuts), torch.tensor(0.0))

    return {
        group.name: (squares([cut for cut in group.made if _weight(module, cut).ndim > 1]) * squares(group.read)).sqrt()
        for group in groups
    }


def first_order(module: nn.Module, groups: Sequence[Group], split: Split, task: Task) -> dict[str, Tensor]:
    r"""Mean over batches of the squared first-order change of the loss without a unit, `(size,)` a group.

    What a unit says enters its readers linearly: the derivative to a gate on it is $\sum_w w\,\partial L/\partial w$.
    """
    loss, totals = task_loss(split, task), {group.name: torch.zeros(group.size) for group in groups}
    weights = {id(one): one for one in (_weight(module, cut) for group in groups for cut in group.read)}
    for parameter in module.parameters():
        parameter.requires_grad_(id(parameter) in weights)
    with evaluation(module):
        for start in range(0, len(split), BATCH):
            at = torch.arange(start, min(start + BATCH, len(split)))
            outputs = module(tensors(module, split.inputs[start : start + BATCH]))
            losses = loss(outputs, at)
            found = torch.autograd.grad(losses[torch.isfinite(losses)].mean(), list(weights.values()))
            moved = {key: (one.detach() * grad) for (key, one), grad in zip(weights.items(), found, strict=True)}
            for group in groups:
                change = sum(_by_unit(moved[id(_weight(module, cut))], cut) for cut in group.read)
                totals[group.name] += torch.nan_to_num(change).square()  # type: ignore[arg-type]
    return totals


def strongest(scores: Tensor, sparsity: float, *, parts: int = 1, multiple: int = 1) -> Tensor:
    """Positions, rising, of what stays: in each of `parts` equal runs all but `round(sparsity * length)`, one at least.

    Where any go, the nearest multiple of `multiple` stays in all runs together (of two as near, the larger), if there
    are more units than that.

    >>> len(strongest(torch.arange(48.0), 0.4, multiple=16)), len(strongest(torch.arange(12.0), 0.5, multiple=16))
    (32, 6)
    >>> strongest(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]), 1 / 3, parts=2).tolist()
    [0, 2, 3, 5]
    """
    runs = scores.reshape(parts, -1)
    num = max(1, runs.shape[1] - round(sparsity * runs.shape[1]))
    each = multiple // math.gcd(multiple, parts)
    if len(scores) > multiple and each <= runs.shape[1] > num:
        num = min(max(each, each * int(num / each + 0.5)), runs.shape[1])
    best = torch.argsort(runs, dim=1, descending=True, stable=True)[:, :num]
    return (best + runs.shape[1] * torch.arange(parts)[:, None]).sort(dim=1).values.reshape(-1)


def _weight(module: nn.Module, cut: Cut) -> Tensor:
    found: Tensor = getattr(module.get_submodule(cut.layer), cut.tensor)
    return found


def _by_unit(numbers: Tensor, cut: Cut) -> Tensor:
    """Sums of a tensor over everything that belongs to a unit, `(size,)`."""
    line = numbers.detach().transpose(0, cut.dim).flatten(1).sum(dim=1)
    return line[cut.places].sum(dim=1)


def prunable(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Every weight that may become 0, in the order of the module, and where `(same shape)` it is one that counts.

    The padding row of an embedding is 0 by definition and does not count.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}  # a weight that is shared counts once
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            is_weight = name.startswith(("weight", "in_proj_weight")) and not name.endswith(FACTORS)
            if not isinstance(layer, PRUNED) or not is_weight:
                continue
            counts = torch.ones_like(parameter, dtype=torch.bool)
            if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
                counts[layer.padding_idx] = False
            found.setdefault(id(parameter), (parameter.detach(), counts))
    return list(found.values())


def zero_smallest(module: nn.Module, sparsity: float) -> None:
    """Set the `round(sparsity * n)` smallest of all n prunable weights to 0, in place; ties go by position."""
    weights = prunable(module)
    sizes = torch.cat([weight[counts].abs() for weight, counts in weights])
    gone = torch.zeros(len(sizes), dtype=torch.bool)
    gone[torch.argsort(sizes, stable=True)[: round(sparsity * len(sizes))]] = True
    start = 0
    for weight, counts in weights:
        num = int(counts.sum())
        weight[counts] = torch.where(gone[start : start + num], 0.0, weight[counts])
        start += num
