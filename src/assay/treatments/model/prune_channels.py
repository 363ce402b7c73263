"""Units, filters and heads taken out, so that the network really is smaller and faster."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.errors import Problem
from assay.models import describe, tensors
from assay.models.adapters.module import ModuleModel, evaluation
from assay.models.channels import Cut, Group, channels_architecture, groups_of, keep
from assay.registry import treatment
from assay.train.objectives import task_loss
from assay.treatments import _common
from assay.treatments.model._refit import refit_readers
from assay.values import Split, System, Task

IMPORTANCES = ("taylor", "magnitude")
Readers = dict[str, Tensor]
BATCH = 32  # rows whose gradient is squared: smaller tells units apart better, larger is faster
FITS = "MLP, ImageNetwork (LeNet, VGG, residual), texts read by a Transformer, RNN, LSTM or GRU"


@treatment("model", moves=("lower:model_bytes", "lower:latency_p50"))
def prune_channels(
    system: System,
    *,
    sparsity: float = 0.5,
    importance: Literal["taylor", "magnitude"] = "taylor",
    calibration_num: int = 2048,
) -> System:
    r"""Take the share `sparsity` out of every group of hidden units, filters, feed-forward units and heads.

    Taylor: unit j scores $\frac1B\sum_b (\sum_{w \text{ reads } j} w\, \partial L_b/\partial w)^2$, the squared change
    of the loss of batch b, to first order, when what the unit says is taken away; over `calibration_num` validation
    rows. Magnitude: $\|W^{made}_j\| \|W^{read}_j\|$. The lowest of each group go, one at least staying; filters that
    shortcuts add up go together; under a group norm the same number stays in each of its groups, as in all directions
    and layers of a recurrent kernel. Every linear layer and convolution that lost inputs is then refitted by ridge
    regression to what it answered before. Fewer bytes, fewer operations, the same number of layers. Limits: nothing is
    trained, as a step of training here would show reference models the rows they must not have seen; embeddings, the
    width of a Transformer's states and outputs stay; recurrent weights are not refitted. Raises TreatmentError for a
    module whose units cannot be taken out, and for a sparsity outside [0, 1).

    Source: Molchanov et al. 2019, "Importance Estimation", section 3.1 (gates); Li et al. 2017, section 3.1
    (magnitude); He et al. 2017, section 3.1 (refit); Fang et al. 2023, "DepGraph", section 3 (groups).
    """
    problems = [
        *_common.calibrates(system, calibration_num),
        _common.unless(0 <= sparsity < 1, f"sparsity is {sparsity}", "0 to below 1"),
        _common.unless(importance in IMPORTANCES, f"importance is {importance!r}", ", ".join(IMPORTANCES)),
        _no_groups(system),
    ]
    _common.refuse("prune_channels", system, problems)
    before = _common.module_model(system)
    module, kept, refit = _smaller(system, sparsity, importance, calibration_num)
    model = ModuleModel(
        module,
        outputs_are=before.outputs_are,
        architecture=channels_architecture(_common.known(before.architecture), kept),
        batch_size=before.batch_size,
    )
    outcome = {**_outcome(before, model), "kept": kept, "refitted": list(refit)}
    parameters = {"sparsity": float(sparsity), "importance": importance, "calibration_num": int(calibration_num)}
    named = _common.grown(system, treatment="prune_channels", stage="model", parameters=parameters, outcome=outcome)
    return replace(named, model=model)


def _outcome(before: ModuleModel, after: ModuleModel) -> dict[str, Any]:
    return {
        "of": {group.name: group.size for group in groups_of(before.module)},
        "parameters_before": describe(before.module)["num_parameters"],
        "parameters_after": describe(after.module)["num_parameters"],
        "bytes_before": before.num_bytes,
        "bytes_after": after.num_bytes,
    }


def _smaller(
    system: System, sparsity: float, importance: str, calibration_num: int
) -> tuple[nn.Module, dict[str, int], tuple[str, ...]]:
    """The module without its weakest units, how many stay of each group, and the layers that were refitted."""
    before, split = _common.module_model(system).module, system.data.splits["validation"]
    split = split.take(_common.spread_places(len(split), calibration_num))
    module = copy.deepcopy(before)
    groups = groups_of(module)
    by_size = importance == "magnitude"
    scores = magnitudes(module, groups) if by_size else first_order(module, groups, split, system.task)
    kept = {group.name: strongest(scores[group.name], sparsity, parts=group.parts) for group in groups}
    stays = keep(module, kept)
    refit = refit_readers(before, module, _readers(before, groups, stays), split.inputs)
    return module.eval().requires_grad_(False), {name: len(units) for name, units in kept.items()}, refit


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


def strongest(scores: Tensor, sparsity: float, *, parts: int = 1) -> Tensor:
    """Positions, rising, of what stays: in each of `parts` equal runs all but `round(sparsity * length)`, one at least.

    >>> strongest(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]), 1 / 3, parts=2).tolist()
    [0, 2, 3, 5]
    """
    runs = scores.reshape(parts, -1)
    num = max(1, runs.shape[1] - round(sparsity * runs.shape[1]))
    best = torch.argsort(runs, dim=1, descending=True, stable=True)[:, :num]
    return (best + runs.shape[1] * torch.arange(parts)[:, None]).sort(dim=1).values.reshape(-1)


def _weight(module: nn.Module, cut: Cut) -> Tensor:
    found: Tensor = getattr(module.get_submodule(cut.layer), cut.tensor)
    return found


def _by_unit(numbers: Tensor, cut: Cut) -> Tensor:
    """Sums of a tensor over everything that belongs to a unit, `(size,)`."""
    line = numbers.detach().transpose(0, cut.dim).flatten(1).sum(dim=1)
    return line[cut.places].sum(dim=1)


def _readers(module: nn.Module, groups: Sequence[Group], stays: Mapping[tuple[str, str, int], Tensor]) -> Readers:
    """Linear layers and convolutions that read a group, and which of their outputs are still there."""
    names = dict.fromkeys(cut.layer for group in groups for cut in group.read)
    layers = {name: module.get_submodule(name) for name in names}
    return {
        name: stays.get((name, "weight", 0), torch.arange(len(layer.weight)))
        for name, layer in layers.items()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }


def _no_groups(system: System) -> Problem | None:
    model = system.model
    if not isinstance(model, ModuleModel):
        return None  # said already
    if "gradient" not in model.offers:
        return Problem("its weights are already rounded to few bits, or its answers", next="Prune first")
    if groups_of(model.module):
        return None
    following = "Prune before other treatments of the model, or use prune_magnitude"
    kind = type(model.module).__name__
    what = f"the units of its module ({kind}) cannot be taken out safely: of another kind, or changed by a treatment"
    return Problem(what, FITS, following)
