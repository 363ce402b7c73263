"""Which words inside a run, which quarters of a patch move the answers."""

from __future__ import annotations

import re

import numpy as np

from assay.access.handles import Query
from assay.explain.finer import Part, finer, most_rows
from assay.probes.transparency import _masked, _units
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.units import Words
from assay.units.text import words
from assay.values import Array, Measurement, Task

NUM_TAKEN_APART = 16  # explained rows, the first of the sample that the other explanations share


def _cost(sizes: Sizes) -> dict[str, int]:
    num_rows = min(NUM_TAKEN_APART, _masked.explained_rows(sizes))
    parts = most_rows(num_rows, is_text=sizes.modality == "text")
    return {"masked": _masked.pass_rows(sizes), "parts of units": parts + _masked.target_rows(sizes)}


@probe("transparency", tasks=("classification", "regression"), cost=_cost, modalities=("image", "text"), deep=True)
def part_attributions(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    r"""Mean size of the Owen value of each word or quarter of a patch, and how much of a unit its largest part holds.

    Definition: part_attribution_p = mean over rows of $|\psi_p|$, psi the Owen value inside the six units with the
    largest Shapley values of a row, an equal share of the unit's value elsewhere; part_concentration = sum over rows
    and units taken apart of max_p $|\psi_p|$ over the sum of all $|\psi_p|$: 1 / P where P parts are alike, 1 where one
    decides.
    Shapes: the first 16 of the explained rows; told are the 20 parts that move most, words (`word=<word>`) only where
    3 explained and 10 different training texts hold them.
    Direction: neither; in probability (or the target's unit), and a fraction.
    Limits: four pairs of orders a unit leave sampling noise, which reads as size and as concentration; few rows; which
    units are taken apart is the first level's choice.
    Source: Owen 1977, "Values of games with a priori unions", section 3.

    >>> from assay.registry import PROBES
    >>> PROBES["part_attributions"].deep
    True
    """
    rows = _masked.sample(query)
    num = min(NUM_TAKEN_APART, len(rows))
    explanation = _masked.attributions(_masked.passes(query, task), _masked.unused(query))
    values = explanation.values[:num]
    is_usable = _masked.finite(values) if num else np.zeros(0, dtype=bool)
    inputs, target = query.inputs[rows[:num]], _masked.targets(query, task)[:num]
    found = finer(
        query.probabilities,
        inputs[is_usable],
        values[is_usable],
        query.ground,
        target=target[is_usable],
        rng=query.rng("parts"),
    )
    parts: list[list[Part]] = [[] for _ in range(num)]
    for place, one in zip(np.flatnonzero(is_usable).tolist(), found, strict=True):
        parts[place] = one
    sample, about = draws.of(rows[:num]), _told(query, inputs, parts)
    told = _units.means(about, np.ones((num, 1)), is_usable, draws=sample, task=task, metric="part_attribution")
    best = np.array([_largest(one) for one in parts], dtype=np.float64)
    whole = np.array([sum(abs(part.value) for part in one if part.is_own) for one in parts], dtype=np.float64)
    nothing = "no unit that moves an answer has more than one part"
    share = _masked.share(sample, best, whole, is_usable, nothing=nothing)
    errored = int((~is_usable).sum())
    concentration = measured(
        share, "part_concentration", unit="fraction", better="neither", attempted=num, errored=errored
    )
    return [*told, concentration]


def _largest(parts: list[Part]) -> float:
    """Sum over units taken apart of the size of the largest part."""
    best: dict[int, float] = {}
    for part in parts:
        if part.is_own:
            best[part.unit] = max(best.get(part.unit, 0.0), abs(part.value))
    return sum(best.values())


def _told(query: Query, inputs: Array, parts: list[list[Part]]) -> _units.Told:
    """The parts that are told, who has them, and their sizes as shares of one unit of size 1."""
    units = query.ground.units
    if isinstance(units, Words):
        sizes = [_word_sizes(one, units.language) for one in parts]
        held = [word for text in inputs.tolist() for word in {_units.named(one) for one in words(text, units.language)}]
        often = sorted({word for word in held if word and held.count(word) >= _units.MIN_EXPLAINED})
        names = _units.common(often, query.system.data.splits["train"].inputs, units.language)
    else:
        sizes = [{part.name: abs(part.value) for part in one} for one in parts]
        names = sorted({name for one in sizes for name in one})
    member = np.array([[name in one for name in names] for one in sizes], dtype=bool).reshape(len(parts), len(names))
    size = np.array([[one.get(name, 0.0) for name in names] for one in sizes]).reshape(member.shape)
    means = size.sum(axis=0) / np.maximum(member.sum(axis=0), 1)
    top = np.argsort(-means, kind="stable")[: _units.NUM_SHOWN]
    prefix = "word=" if isinstance(units, Words) else ""
    slices = tuple(prefix + re.sub(r"\s+", " & ", names[place]) for place in top)
    return _units.Told(slices, member[:, top], size[:, None, top])


def _word_sizes(parts: list[Part], language: str) -> dict[str, float]:
    """Size of each named word of a text; neighbours that stayed together share theirs equally."""
    found: dict[str, float] = {}
    for part in parts:
        own = words(part.name, language)
        for word in filter(None, map(_units.named, own)):
            found[word] = found.get(word, 0.0) + abs(part.value) / len(own)
    return found
