"""Each row is answered by the vote of its noisy copies: randomised smoothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from assay.errors import Problem
from assay.models.adapters.module import ModuleModel
from assay.models.smoothed import Smoothed, is_close, smoothed_architecture
from assay.registry import treatment
from assay.tasks import Argmax
from assay.tasks.decisions import UnlessEven
from assay.treatments import _common
from assay.values import Array, Data, System

MOST_VOTES = 10_000


@treatment("serve", moves=("lower:flip_rate",))
def answer_by_vote(system: System, *, sigma: float = 0.25, num_votes: int = 100, alpha: float = 0.0) -> System:
    r"""Answer with the class that most of n noisy copies of the row get, $\arg\max_k \#\{i: f(x + \sigma s z_i) = k\}$.

    z is standard normal, s a numeric column's standard deviation over training rows, or the pixels' range; categories
    and what is missing get no noise. The noise is keyed by the row's bytes: the same row gets the same answer whatever
    is asked beside it. Probabilities are shares of votes. With `alpha` above 0 a row whose first two classes could have
    equal shares (two-sided binomial test at alpha) gets no answer: even probabilities, and -2 of the decision rule,
    which counts as wrong and is no error. What `certified_radius` certifies of the system before at this sigma is this
    vote, up to its n. Limits: n passes a row; costs accuracy where rows lie near a border, more with more sigma, unless
    the system was trained under noise; noise that is a function of the row is known to whoever knows the row, so an
    adversary can search for a row whose noise is kind, and the certificate is of fresh noise; no gradient is offered,
    which makes gradient attacks look harmless: use attacks that only ask. Raises TreatmentError unless the model is a
    module that answers with logits, by argmax; and for texts or numbers out of range.

    Source: Cohen, Rosenfeld and Kolter 2019, Certified adversarial robustness via randomized smoothing, section 3.2.1
    (PREDICT).
    """
    fine = 0 < sigma <= 10 and 2 <= num_votes <= MOST_VOTES and 0 <= alpha < 1
    problems = [
        _common.needs_module(system),
        _common.needs_split(system, "train"),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        _common.unless(system.data.modality != "text", "its inputs are texts", "tables, images"),
        _common.unless(
            fine, f"sigma is {sigma}, num_votes {num_votes}, alpha {alpha}", f"0 to 10, 2 to {MOST_VOTES:,}, 0 to 1"
        ),
        _wrong_answers(system),
    ]
    _common.refuse("answer_by_vote", system, problems)
    before = _common.module_model(system)
    scale = torch.from_numpy((sigma * spread(system.data)).astype(np.float32))
    module = Smoothed(copy.deepcopy(before.module), scale, num_votes=num_votes, alpha=alpha).eval()
    module.requires_grad_(False)
    architecture = smoothed_architecture(_common.architecture_within(system), num_votes=num_votes, alpha=alpha)
    model = ModuleModel(module, architecture=architecture, differentiable=False, batch_size=before.batch_size)
    least = next((num for num in range(num_votes + 1) if not is_close(np.array([[num, num_votes - num]]), alpha)[0]
                  and 2 * num > num_votes), None)  # fmt: skip
    named = _common.grown(
        system,
        treatment="answer_by_vote",
        stage="serve",
        parameters={"sigma": float(sigma), "num_votes": int(num_votes), "alpha": float(alpha)},
        outcome={"columns_with_noise": int((scale > 0).sum()), "least_votes_of_an_answer": least},
    )
    return replace(named, model=model, decision=UnlessEven() if alpha > 0 else system.decision)


def spread(data: Data) -> Array:
    """What one unit of noise is in raw units: standard deviations `(F,)` of training rows, or the pixels' range."""
    if data.modality == "image":
        column = data.columns[0]
        low, high = 0.0 if column.low is None else column.low, 255.0 if column.high is None else column.high
        return np.full((1, 1, 1), high - low)
    inputs, found = data.splits["train"].inputs, np.zeros(len(data.columns))
    for place, column in enumerate(data.columns):
        known = inputs[:, place][np.isfinite(inputs[:, place])].astype(np.float64)
        found[place] = known.std() if column.kind == "numeric" and len(known) else 0.0
    return found


def _wrong_answers(system: System) -> Problem | None:
    if isinstance(system.model, ModuleModel) and system.model.outputs_are != "logits":
        return Problem(f"its module answers with {system.model.outputs_are}", "logits")
    what, following = "its answers depend on thresholds of probabilities", "Thresholds of votes would be others"
    return _common.unless(isinstance(system.decision, Argmax), what, "argmax", following)
