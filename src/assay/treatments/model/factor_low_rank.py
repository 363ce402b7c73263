"""Linear layers as products of two thinner ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from assay.errors import Problem
from assay.models.adapters.module import ModuleModel
from assay.models.low_rank import LowRank, factored, low_rank_architecture
from assay.models.wrapped import linear_layers, swap
from assay.registry import EVERY_TASK, treatment
from assay.treatments import _common
from assay.values import Array, System

BATCH = 512


@treatment("model", moves=("lower:model_bytes",), tasks=EVERY_TASK)
def factor_low_rank(system: System, *, share: float = 0.99, calibration_num: int = 1024) -> System:
    r"""Replace each linear layer W by UV of the least rank that keeps `share` of its outputs' variation.

    The rank is the least for which $\|(W-UV)L\|_F^2 \le (1-\text{share})\|WL\|_F^2$, $LL^T$ the second moments of what
    the layer is given on `calibration_num` validation rows: directions that inputs never take cost nothing. A layer
    whose factors would not be smaller stays. Gradients stay on offer, and what is factored can be rounded to 8 bits
    afterwards. Limits: convolutional, recurrent and embedding weights stay; inputs unlike the calibration rows change
    more; small layers at batch 1 may get slower, as two products take two calls. Raises TreatmentError unless the
    model is a module with linear layers that run as layers and of which one gets smaller.

    Source: Eckart and Young 1936; Wang et al. 2025, "SVD-LLM", section 3.1 (whitening by what the layer is given).
    """
    problems = [
        *_common.calibrates(system, calibration_num),
        _common.unless(0 < share < 1, f"share is {share}", "above 0, below 1"),
    ]
    _common.refuse("factor_low_rank", system, problems)
    before = _common.module_model(system)
    rows = _common.spread_rows(system.data.splits["validation"], calibration_num)
    module = copy.deepcopy(before.module)
    found = thinner(module, rows, share)
    _common.refuse("factor_low_rank", system, [_nothing(found)])
    ranks = {name: layer.first.out_features for name, (layer, _) in found.items()}
    swap(module, {name: layer for name, (layer, _) in found.items()})
    module.eval().requires_grad_(False)
    model = ModuleModel(
        module,
        outputs_are=before.outputs_are,
        architecture=low_rank_architecture(_common.architecture_within(system), ranks),
        differentiable="gradient" in before.offers,
        batch_size=before.batch_size,
    )
    named = _common.grown(
        system,
        treatment="factor_low_rank",
        stage="model",
        parameters={"share": float(share), "calibration_num": int(calibration_num)},
        outcome={
            "ranks": ranks,
            "shares_kept": {name: kept for name, (_, kept) in found.items()},
            "bytes_before": before.num_bytes,
            "bytes_after": model.num_bytes,
        },
    )
    return replace(named, model=model)


def thinner(module: nn.Module, rows: Array, share: float) -> dict[str, tuple[LowRank, float]]:
    """Factors of every linear layer that they make smaller, and the share each keeps."""
    moments = second_moments(module, rows)
    found = {}
    for name, layer in linear_layers(module).items():
        if name not in moments:
            continue  # it was not run, or its weights are used by other code
        made, kept = factored(layer, moments[name], share=share)
        if made.first.weight.numel() + made.second.weight.numel() < layer.weight.numel():
            found[name] = (made, kept)
    return found


def _nothing(found: dict[str, tuple[LowRank, float]]) -> Problem | None:
    following = "Ask for a smaller share, or prune or round the weights"
    return _common.unless(bool(found), "no linear layer would get smaller", following=following)


def second_moments(module: nn.Module, inputs: Array) -> dict[str, Tensor]:
    """Mean of $x x^T$ `(in, in)` of what each linear layer is given; layers that do not run as layers are left out."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            given = arguments[0].detach().flatten(0, -2).double()
            given = given[torch.isfinite(given).all(dim=1)]
            sums[name] = sums.get(name, torch.zeros(given.shape[1], given.shape[1], dtype=torch.float64)) + (
                given.T @ given
            )
            counts[name] = counts.get(name, 0) + len(given)

        return record

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in linear_layers(module).items()]
    _common.pass_over(module, inputs, handles, batch_size=BATCH)
    return {name: (total / max(1, counts[name])).clone() for name, total in sums.items()}
