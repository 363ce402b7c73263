"""Whether an explanation notices that the model it explains has forgotten what it learned."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from assay.access.handles import Query
from assay.models.adapters.module import ModuleModel
from assay.observe import module_of
from assay.probes.transparency import _gradients, _masked
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.values import Array, Measurement, System, Task

DEPTHS = (1, 2, 3)  # thirds of the layers, from the output down, whose weights are drawn again
MOST_NUMBERS = 1 << 25  # in all random models of a depth: large networks have fewer of them than rows
FEWEST = 2
SHARED = "{num} random models for {rows} rows: the interval does not cover which"


def _cost(sizes: Sizes) -> dict[str, int]:
    again = len(DEPTHS) * _gradients.num_rows(sizes) * _gradients.NUM_STEPS
    asked = _masked.target_rows(sizes)
    return {
        _gradients.PASSES: _gradients.pull_rows(sizes),
        "gradients of random models": again,
        "explained rows": asked,
        **_masked.screening(sizes),
    }


@probe("transparency", tasks=("classification", "regression"), cost=_cost)
def explanation_randomisation(gradient: Query, task: Task, draws: Draws) -> list[Measurement]:
    """How alike integrated gradients stay when the weights are drawn again, layer by layer from the output down.

    Definition: randomisation_similarity = mean over rows of Spearman's correlation between |phi| of the system and
    |phi'| of the same network with the weights of its last third (`redrawn=1/3`), two thirds, and all layers (no slice)
    drawn again: each tensor's numbers in a random order, so that their distribution stays. Every row meets a random
    model of its own, so that the interval covers which was drawn; of more than a million weights rows share models.
    Shapes: the explained rows of gradient_attributions (U units).
    Direction: lower, -1 to 1; 1 = the explanation does not depend on what was learned (an edge detector).
    Limits: phi contains x - b, which a random model keeps: for inputs whose sizes differ much the similarity of an
    honest explanation is above 0. Encoders fitted to the data are kept. Says nothing of whether phi is right.
    Source: Adebayo et al. 2018, section 3.1 (cascading randomisation) and 3.3 (rank correlation of sizes).

    >>> from assay.registry import PROBES
    >>> PROBES["explanation_randomisation"].modalities
    ('table', 'image', 'text')
    """
    rows = _gradients.sample(gradient)
    return measure(gradient, task, draws.of(rows), explainer=_gradients.by_integration)


def measure(gradient: Query, task: Task, draws: Draws, *, explainer: _gradients.Explainer) -> list[Measurement]:
    """The measurements for any explainer of the same rows."""
    inputs = gradient.inputs[_gradients.sample(gradient)]
    target = _gradients.targets(gradient, task)
    first = _gradients.explained(gradient, task, explainer=explainer)
    rng, found = gradient.rng("randomisation"), []
    numbers = sum(one.numel() for one in module_of(gradient.system).parameters())
    scratch = copy.deepcopy(module_of(gradient.system))
    num_models = min(len(inputs), max(FEWEST, MOST_NUMBERS // max(numbers, 1)))
    for depth in DEPTHS:
        values = np.empty(first.values.shape)
        for model in range(num_models):
            other = replace(gradient, system=redrawn(gradient.system, depth / DEPTHS[-1], rng, into=scratch))
            its = slice(model, None, num_models)
            values[its] = _gradients.attributions(
                other, task, inputs[its], explainer=explainer, of=(gradient, target[its])
            )
        alike = _masked.rank_correlation(np.abs(first.values), np.abs(values))
        is_usable = _masked.finite(first.values, first.change, values)
        slice_ = "" if depth == DEPTHS[-1] else f"redrawn={depth}/{DEPTHS[-1]}"
        mean = _masked.agreement(draws, alike, is_usable, bounds=(-1, 1), undefined="all attributions are equal")
        if num_models < len(inputs):
            shared = SHARED.format(num=num_models, rows=len(inputs))
            mean = replace(mean, reason="; ".join(one for one in (mean.reason, shared) if one))
        found.append(
            measured(
                mean, "randomisation_similarity", unit="rank correlation", better="lower", slice=slice_,
                attempted=len(inputs), errored=int((~is_usable).sum()),
            )
        )  # fmt: skip
    return _masked.noted(gradient, found)


def redrawn(system: System, share: float, rng: np.random.Generator, *, into: torch.nn.Module) -> System:
    """The system with the weights of the last `share` of its layers in a random order, each tensor by itself.

    `into` is a copy of its module, or was redrawn for this share or a smaller one; the new system holds it.
    """
    layers, known = _layers(into), _layers(module_of(system))
    num = int(np.ceil(share * len(layers)))
    with torch.no_grad():
        for layer, original in zip(layers[len(layers) - num :], known[len(layers) - num :], strict=True):
            for tensor, numbers in zip(
                layer.parameters(recurse=False), original.parameters(recurse=False), strict=True
            ):
                tensor.copy_(_shuffled(numbers, rng))
    model = ModuleModel(into, outputs_are=system.model.outputs_are)
    return replace(system, name=f"{system.name} redrawn", model=model)


def _layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The parts that have weights of their own, in order."""
    return [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]


def _shuffled(tensor: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    order: Array = rng.permutation(tensor.numel())
    return tensor.flatten()[torch.from_numpy(order)].view(tensor.shape)
