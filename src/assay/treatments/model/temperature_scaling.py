"""Logits divided by one number, so that stated probabilities fit what happens."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from scipy.special import softmax

from assay.errors import Problem
from assay.models.adapters.module import ModuleModel
from assay.models.temperature import Temperature, temperature_architecture
from assay.registry import treatment
from assay.tasks import Argmax
from assay.treatments import _common
from assay.values import Array, System

COLDEST, HOTTEST = 0.01, 100.0  # rows that are all answered rightly want a temperature of 0
STEPS, CLOSE = 100, 1e-10


@treatment("model", moves=("lower:calibration_error",))
def temperature_scaling(system: System) -> System:
    r"""Divide all logits by the temperature T that gives validation rows the least log loss; no answer changes.

    With s = 1/T the loss $\frac1n\sum_i \log\sum_k e^{s z_{ik}} - s z_{i y_i}$ is convex in the one number s: its
    minimum is found by Newton's method between 0.01 and 100, halving the interval where a step would leave it. T > 1
    makes a model less sure of itself, T < 1 surer. Works for tables, pictures and texts; gradients stay on offer.
    Limits: one number for all rows and classes: a model that is too sure of some and not sure enough of others stays
    so, and the calibration of a group can get worse. It fits validation rows: where those are few, or chose the model
    too, less is gained. Raises TreatmentError unless the model is a module that answers
    with the logits of classes, by the most probable class: a rule with thresholds was fitted to the old probabilities.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    problems = [
        _common.needs_module(system),
        _common.needs_split(system, "validation"),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        _wrong_answers(system),
    ]
    _common.refuse("temperature_scaling", system, problems)
    before = _common.module_model(system)
    split = system.data.splits["validation"]
    logits = system.task.logits(before.outputs(split.inputs), before.outputs_are).astype(np.float64)
    scored = np.isfinite(logits).all(axis=1) & (split.labels >= 0)
    following = "Give it validation rows that it can answer"
    _common.refuse(
        "temperature_scaling",
        system,
        [_common.unless(bool(scored.any()), "no validation row is scored", following=following)],
    )
    temperature = best_temperature(logits[scored], split.labels[scored])
    module = Temperature(copy.deepcopy(before.module), temperature=temperature).eval()
    module.requires_grad_(False)
    model = ModuleModel(
        module,
        outputs_are=before.outputs_are,
        architecture=temperature_architecture(_common.architecture_within(system)),
        differentiable="gradient" in before.offers,
        batch_size=before.batch_size,
    )
    outcome = {
        "temperature": temperature,
        "num_rows": int(scored.sum()),
        "log_loss_before": log_loss(logits[scored], split.labels[scored], 1.0),
        "log_loss_after": log_loss(logits[scored], split.labels[scored], temperature),
    }
    named = _common.grown(system, treatment="temperature_scaling", stage="model", parameters={}, outcome=outcome)
    return replace(named, model=model)


def _wrong_answers(system: System) -> Problem | None:
    if isinstance(system.model, ModuleModel) and system.model.outputs_are != "logits":
        return Problem(f"its module answers with {system.model.outputs_are}", "logits", "Leave out its last softmax")
    following = "Scale first, then fit the thresholds"
    return _common.unless(
        isinstance(system.decision, Argmax), "its answers depend on thresholds of probabilities", "argmax", following
    )


def best_temperature(logits: Array, labels: Array) -> float:
    """The T in [0.01, 100] of least mean log loss, for logits `(n, K)` and labels `(n,)`.

    >>> round(best_temperature(np.tile([[0.0, 4.0]], (4, 1)), np.array([1, 1, 1, 0])), 4)  # log 3 = 4 / T
    3.641
    """
    own = logits[np.arange(len(labels)), labels]
    low, high = 1 / HOTTEST, 1 / COLDEST
    sharpness = 1.0
    for _ in range(STEPS):
        chance = softmax(sharpness * logits, axis=1)
        mean = (chance * logits).sum(axis=1)
        slope = float((mean - own).mean())
        curvature = float((chance * (logits - mean[:, None]) ** 2).sum(axis=1).mean())
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        following = sharpness - slope / curvature if curvature > 0 else np.inf if slope < 0 else -np.inf
        following = following if low < following < high else (low + high) / 2
        if abs(following - sharpness) <= CLOSE * sharpness:
            break
        sharpness = float(following)
    return 1 / sharpness


def log_loss(logits: Array, labels: Array, temperature: float) -> float:
    """Mean log loss of logits `(n, K)` divided by a temperature."""
    scaled = logits / temperature
    top = scaled.max(axis=1)
    total = top + np.log(np.exp(scaled - top[:, None]).sum(axis=1))
    return float((total - scaled[np.arange(len(labels)), labels]).mean())
