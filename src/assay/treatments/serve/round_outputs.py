"""Answers with fewer digits: less for whoever copies the model, or asks who was in its data."""

from __future__ import annotations

import copy
from dataclasses import replace

from assay.errors import Problem
from assay.models.adapters.module import ModuleModel
from assay.models.rounded import Rounded, rounded_architecture
from assay.registry import treatment
from assay.tasks import Argmax
from assay.treatments import _common
from assay.values import System


@treatment("serve", moves=("lower:membership_auc",))
def round_outputs(system: System, *, decimals: int = 1, top_only: bool = False) -> System:
    r"""Tell probabilities to `decimals` digits, $\hat p_k = 10^{-d}\,\mathrm{round}(10^d p_k)$; no answer changes.

    With `top_only` only the most probable class and its rounded probability are told; the others share the rest evenly.
    Whoever asks sees no gradients either. Limits: hides confidence, not the label: attacks that use labels alone, or
    many queries near the boundary, work as before; rounded probabilities are worse calibrated, and explanations of them
    move in steps. Raises TreatmentError unless the model is a module that answers with the
    logits of classes, by the most probable class.

    Source: Shokri et al. 2017, section 7 (mitigation by coarse or top-k outputs); Tramer et al. 2016, section 7.1.
    """
    problems = [
        _common.needs_module(system),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        _common.unless(0 <= decimals <= 6, f"decimals is {decimals}", "0 to 6"),
        _wrong_answers(system),
    ]
    _common.refuse("round_outputs", system, problems)
    before = _common.module_model(system)
    module = Rounded(copy.deepcopy(before.module), decimals=decimals, top_only=top_only).eval()
    module.requires_grad_(False)
    architecture = rounded_architecture(_common.architecture_within(system), decimals=decimals, top_only=top_only)
    model = ModuleModel(module, architecture=architecture, differentiable=False, batch_size=before.batch_size)
    named = _common.grown(
        system,
        treatment="round_outputs",
        stage="serve",
        parameters={"decimals": int(decimals), "top_only": bool(top_only)},
        outcome={"levels": 10**decimals + 1, "classes_told": 1 if top_only else system.task.num_outputs},
    )
    return replace(named, model=model)


def _wrong_answers(system: System) -> Problem | None:
    if isinstance(system.model, ModuleModel) and system.model.outputs_are != "logits":
        return Problem(f"its module answers with {system.model.outputs_are}", "logits")
    following = "Thresholds would be met by other rows once probabilities are rounded"
    return _common.unless(
        isinstance(system.decision, Argmax), "its answers depend on thresholds of probabilities", "argmax", following
    )
