"""Units, filters and heads taken out, so that the network really is smaller and faster."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.errors import Problem
from assay.models import describe
from assay.models.adapters.module import ModuleModel
from assay.models.channels import Group, channels_architecture, groups_of, keep
from assay.registry import treatment
from assay.treatments import _common, _pruning
from assay.treatments.model._refit import refit_readers
from assay.values import System

IMPORTANCES = ("taylor", "magnitude")
Readers = dict[str, Tensor]


@treatment("model", moves=("lower:model_bytes", "lower:latency_p50"))
def prune_channels(
    system: System,
    *,
    sparsity: float = 0.5,
    importance: Literal["taylor", "magnitude"] = "taylor",
    multiple: int = 1,
    calibration_num: int = 2048,
) -> System:
    r"""Take the share `sparsity` out of every group of hidden units, filters, feed-forward units and heads.

    Taylor: unit j scores $\frac1B\sum_b (\sum_{w \text{ reads } j} w\, \partial L_b/\partial w)^2$, the squared change
    of the loss of batch b, to first order, when what the unit says is taken away; over `calibration_num` validation
    rows. Magnitude: $\|W^{made}_j\| \|W^{read}_j\|$. The lowest of each group go, one at least staying; filters that
    shortcuts add up go together; under a group norm the same number stays in each of its groups, as in all directions
    and layers of a recurrent kernel. Every linear layer and convolution that lost inputs is then refitted by ridge
    regression to what it answered before. With a `multiple` as many stay of a group of more units than that as the
    nearest multiple of it: kernels compute convolutions in blocks of 16 channels, so that at 64 rows 17 filters took
    1.9 times as long as 16. Fewer bytes, fewer operations, the same number of layers. Limits: nothing is
    trained, as a step of training here would show reference models the rows they must not have seen; embeddings, the
    width of a Transformer's states and outputs stay; recurrent weights are not refitted. Raises TreatmentError for a
    module whose units cannot be taken out, and for a sparsity outside [0, 1).

    Source: Molchanov et al. 2019, "Importance Estimation", section 3.1 (gates); Li et al. 2017, section 3.1
    (magnitude); He et al. 2017, section 3.1 (refit); Fang et al. 2023, "DepGraph", section 3 (groups).
    """
    problems = [
        *_common.calibrates(system, calibration_num),
        _common.unless(0 <= sparsity < 1, f"sparsity is {sparsity}", "0 to below 1"),
        _common.unless(multiple >= 1, f"multiple is {multiple}", "1 or more"),
        _common.unless(importance in IMPORTANCES, f"importance is {importance!r}", ", ".join(IMPORTANCES)),
        _no_groups(system),
    ]
    _common.refuse("prune_channels", system, problems)
    before = _common.module_model(system)
    module, kept, refit = _smaller(system, sparsity, importance, multiple=multiple, num=calibration_num)
    model = ModuleModel(
        module,
        outputs_are=before.outputs_are,
        architecture=channels_architecture(_common.architecture_within(system), kept),
        batch_size=before.batch_size,
    )
    outcome = {**_outcome(before, model), "kept": kept, "refitted": list(refit)}
    parameters = {
        "sparsity": float(sparsity),
        "importance": importance,
        "multiple": int(multiple),
        "calibration_num": int(calibration_num),
    }
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
    system: System, sparsity: float, importance: str, *, multiple: int, num: int
) -> tuple[nn.Module, dict[str, int], tuple[str, ...]]:
    """The module without its weakest units, how many stay of each group, and the layers that were refitted."""
    before, split = _common.module_model(system).module, system.data.splits["validation"]
    split = split.take(_common.spread_places(len(split), num))
    module = copy.deepcopy(before)
    groups = groups_of(module)
    by_size = importance == "magnitude"
    scores = (
        _pruning.magnitudes(module, groups) if by_size else _pruning.first_order(module, groups, split, system.task)
    )
    kept = {
        group.name: _pruning.strongest(scores[group.name], sparsity, parts=group.parts, multiple=multiple)
        for group in groups
    }
    stays = keep(module, kept)
    refit = refit_readers(before, module, _readers(before, groups, stays), split.inputs)
    return module.eval().requires_grad_(False), {name: len(units) for name, units in kept.items()}, refit


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
    return Problem(what, _pruning.FITS, following)
