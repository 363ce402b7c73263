"""Training that already feels the rounding to 8 bits, and the 8-bit model it ends in."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.models.adapters.module import ModuleModel
from assay.models.adapters.onnx import parsed
from assay.models.by_onnxruntime import graph_of, onnxruntime_model
from assay.models.fake_int8 import FakeInt8
from assay.models.graph_layers import input_ranges, layers_of, pays
from assay.models.quantised_graph import quantised
from assay.models.store import recipe_from_json, register_recipe
from assay.registry import treatment
from assay.train import Hooks, TrainRecipe, fit
from assay.treatments import _by_onnxruntime, _common
from assay.values import Data, Fitted, Recipe, Split, System, digest_of

CALIBRATION = 200  # training rows that give the ranges of what convolutions give, which no layer reads alone


@dataclass(frozen=True)
class Int8Recipe:
    """The base recipe, trained with rounded weights and inputs; the model is the 8-bit one."""

    base: TrainRecipe
    layers: str | tuple[str, ...]
    start: float

    @cached_property
    def digest(self) -> str:
        """Over the base recipe and the settings."""
        return digest_of(["Int8Recipe", self.base.digest, self.layers, self.start])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        layers = self.layers if isinstance(self.layers, str) else list(self.layers)
        return {"name": "train_for_int8", "base": self.base.to_json(), "layers": layers, "start": self.start}

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split`, and round for good."""
        module, fake, facts = self.trained(split, data, seed)
        fake.remove()
        return Fitted(self.rounded(self.base.wrap(module, data.columns), split, fake.ranges()), facts)

    def trained(self, split: Split, data: Data, seed: int) -> tuple[nn.Module, FakeInt8, Mapping[str, Any]]:
        """The trained module with the rounding still in its forward pass, what rounds it, and the facts."""
        base, settings = self.base, self.base.settings
        module = base.make_module(split, data, seed)
        drawn = base.wrap(drawn_anew(module), data.columns)
        whole = self.arithmetic(parsed(graph_of(drawn, split.inputs[:3]), "the graph"))
        num_steps = settings.epochs * -(-len(split) // settings.batch_size)
        num_steps = min(num_steps, settings.max_steps) if settings.max_steps else num_steps
        chosen = frozenset(name for name, one in whole.items() if one == "int8")
        fake = FakeInt8(module, chosen, start=int(self.start * num_steps))

        def count(module: nn.Module, inputs: Tensor, rows: Tensor) -> Tensor:
            fake.step()
            return inputs

        hooks = Hooks(
            progress=base.progress,
            validation=data.splits.get("validation") if settings.patience or base.is_watched else None,
            perturb=count,
            columns=data.columns,
        )
        facts = fit(module, split, task=base.task, settings=settings, seed=seed, hooks=hooks)
        return module, fake, facts

    def arithmetic(self, proto: Any) -> dict[str, str]:
        """How each layer of the graph computes."""
        known = layers_of(proto)
        named = [one.name for one in known if self.layers == "all" or (pays(one) if self.layers == "rule" else False)]
        whole = named if isinstance(self.layers, str) else list(self.layers)
        return {one.name: "int8" if one.name in whole else "float32" for one in known}

    def rounded(self, model: ModuleModel, split: Split, seen: Mapping[str, tuple[float, float]]) -> ModuleModel:
        """The 8-bit model, with the input ranges that training ended in."""
        proto = parsed(graph_of(model, split.inputs[:3]), "the graph")
        batches = _by_onnxruntime.fed(model, _common.spread_rows(split, CALIBRATION))
        ranges = input_ranges(proto, _by_onnxruntime.session, batches)
        ranges |= {one.given: seen[one.name] for one in layers_of(proto) if one.name in seen}
        made = quantised(proto, ranges, self.arithmetic(proto))
        return onnxruntime_model(model, made.SerializeToString(deterministic=True))


def drawn_anew(module: nn.Module) -> nn.Module:
    """A copy with every parameter drawn from noise: an exporter joins layers that start with the same weights (zeros).

    What layers there are, by their sizes, does not depend on the numbers.
    """
    made, draw = copy.deepcopy(module), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    return made.eval()


def _from_json(about: Mapping[str, Any], data: Data) -> Recipe:
    base = recipe_from_json(about["base"], data)
    if not isinstance(base, TrainRecipe):
        raise ModelError(Problem(f"the recipe under an 8-bit one is a {type(base).__name__}", "TrainRecipe"))
    layers = about["layers"]
    return Int8Recipe(base, layers if isinstance(layers, str) else tuple(layers), float(about["start"]))


register_recipe("train_for_int8", _from_json)


@treatment("train", moves=("lower:model_bytes",))
def train_for_int8(
    system: System, *, layers: str | Sequence[str] = "rule", start: float = 0.3, epochs: int | None = None
) -> System:
    r"""Train again with weights and layer inputs rounded in each forward pass: $\min_w \sum_i L(f_{Q(w)}, x_i, y_i)$.

    Q rounds to the grid that `quantize_static` rounds to; its gradient is taken as 1, and as 0 where an input is
    clipped. Weights are rounded from the first step on, inputs after the share `start` of all steps, on ranges that run
    along with training. The result is the 8-bit model, which answers as the module did in training: `layers` as in
    `quantize_static` ("rule", "all" or names), `epochs` instead of the recipe's. Limits: takes 1.3 times as long as
    plain training (an MLP on Adult); one rounding is not felt, that of what a convolution adds to a sum; recurrent
    weights stay float32; query and meter only afterwards, no gradients. At 8 bits, rounding afterwards
    usually loses as little.
    Raises TreatmentError without a plain recipe, after model-stage treatments, for names of no layer, and for a module
    that torch cannot export; MissingExtraError without onnx, onnxscript and onnxruntime.

    Source: Jacob et al. 2018, section 3; straight-through gradients: Bengio et al. 2013, section 4.
    """
    named = layers if isinstance(layers, str) else tuple(str(name) for name in layers)
    problems = [
        _common.needs_recipe(system),
        _common.needs_train_recipe(system),
        _common.needs_no_later_stage(system),
        _common.needs_split(system, "train"),
        _common.unless(
            not isinstance(named, str) or named in ("rule", "all"), f"layers is {named!r}", "rule, all, or names"
        ),
        _common.unless(0 <= start <= 1, f"start is {start}", "0 to 1"),
        _common.unless(epochs is None or epochs >= 1, f"epochs is {epochs}", "1 or more, or None"),
    ]
    _common.refuse("train_for_int8", system, problems)
    base = _common.train_recipe(system)
    if epochs is not None:
        base = replace(base, settings=replace(base.settings, epochs=int(epochs)))
    recipe = Int8Recipe(base, named, float(start))
    split = system.data.splits["train"]
    drawn = base.wrap(drawn_anew(base.make_module(split, system.data, system.seed)), system.data.columns)
    proto = _by_onnxruntime.graph("train_for_int8", system, drawn)
    known = [one.name for one in layers_of(proto)]
    wrong = None if isinstance(named, str) else _by_onnxruntime.unknown(named, known)
    _common.refuse("train_for_int8", system, [wrong])
    fitted = recipe.fit(split, system.data, system.seed)
    told = {"layers": named if isinstance(named, str) else list(named), "start": float(start), "epochs": epochs}
    outcome = {
        "bytes_before": system.model.num_bytes,
        "bytes_after": fitted.model.num_bytes,
        "arithmetic": recipe.arithmetic(proto),
    }
    grown = _common.grown(system, treatment="train_for_int8", stage="train", parameters=told, outcome=outcome)
    return replace(grown, model=fitted.model, recipe=recipe, facts=fitted.facts)
