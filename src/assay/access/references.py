"""Reference models: the system's recipe on other halves of the training split, trained once and shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from assay import registry
from assay.access.handles import Reference, keyed_rng
from assay.errors import ModelError, Problem
from assay.models import REPLACED
from assay.observe import Ledger, Workspace, observe
from assay.tasks import decision_of
from assay.tasks.lottery import Drawn
from assay.train.streams import seeds_apart
from assay.values import Array, Fitted, Step, System, array_digest, digest_of

_TRAINED: dict[str, Fitted] = {}  # by digest: within one run a model-stage treatment meets the same reference models
MAX_TRAINED = 64
SEED = 1000  # of the first
# What a treatment did before it had the parameter: an older lineage says nothing of it, and its default is another now.
BEFORE: Mapping[str, Mapping[str, Any]] = {
    "quantize_int8": {"rounding": "nearest"},
    "quantize_static": {"rounding": "nearest"},
}


def halves(rows: Array, num: int, data_digest: str) -> list[Array]:
    """`num` membership masks `(N,)` in complementary pairs: each row is in exactly `num / 2` of them.

    `rows (N,)` are numbers of the source: copies of one row, changed or not, are in or out together, for a model that
    learnt from a copy is none that never saw the row, and comparing the two would hide members.

    >>> sum(mask.astype(int) for mask in halves(np.arange(10), 4, "x")).tolist()
    [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    different, whose = np.unique(rows, return_inverse=True)
    num_rows = len(different)
    if num_rows == len(rows):
        whose = np.arange(num_rows)  # whatever their order
    if num < 2 or num % 2:
        raise ModelError(Problem(f"{num} reference models were asked for", "an even number, at least 2"))
    masks: list[Array] = []
    for pair in range(num // 2):
        order = keyed_rng("halves", data_digest, str(pair)).permutation(num_rows)
        mask = np.zeros(num_rows, dtype=bool)
        mask[order[: num_rows // 2]] = True
        masks += [mask[whose], np.logical_not(mask)[whose]]
    return masks


def reference_models(system: System, workspace: Workspace, ledger: Ledger) -> tuple[Reference, ...]:
    """The reference models of a system; their logits on members and non-members are in the workspace's cache.

    Trained by the recipe on halves of the training split; treatments of the model and serve stages are then applied to
    them again from the lineage, with the same half as training rows, so a model-stage treatment costs no training.
    None has the seed of the system: what the two share would then look like what is learnt from the rows. Raises
    ModelError without a recipe.
    """
    if system.recipe is None:
        raise ModelError(Problem(f"{system.name} has no recipe to train reference models with"))
    train = system.data.splits["train"]
    masks = halves(train.rows, workspace.num_references, digest_of([train.rows, train.labels]))
    found = []
    for index, (mask, seed) in enumerate(zip(masks, seeds_apart(SEED, len(masks), own=system.seed), strict=True)):
        workspace.progress(f"{system.name}: reference models", index, len(masks))
        reference = _reference(system, mask, seed)
        logits = partial(_logits, reference, workspace, ledger)
        for name in ("train", system.data.non_members):
            logits(name)  # run now, and remembered by the workspace
        found.append(Reference(reference, mask, logits, seed))
    return tuple(found)


def _logits(reference: System, workspace: Workspace, ledger: Ledger, name: str) -> Array:
    return observe(reference, name, want=frozenset(), workspace=workspace, ledger=ledger).arrays["logits"]


def _reference(system: System, mask: Array, seed: int) -> System:
    if system.recipe is None:
        raise ModelError(Problem(f"{system.name} has no recipe"))
    split = system.data.splits["train"].take(np.flatnonzero(mask))
    known = [system.recipe.digest, len(REPLACED)]  # a recipe names its architecture, and a name can be built anew
    key = digest_of([*known, system.data.digest, split.digest, array_digest(mask), seed])
    if key not in _TRAINED:
        while len(_TRAINED) >= MAX_TRAINED:
            _TRAINED.pop(next(iter(_TRAINED)))
        _TRAINED[key] = system.recipe.fit(split, system.data, seed)
    fitted = _TRAINED[key]
    name = f"{system.name} reference {seed}"
    # A drawn answer belongs to the recipe; other rules are fitted again by the steps that made them.
    rule = system.decision if isinstance(system.decision, Drawn) else decision_of(system.task)
    # Treatments that look at training rows must see those of the reference alone: the others were not its members.
    data = replace(system.data, splits={**system.data.splits, "train": split})
    bare = replace(system, name=name, model=fitted.model, facts=fitted.facts, lineage=(), seed=seed, decision=rule)
    return replace(_retreat(replace(bare, data=data), system.lineage), data=system.data)


def _retreat(reference: System, lineage: Sequence[Step]) -> System:
    """Apply the model- and serve-stage steps of a lineage; earlier stages are already in the data or the recipe."""
    if lineage:
        registry.load("assay.treatments")
    for step in lineage:
        if step.stage in ("model", "serve"):
            parameters = {**BEFORE.get(step.treatment, {}), **step.parameters}
            reference = registry.TREATMENTS[step.treatment].function(reference, **parameters)
    return reference
