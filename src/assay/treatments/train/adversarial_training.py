"""Training on the worst rows within a radius, so that small changes of an input turn fewer answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import Problem
from assay.registry import treatment
from assay.train import Hooks, TrainRecipe, fit, task_loss
from assay.train.streams import stream_seed
from assay.treatments import _common
from assay.treatments.train import _around
from assay.treatments.train._inner import Around, Collapse
from assay.units.ranges import radius_of
from assay.values import Data, Fitted, Split, System, digest_of

STREAMS = 2  # version of how draws are seeded: in the digest, for other draws train other weights


NUM_STEPS = {"image": 1, "table": 3}  # on tables one step gained nothing


@dataclass(frozen=True)
class AdversarialSettings:
    """The numbers of the inner attack: radius as a share of each plausible range, steps, share of training to rise."""

    radius: float
    num_steps: int = 1
    ramp: float = 0.3


@dataclass(frozen=True)
class AdversarialRecipe:
    """The base recipe, trained on rows that an attack has moved."""

    base: TrainRecipe
    settings: AdversarialSettings

    @cached_property
    def digest(self) -> str:
        """Over the base recipe and the settings."""
        return digest_of(["AdversarialRecipe", STREAMS, self.base.digest, self.settings])

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data."""
        return _around.to_json("adversarial_training", self.base, self.settings)

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split`; without a validation split, training rows show whether it overfits."""
        base = self.base
        module = base.make_module(split, data, seed)
        around = Around.of(data.columns, split.inputs, self.settings.radius)
        validation = data.splits.get("validation")
        watched = validation if validation is not None and len(validation) else split
        risen = 1 + math.ceil(self.settings.ramp * base.settings.epochs)
        own = stream_seed(seed, "watched random starts")
        collapse = Collapse.on(watched, task=base.task, around=around, seed=own, first=risen)
        hooks = Hooks(
            progress=base.progress,
            validation=validation if base.settings.patience or base.is_watched else None,
            perturb=self._perturb(split, around, seed),
            after_epoch=collapse.look,
            columns=data.columns,
        )
        facts = fit(module, split, task=base.task, settings=base.settings, seed=seed, hooks=hooks)
        found = {"robust_curve": collapse.curve, "catastrophic_overfitting": collapse.told}
        return Fitted(base.wrap(module, data.columns), {**facts, **found})

    def _perturb(self, split: Split, around: Around, seed: int) -> Any:
        """The hook of the loop: it counts its calls, for the radius rises over the first share of the steps."""
        settings, numbers = self.settings, self.base.settings
        loss = task_loss(split, self.base.task, label_smoothing=numbers.label_smoothing)
        draw = torch.Generator().manual_seed(stream_seed(seed, "random starts"))
        total = numbers.epochs * -(-len(split) // numbers.batch_size)
        total = min(total, numbers.max_steps) if numbers.max_steps else total
        calls = 0

        def perturb(module: nn.Module, inputs: Tensor, rows: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            share = min(1.0, calls / max(1.0, settings.ramp * total))
            here = replace(around, step=around.step * share)
            return here.worst(module, inputs, rows, loss=loss, num_steps=settings.num_steps, draw=draw)

        return perturb


_around.register("adversarial_training", AdversarialRecipe, AdversarialSettings)


@treatment("train", moves=("higher:robust_accuracy",), trainings=3)
def adversarial_training(
    system: System, *, radius: float | None = None, num_steps: int | None = None, epochs: int | None = None
) -> System:
    r"""Train again on $\max_{|x'_f-x_f|\le r(high_f-low_f)} L(x', y)$, the maximum taken by an attack on each batch.

    `num_steps` 1 is fast adversarial training: one signed step of 1.25 r from a random start, twice the cost of plain
    training. k steps of 2.5 r / k are PGD, k + 1 times the cost. None: one for pictures, three for tables. `radius` r
    is a share of each numeric column's plausible range, or of the pixels' (L-infinity), by default that of the probe;
    it rises from 0 over the first 0.3 of the steps, because training at a large radius from the start may stay at a
    constant answer. `epochs` instead of the recipe's. After every epoch 512 validation rows are attacked by FGSM and by
    PGD-10: where accuracy under PGD falls and under FGSM stays (catastrophic overfitting), training stops, the best
    epoch is kept, and the outcome says so.
    Limits: clean accuracy usually falls, and unequally between classes; robust within r and L-infinity alone; accuracy
    under the attack that was trained against overstates robustness: audit with adversarial_accuracy. On Adult, whose
    ranges are set by long tails, one step gained nothing (eight seeds: 0.543 robust before, 0.545 after, for 0.870 to
    0.791 accurate) and three steps a little (four seeds: 0.556 to 0.619, for 0.870 to 0.821).
    Raises TreatmentError without a plain recipe, for texts and regression, where no column can move, after
    model-stage treatments, and for numbers out of range.

    Source: Wong, Rice and Kolter 2020, algorithm 3 and section 5.4; Madry et al. 2018, section 2.
    """
    kind, chosen = system.data.modality, 0.0
    steps = NUM_STEPS.get(kind, 1) if num_steps is None else num_steps
    if kind != "text":
        chosen = radius_of(system.data.columns)[0] if radius is None else float(radius)
    problems = [
        *_common.trains_again(system),
        _common.unless(kind != "text", "its inputs are texts, which have no small steps", "tables and images"),
        _common.needs_classes(system),
        _common.unless(kind == "text" or 0 < chosen <= 1, f"radius is {chosen}", "above 0, at most 1"),
        _common.unless(steps >= 1, f"num_steps is {num_steps}", "1 or more, or None"),
        _common.unless(epochs is None or epochs >= 1, f"epochs is {epochs}", "1 or more, or None"),
        _cannot_move(system, chosen),
    ]
    _common.refuse("adversarial_training", system, problems)
    base = _common.train_recipe(system)
    if epochs is not None:
        base = replace(base, settings=replace(base.settings, epochs=int(epochs)))
    recipe = AdversarialRecipe(base, AdversarialSettings(chosen, int(steps)))
    fitted = recipe.fit(system.data.splits["train"], system.data, system.seed)
    parameters = {"radius": chosen, "num_steps": int(steps), "epochs": None if epochs is None else int(epochs)}
    outcome = {name: fitted.facts[name] for name in ("robust_curve", "catastrophic_overfitting")}
    named = _common.grown(
        system, treatment="adversarial_training", stage="train", parameters=parameters, outcome=outcome
    )
    return replace(named, model=fitted.model, recipe=recipe, facts=fitted.facts)


def _cannot_move(system: System, radius: float) -> Problem | None:
    train = system.data.splits.get("train")
    if system.data.modality == "text" or train is None or not len(train):
        return None
    can = bool((Around.of(system.data.columns, train.inputs, radius).step > 0).any())
    return _common.unless(
        can, f"no column can move by {radius} of its range", "a numeric column with a range, or pixels"
    )
