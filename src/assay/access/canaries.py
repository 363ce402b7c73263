"""Canaries: made-up rows, or known gradients, of which fair coins decide whether one more training sees them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from assay.access.handles import Canaries, Released, keyed_rng
from assay.errors import ModelError, Problem
from assay.observe import Ledger, Workspace
from assay.train.streams import seeds_apart
from assay.units.text import is_unspaced, words
from assay.values import Array, Data, Groups, Split, System, digest_of, plain

MAX_CANARIES = 1000
MAX_GRADIENTS = 2000  # canaries that are gradients: each costs one weight, and the training is as long as before
SEED = 3000  # of the canary training, or the next where it is the system's own, whose noise the weights would cancel
STRETCH = 10.0  # numbers lie up to this many ranges away from the lowest
NUM_WORDS = 12


def made_up(system: System, num: int, rng: np.random.Generator) -> Split:
    """Rows such as nobody has, with labels drawn at random: what a model can only know by heart.

    Table: every category at random, every number up to ten ranges away. Picture: every pixel at random. Text: twelve
    words at random out of all training texts.
    """
    data, train = system.data, system.data.splits["train"]
    labels = rng.integers(0, len(data.classes), num).astype(train.labels.dtype)
    if data.modality == "text":
        inputs = _texts(train.inputs, data.columns[0].language, num, rng)
    elif data.modality == "image":
        inputs = rng.integers(0, 256, (num, *train.inputs.shape[1:])).astype(train.inputs.dtype)
    else:
        inputs = np.empty((num, len(data.columns)), dtype=np.float32)
        for place, column in enumerate(data.columns):
            if column.kind == "categorical":
                inputs[:, place] = rng.integers(0, len(column.categories), num)
            else:
                low, high = column.low or 0.0, column.high or 0.0
                away = rng.uniform(1, STRETCH, num) * rng.choice([-1.0, 1.0], num)
                inputs[:, place] = low + (high - low or 1.0) * away
    codes = np.full((num, train.groups.codes.shape[1]), -1, dtype=train.groups.codes.dtype)
    rows = np.arange(num) - num - 1  # no source has negative row numbers
    weights = None if train.weights is None else np.full(num, train.weights.mean(), dtype=np.float32)
    return Split(inputs, labels, Groups(codes, train.groups.columns), rows, weights)


def _texts(inputs: Array, language: str, num: int, rng: np.random.Generator) -> Array:
    known = sorted({word.strip() for text in inputs.tolist() for word in words(text, language)} - {""}) or ["?"]
    space = "" if is_unspaced(language) else " "
    chosen = rng.integers(0, len(known), (num, NUM_WORDS))
    return np.array([space.join(known[at] for at in row) for row in chosen], dtype=np.dtypes.StringDType())


def num_canaries(num_train: int) -> int:
    """How many canaries a training split of this size gets: an even number, a quarter of it at most.

    >>> num_canaries(127), num_canaries(32_561)
    (30, 1000)
    """
    return min(MAX_CANARIES, num_train // 4) // 2 * 2


def canary_training(system: System, workspace: Workspace, ledger: Ledger) -> Canaries:
    """Train the recipe once with about half of the canaries among the training rows; remembered by digest.

    As many training rows are left out as canaries are expected in, so that the run is of the usual size. Raises
    ModelError without a recipe, and for fewer than sixteen training rows.
    """
    if system.recipe is None:
        raise ModelError(Problem(f"{system.name} has no recipe to train with canaries"))
    train = system.data.splits["train"]
    num = num_canaries(len(train))
    if num < 4:
        raise ModelError(Problem(f"{len(train)} training rows are too few for canaries", "16 or more"))
    (seed,) = seeds_apart(SEED, 1, own=system.seed)
    key = digest_of(["canaries", 2, system.recipe.digest, system.data.digest, num, seed])
    stored = workspace.cache.get(key)
    if stored is not None:
        return Canaries(stored[0]["labels"], stored[0]["included"], stored[0]["logits"], stored[1]["facts"])
    rng = keyed_rng("canaries", train.digest)
    canaries = made_up(system, num, rng)
    included = rng.random(num) < 0.5
    kept = train.take(np.sort(rng.permutation(len(train))[num // 2 :]))
    workspace.progress(f"{system.name}: a training with canaries", 0, 1)
    fitted = system.recipe.fit(kept.joined(canaries.take(np.flatnonzero(included))), system.data, seed)
    ledger.add("canaries", num)
    outputs = np.asarray(fitted.model.outputs(canaries.inputs))
    logits = system.task.logits(outputs, fitted.model.outputs_are)
    claims = {name: fitted.facts[name] for name in ("epsilon", "delta", "privacy_unit") if name in fitted.facts}
    found = Canaries(canaries.labels, included, logits, claims)
    workspace.cache.put(key, {"labels": found.labels, "included": included, "logits": logits}, {"facts": plain(claims)})
    return found


@runtime_checkable
class ShowsSteps(Protocol):
    """A recipe whose training shows what each step releases."""

    def fit_watched(self, split: Split, data: Data, seed: int, included: Array) -> Released:
        """Train on `split` and the `included (m,)` of m canaries whose gradients are known."""
        ...


def watched_training(system: System, workspace: Workspace) -> Released | None:
    """Train the recipe once with about half of m known gradients among its rows, and note every step; remembered.

    As many training rows are left out as canaries are expected in. None for a recipe that does not show its steps.
    Raises ModelError for fewer than sixteen training rows.
    """
    train, recipe = system.data.splits["train"], system.recipe
    if recipe is None or not isinstance(recipe, ShowsSteps):
        return None
    num = min(MAX_GRADIENTS, len(train) // 4) // 2 * 2
    if num < 4:
        raise ModelError(Problem(f"{len(train)} training rows are too few for canaries", "16 or more"))
    (seed,) = seeds_apart(SEED, 1, own=system.seed)
    key = digest_of(["known gradients", 2, recipe.digest, system.data.digest, num, seed])
    stored = workspace.cache.get(key)
    if stored is not None:
        return Released(**stored[0], facts=stored[1]["facts"])
    rng = keyed_rng("known gradients", train.digest)
    included = rng.random(num) < 0.5
    kept = train.take(np.sort(rng.permutation(len(train))[num // 2 :]))
    workspace.progress(f"{system.name}: a training seen from inside", 0, 1)
    found = recipe.fit_watched(kept, system.data, seed, included)
    arrays = {name: getattr(found, name) for name in ("sums", "included", "batch_sizes", "times_drawn")}
    workspace.cache.put(key, arrays, {"facts": plain(found.facts)})
    return found
