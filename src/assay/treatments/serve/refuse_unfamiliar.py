"""Rows unlike those of training get no answer."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch

from assay.errors import Problem
from assay.models import tensors
from assay.models.adapters.module import ModuleModel, evaluation, rows_a_batch
from assay.models.guarded import SCORES, Guarded, class_shape, guarded_architecture, last_linear
from assay.registry import treatment
from assay.tasks import Argmax
from assay.tasks.decisions import UnlessEven
from assay.treatments import _common
from assay.values import Array, System

MOST_ROWS = 20_000  # of training and of validation, at even distances


@treatment("serve", moves=("higher:foreign_refused_share",))
def refuse_unfamiliar(system: System, *, refused: float = 0.05, score: str = "distance") -> System:
    r"""Give no answer to rows with $s(x) > t$, t such that at most the share `refused` of validation rows has none.

    "distance": Mahalanobis distance of the embedding (input of the last linear layer) to the nearest class mean,
    $s = \min_k (e - \mu_k)^T \Sigma^{-1} (e - \mu_k)$, means and common covariance of training rows, with their labels.
    "energy": $s = -\log \sum_k \exp f_k$. A refused row has even probabilities and the answer -2, counts as attempted
    and not answered, and is told apart from one that failed (-1); the service answers null. Limits: costs about the
    share `refused` of right answers, which may fall on a small group: compare groups. What is unfamiliar to the
    embedding is not all that is wrong: at 5 % of own rows, 68 % of digits cut up and put together otherwise were
    refused (energy: 39 %), and 6 % of rows of Adult with shuffled columns: there it sees nothing. Rows made to look
    familiar pass; no gradient is offered. Class means and covariance of embeddings of training rows become weights, of
    a class of one row that row's: after `dp_sgd` its epsilon does not cover them.
    Raises TreatmentError unless the model is a module that answers with logits, by argmax;
    without training or validation rows; or for an unknown score or a share outside 0 to 0.5.

    Source: Lee et al. 2018, A simple unified framework for detecting out-of-distribution samples, section 2.1; Liu et
    al. 2020, Energy-based out-of-distribution detection, section 3.2; Chow 1970 for refusing at a chosen rate.
    """
    problems = [
        _common.needs_module(system),
        _common.needs_split(system, "train"),
        _common.needs_split(system, "validation"),
        _common.unless(bool(system.task.classes), f"its task is {system.task.name}", "classification"),
        _common.unless(0 < refused <= 0.5, f"refused is {refused}", "more than 0, at most 0.5"),
        _common.unless(score in SCORES, f"score is {score!r}", ", ".join(SCORES)),
        _wrong_module(system, score),
    ]
    _common.refuse("refuse_unfamiliar", system, problems)
    before = _common.module_model(system)
    _common.refuse("refuse_unfamiliar", system, [_does_not_run(before, system, score)])
    module, known = _fitted(system, score)
    _common.refuse("refuse_unfamiliar", system, [_common.unless(len(known) > 0, "no validation row has an answer")])
    module.threshold.fill_(float(np.quantile(known, 1 - refused, method="higher")))
    module.requires_grad_(False)
    architecture = guarded_architecture(_common.architecture_within(system), score=score)
    model = ModuleModel(module, architecture=architecture, differentiable=False, batch_size=before.batch_size)
    named = _common.grown(
        system,
        treatment="refuse_unfamiliar",
        stage="serve",
        parameters={"refused": float(refused), "score": score},
        outcome={
            "threshold": float(module.threshold),
            "refused_of_validation": float((known > float(module.threshold)).mean()),
            "num_validation": len(known),
        },
    )
    return replace(named, model=model, decision=UnlessEven())


def _fitted(system: System, score: str) -> tuple[Guarded, Array]:
    """The guard, its threshold still to be set, and the finite scores of validation rows."""
    base = copy.deepcopy(_common.module_model(system).module)
    module = Guarded(base, score=score, num_outputs=system.task.num_outputs).eval()
    train, validation = (system.data.splits[name] for name in ("train", "validation"))
    if score == "distance":
        picked = np.linspace(0, len(train) - 1, min(MOST_ROWS, len(train))).round().astype(np.int64)
        _, seen = _look(module, train.inputs[picked])
        fine = np.isfinite(seen).all(axis=1)
        means, whitener = class_shape(seen[fine], train.labels[picked][fine], system.task.num_outputs)
        module.means.copy_(torch.from_numpy(means))
        module.whitener.copy_(torch.from_numpy(whitener))
    scores, _ = _look(module, _common.spread_rows(validation, MOST_ROWS))
    return module, scores[np.isfinite(scores)]


@torch.inference_mode()
def _look(module: Guarded, inputs: Array) -> tuple[Array, Array]:
    """Scores `(N,)` in float32, as they will be compared, and embeddings `(N, D)` float64."""
    scores, found, step = [], [], rows_a_batch(inputs)
    with evaluation(module):
        for start in range(0, len(inputs), step):
            logits, seen = module.look(tensors(module, inputs[start : start + step]))
            scores.append(module.scores(logits, seen).numpy())
            found.append(seen.double().numpy())
    return np.concatenate(scores), np.concatenate(found)


def _does_not_run(model: ModuleModel, system: System, score: str) -> Problem | None:
    """A network of one's own may have a last linear layer that nothing goes through, or not once a row."""
    if score != "distance":
        return None
    layer, seen = last_linear(model.module), list[torch.Tensor]()
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        num = len(model.outputs(system.data.splits["validation"].inputs[:2]))  # batch norms may need two
    finally:
        hook.remove()
    fine = bool(seen) and seen[-1].numel() == num * layer.in_features
    what = "what its last linear layer reads is not one embedding a row"
    return _common.unless(fine, what, "a network that runs through it", 'Use score="energy"')


def _wrong_module(system: System, score: str) -> Problem | None:
    if not isinstance(system.model, ModuleModel):
        return None
    if system.model.outputs_are != "logits":
        return Problem(f"its module answers with {system.model.outputs_are}", "logits")
    if not isinstance(system.decision, Argmax):
        return Problem("its answers depend on thresholds of probabilities", "argmax")
    has_layer = any(isinstance(layer, torch.nn.Linear) for layer in system.model.module.modules())
    following = 'Use score="energy"'
    return _common.unless(score != "distance" or has_layer, "it has no linear layer to read from", "one", following)
