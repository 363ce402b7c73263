"""The smallest weights, or the weakest units, removed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import Problem
from assay.models import MLP, UNREGISTERED, Architecture, build, describe
from assay.models.adapters.module import ModuleModel, evaluation
from assay.models.wrapped import linear_layers, swap
from assay.registry import EVERY_TASK, treatment
from assay.treatments import _common, _pruning
from assay.treatments.model._refit import refitted
from assay.values import Array, System


@treatment("model", moves=("lower:model_bytes",), tasks=EVERY_TASK)
def prune_magnitude(
    system: System, *, sparsity: float = 0.5, structured: bool | None = None, calibration_num: int = 4096
) -> System:
    r"""Remove the share `sparsity` of hidden units (structured) or of weights with the smallest magnitude.

    Structured: unit j of a layer scores $\|W^{in}_{j:}\| \|W^{out}_{:j}\|$ over the layer's mean score; the lowest go,
    in all layers together, one unit at least staying in each. The next layer's weights and bias are refitted by
    ridge regression, so that on `calibration_num` validation rows its answers from the units that stay come nearest to
    what they were. The module is rebuilt smaller: fewer bytes, fewer operations. Unstructured: the smallest $|w|$ of
    all linear, convolutional, recurrent and embedding weights together become 0. Never biases, norms or the encoding.
    None: units where the module is an `MLP` with hidden layers, weights elsewhere. Limits:
    unstructured zeros are stored like any number: **no byte and no second is saved** until a format or
    kernel makes use of them; nothing is trained afterwards, so accuracy can fall. Structured works on `MLP`.
    Raises TreatmentError for a model that is no module, or has no such weights, or for a sparsity outside [0, 1).

    Source: Han et al. 2015, section 3 (weights); Li et al. 2017, section 3.1 (units); He et al. 2017, section 3.1
    (refit).
    """
    problems = [
        *_common.calibrates(system, calibration_num),
        _common.unless(0 <= sparsity < 1, f"sparsity is {sparsity}", "0 to below 1"),
        _wrong_module(system, structured),
    ]
    _common.refuse("prune_magnitude", system, problems)
    before = _common.module_model(system)
    architecture = _common.architecture_within(system)
    by_units = structured is not False and has_hidden_units(before.module)
    if by_units and isinstance(before.module, MLP):
        kept = strongest_units(before.module, sparsity)
        params = {**architecture.params, "hidden": [len(units) for units in kept]}
        architecture = Architecture(architecture.name, params)
        module = _narrower(system, architecture)
        shrink(before.module, module, kept, _common.spread_rows(system.data.splits["validation"], calibration_num))
    else:
        module = copy.deepcopy(before.module)
        _pruning.zero_smallest(module, sparsity)
    module.eval()
    model = ModuleModel(module, outputs_are=before.outputs_are, architecture=architecture, batch_size=before.batch_size)
    outcome = {**_outcome(before.module, module), "by_units": by_units}
    parameters = {"sparsity": float(sparsity), "structured": structured, "calibration_num": int(calibration_num)}
    named = _common.grown(system, treatment="prune_magnitude", stage="model", parameters=parameters, outcome=outcome)
    return replace(named, model=model)


def _narrower(system: System, architecture: Architecture) -> nn.Module:
    """A module of these hidden widths; the weights come later. Where nothing says how to build one, a copy cut off."""
    outputs, params = system.task.num_outputs, architecture.params
    if architecture.name != UNREGISTERED:
        return build(architecture.name, columns=system.data.columns, num_outputs=outputs, params=params)
    module = copy.deepcopy(_common.module_model(system).module)
    names = list(linear_layers(module))
    widths = [module.get_submodule(names[0]).in_features, *params["hidden"], outputs]
    swap(module, {name: nn.Linear(*sizes) for name, sizes in zip(names, pairwise(widths), strict=True)})
    return module


def _outcome(before: nn.Module, after: nn.Module) -> dict[str, Any]:
    weights = [weight[stays] for weight, stays in _pruning.prunable(after)]
    zeros, total = sum(int((one == 0).sum()) for one in weights), sum(one.numel() for one in weights)
    return {
        "bytes_before": describe(before)["num_bytes"],
        "bytes_after": describe(after)["num_bytes"],
        "parameters_before": describe(before)["num_parameters"],
        "parameters_after": describe(after)["num_parameters"],
        "hidden": [layer.out_features for layer in linear_layers(after).values()][:-1],
        "zero_share": zeros / total,
    }


def has_hidden_units(module: nn.Module) -> bool:
    """Whether units can be taken out safely."""
    return isinstance(module, MLP) and len(hidden_layers(module)) > 1


def strongest_units(module: MLP, sparsity: float) -> list[Tensor]:
    """Positions of the units that stay, rising, for each hidden layer."""
    chain = hidden_layers(module)
    scores = []
    for layer, following in pairwise(chain):
        size = (layer.weight.norm(dim=1) * following.weight.norm(dim=0)).detach()
        scores.append(size / size.mean().clamp_min(torch.finfo(torch.float32).tiny))
    together = torch.cat(scores)
    gone = torch.zeros(len(together), dtype=torch.bool)
    gone[torch.argsort(together, stable=True)[: round(sparsity * len(together))]] = True
    kept, start = [], 0
    for score in scores:
        stays = ~gone[start : start + len(score)]
        stays[int(score.argmax())] = True
        kept.append(torch.nonzero(stays).reshape(-1))
        start += len(score)
    return kept


def shrink(module: MLP, smaller: nn.Module, kept: Sequence[Tensor], inputs: Array) -> None:
    """Copy what stays into `smaller`, and refit each layer to the units that reach it."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    chain = hidden_layers(module)
    names = [name for name, layer in module.named_modules() if any(layer is found for found in chain)]
    with evaluation(module), torch.no_grad():
        rows = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
        whole = module.encoder(rows)
        whole = whole[torch.isfinite(whole).all(dim=1)]
        left = whole  # what reaches the layer in the smaller module
        for position, layer in enumerate(chain):
            weight: Tensor = layer.weight
            bias: Tensor = layer.bias
            wanted = layer(whole)
            if position:
                weight, shift = refitted(left, wanted, weight[:, kept[position - 1]], bias)
                bias = _common.known(shift)
            whole = torch.relu(wanted)
            if position < len(kept):
                weight, bias = weight[kept[position]], bias[kept[position]]
            left = torch.relu(nn.functional.linear(left, weight, bias))
            state[names[position] + ".weight"], state[names[position] + ".bias"] = weight.clone(), bias.clone()
    smaller.load_state_dict(state)


def hidden_layers(module: MLP) -> list[nn.Linear]:
    """The linear layers in the order in which they run, the head last."""
    return [layer for layer in module.body if isinstance(layer, nn.Linear)] + [module.head]


def _wrong_module(system: System, structured: bool | None) -> Problem | None:
    model = system.model
    if not isinstance(model, ModuleModel):
        return None  # said already
    if "gradient" not in model.offers:
        return Problem("its weights are already rounded to few bits", next="Prune before quantising")
    if not _pruning.prunable(model.module):
        return Problem("it has no linear, convolutional, recurrent or embedding weights in float32")
    if structured and not isinstance(model.module, MLP):
        return Problem(
            f"its module is a {type(model.module).__name__}, whose units cannot be taken out safely",
            "MLP",
            "Use structured=False, which sets weights to zero and saves no bytes",
        )
    if structured and not has_hidden_units(model.module):
        return Problem("it has no hidden layer to take units from", next="Use structured=False")
    return None
