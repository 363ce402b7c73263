"""Integrated gradients of a keyed sample of test rows, by unit, and how well the sum of them fits the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from assay.access.handles import Query
from assay.explain.gradients import Inside, Objective, Pull, integrated_gradients, integrated_inside, of_output
from assay.probes.transparency import _curves, _masked
from assay.registry import Sizes
from assay.units import Patches, SomeColumns, Words
from assay.values import Array, Task, array_digest

NUM_STEPS = 50
NUM_ROWS = {"table": 32, "image": 16, "text": 16}  # a keyed sample, the first of those that `_masked` explains
PASSES = "integrated gradients"


@dataclass(frozen=True)
class Entry:
    """Where the model is entered: `rows (R, ...)` and `starts (1 or R, ...)` there, and units of what comes back."""

    rows: Array
    starts: Array
    pull: Pull
    by_unit: Callable[[Array], Array]  # attributions `(R, ...)` to `(R, U)`
    inside: Inside | None = None  # the same model behind an affine first layer: lines cost less there


@dataclass(frozen=True)
class Integrated:
    """`values (R, U)` by unit; `total (R,)` their sum before units, and `change (R,)`, f(x) - f(start)."""

    values: Array
    total: Array
    change: Array


Explainer = Callable[[Entry, Objective], Array]


def by_integration(entry: Entry, objective: Objective) -> Array:
    """The explainer that is measured: attributions of the entry's shape."""
    if entry.inside is not None:
        return integrated_inside(entry.inside, entry.rows, entry.starts, objective, num_steps=NUM_STEPS)
    return integrated_gradients(entry.pull, entry.rows, entry.starts, objective, num_steps=NUM_STEPS)


def num_rows(sizes: Sizes) -> int:
    """R: how many test rows are explained."""
    return min(NUM_ROWS[sizes.modality], sizes.num_test)


def pull_rows(sizes: Sizes) -> int:
    """Model rows of `explained`: the points on the lines, and both ends."""
    return num_rows(sizes) * (NUM_STEPS + 2)


def sample(query: Query) -> Array:
    """The explained test rows `(R,)`."""
    return query.rows(NUM_ROWS[query.system.data.modality])


def among_masked(query: Query) -> Array:
    """Where the explained rows stand in the sample of the masked passes `(R,)`."""
    places: Array = np.searchsorted(_masked.sample(query), sample(query))
    return places


def targets(query: Query, task: Task) -> Array:
    """Which output is explained `(R,)`, the same as by the masked passes."""
    return _masked.targets(query, task)[among_masked(query)]


def enter(query: Query, inputs: Array, *, like: Query | None = None) -> Entry:
    """Inputs `(R, ...)` where the model is entered, with the start of each line.

    Tables: the encoding, from the mean encoding of the background, so that categories are explained too; where the
    model does not show its encoding, the numeric columns alone, from their means. Pictures: pixels, from the mean
    picture. Texts: vectors of tokens, from zero vectors at as many places. Units are those of `like`, if given.
    """
    kind, background = query.system.data.modality, (like or query).background  # the same rows, and chosen already
    if kind == "text" or (kind == "table" and query.can_embed):
        here = query.embedded(inputs)

        def pull(points: Array, owner: Array, objective: Objective) -> tuple[Array, Array]:
            return query.logits_and_embedded_gradients(here.at(points, owner), lambda f, at: objective(f, owner[at]))

        if kind == "text":
            return Entry(here.vectors, np.zeros_like(here.vectors[:1]), pull, _runs(query, inputs))
        start = np.nanmean(query.embedded(background).vectors, axis=0, keepdims=True, dtype=np.float64)
        return Entry(here.vectors, np.asarray(start, dtype=np.float32), pull, _columns(like or query, here.tokens))

    def plain(points: Array, owner: Array, objective: Objective) -> tuple[Array, Array]:
        return query.logits_and_gradients(points, lambda f, at: objective(f, owner[at]))

    rows, mean = inputs.astype(np.float32), _curves.mean_row(background, query.columns)
    starts = np.where(query.numeric, mean.astype(np.float32), rows)  # categories have no way from one to another
    by_unit = _patches(query) if kind == "image" else _columns(like or query, None)
    return Entry(rows, starts, plain, by_unit, _inside(query))


def _inside(query: Query) -> Inside | None:
    entrance = query.entrance
    if entrance is None:
        return None

    def pull(points: Array, owner: Array, objective: Objective) -> tuple[Array, Array]:
        return query.logits_and_inner_gradients(entrance, points, lambda f, at: objective(f, owner[at]))

    return Inside(entrance.enter, entrance.back, pull)


def _columns(query: Query, columns: Array | None) -> Callable[[Array], Array]:
    """Sums over units of what has the columns `(E,)`; None: each is a column of its own."""
    units = _masked.ground(query).units
    if isinstance(units, SomeColumns):
        columns = units.owner if columns is None else units.owner[columns]
    if columns is None:
        return lambda values: values
    member = columns[:, None] == np.arange(units.count)
    return lambda values: values @ member.astype(np.float64)


def _patches(query: Query) -> Callable[[Array], Array]:
    units = query.ground.units
    owner = units.owner if isinstance(units, Patches) else np.zeros((1, 1), dtype=int)
    member = (owner.ravel()[:, None] == np.arange(units.count)).astype(np.float64)
    return lambda values: values.sum(axis=1).reshape(len(values), -1) @ member


def runs_of(query: Query, inputs: Array) -> Array:
    """`(R, L, U)`: 1 where a token of a text belongs to a run of words; tokens that the model adds belong to none."""
    units = query.ground.units
    member = np.zeros((len(inputs), query.embedded(inputs).tokens.shape[1], units.count))
    if isinstance(units, Words):
        for row, (text, spans) in enumerate(zip(inputs.tolist(), query.spans(inputs), strict=True)):
            ends = np.cumsum([len(run) for run in units.runs(text)])
            for place, (first, after) in enumerate(spans):
                if after > first:
                    member[row, place, int(np.searchsorted(ends, first, side="right"))] = 1.0
    return member


def _runs(query: Query, inputs: Array) -> Callable[[Array], Array]:
    member = runs_of(query, inputs)
    return lambda values: np.einsum("rl,rlu->ru", values.sum(axis=2), member)


def explained(
    query: Query, task: Task, *, inputs: Array | None = None, explainer: Explainer = by_integration
) -> Integrated:
    """Integrated gradients of the sample's rows, or of `inputs (R, ...)` in their place; remembered for the run."""
    rows = query.inputs[sample(query)] if inputs is None else inputs
    cache = query.workspace.cache.in_memory()
    key = [PASSES, 1, query.system.digest, array_digest(rows), array_digest(query.background), explainer.__qualname__]
    stored = cache.get(key)
    if stored is None:
        target = targets(query, task)
        entry, objective = enter(query, rows), of_output(task, target)
        values = explainer(entry, objective)
        ends = [
            _output(entry, at, task, target) for at in (entry.rows, np.broadcast_to(entry.starts, entry.rows.shape))
        ]
        flat = values.reshape(len(values), -1)
        found = {"values": entry.by_unit(values), "total": flat.sum(axis=1), "change": ends[0] - ends[1]}
        cache.put(key, found, {})
        stored = found, {}
    return Integrated(**stored[0])


def attributions(
    query: Query,
    task: Task,
    inputs: Array,
    *,
    of: tuple[Query, Array] | None = None,
    explainer: Explainer = by_integration,
) -> Array:
    """`values (R, U)` alone, of rows that are near the sample's; nothing is remembered.

    `of` is another system whose units are explained, and which of its outputs `(R,)`.
    """
    like, chosen = (query, targets(query, task)) if of is None else of
    entry = enter(query, inputs, like=like)
    return entry.by_unit(explainer(entry, of_output(task, chosen)))


def _output(entry: Entry, at: Array, task: Task, target: Array) -> Array:
    owner = np.arange(len(at))
    logits, _ = entry.pull(np.ascontiguousarray(at, dtype=np.float32), owner, lambda f, _: np.zeros_like(f))
    found: Array = task.probabilities(logits)[owner, target].astype(np.float64)
    return found
