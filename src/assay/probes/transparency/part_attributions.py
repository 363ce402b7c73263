"""Which single words, which places of a picture move the answers."""

from __future__ import annotations

import re

import numpy as np

from assay.access.handles import Query
from assay.explain.finer import Part, Segments, by_superpixel, by_word, most_rows
from assay.probes.transparency import _curves, _masked, _units
from assay.registry import Sizes, probe
from assay.stats import Draws, measured
from assay.units import Patches, Words
from assay.units.text import words
from assay.values import Array, Measurement, Task

NUM_TAKEN_APART = 16  # explained rows, the first of the sample that the other explanations share


def _cost(sizes: Sizes) -> dict[str, int]:
    parts = most_rows(min(NUM_TAKEN_APART, _masked.explained_rows(sizes)))
    return {"parts of units": parts + _masked.target_rows(sizes)}


@probe(
    "transparency",
    tasks=("classification", "regression"),
    cost=_cost,
    modalities=("image", "text"),
    deep=True,
    version=2,
)
def part_attributions(query: Query, task: Task, draws: Draws) -> list[Measurement]:
    r"""Mean size of the Shapley value of each word or place of a picture, and how much of a unit its largest part has.

    Definition: psi are Shapley values of all words of a text, or of some hundred superpixels of a picture against the
    mean picture; part_attribution_p = mean over rows of $|\psi_p|$ of a word, or of the sum of the pixels' shares in a
    quarter of a patch; part_concentration = sum over rows and units with several parts of max_p $|\psi_p|$ over the
    sum of all $|\psi_p|$: 1 / P where P parts are alike, 1 where one decides. A unit is a run of words, or one of at
    most 16 regions of superpixels that touch and look alike.
    Shapes: the first 16 of the explained rows; told are the 20 parts that move most, words (`word=<word>`) only where
    3 explained and 10 different training texts hold them.
    Direction: neither; in probability (or the target's unit), and a fraction.
    Limits: sampled halves leave noise in values near 0, which reads as size; few rows; what a picture shares with the
    mean picture has no value.
    Source: `assay.explain.multilinear` (Owen 1972) and `assay.units.superpixels` (Achanta et al. 2012).

    >>> from assay.registry import PROBES
    >>> PROBES["part_attributions"].deep
    True
    """
    rows = _masked.sample(query)
    rows = rows[: min(NUM_TAKEN_APART, len(rows))]
    inputs, target = query.inputs[rows], _masked.targets(query, task)[: len(rows)]
    units, rng = query.ground.units, query.rng("parts")
    if isinstance(units, Words):
        parts = by_word(query.probabilities, inputs, units, target=target, rng=rng)
        told, shares = _words_told(query, inputs, parts), [_by_unit(one) for one in parts]
    else:
        start, highest = _curves.mean_row(query.background, query.columns), query.columns[0].high or 255.0
        found = by_superpixel(query.probabilities, inputs, start, target=target, rng=rng, highest=highest)
        told = _places_told(found, Patches(query.columns[0].shape))
        shares = [[one.values[one.regions == region] for region in range(len(one.region_values))] for one in found]
    sizes = np.array([_concentrated(one) for one in shares], dtype=np.float64).reshape(-1, 2)
    is_usable, sample = _masked.finite(sizes), draws.of(rows)
    means = _units.means(told, np.ones((len(rows), 1)), is_usable, draws=sample, task=task, metric="part_attribution")
    nothing = "no unit that moves an answer has more than one part"
    share = _masked.share(sample, sizes[:, 0], sizes[:, 1], is_usable, nothing=nothing)
    concentration = measured(
        share, "part_concentration", unit="fraction", better="neither",
        attempted=len(rows), errored=int((~is_usable).sum()),
    )  # fmt: skip
    return [*means, concentration]


def _by_unit(parts: list[Part]) -> list[Array]:
    units = sorted({part.unit for part in parts})
    return [np.array([part.value for part in parts if part.unit == unit]) for unit in units]


def _concentrated(units: list[Array]) -> tuple[float, float]:
    """Sum over units of the size of the largest part, and of all parts; NaN where the row errored."""
    if not all(np.isfinite(one).all() for one in units):
        return np.nan, np.nan
    several = [np.abs(one) for one in units if len(one) > 1]
    return float(sum(one.max() for one in several)), float(sum(one.sum() for one in several))


def _words_told(query: Query, inputs: Array, parts: list[list[Part]]) -> _units.Told:
    """Words that are told, who has them, and their sizes as shares of one unit of size 1."""
    language = query.columns[0].language
    held = [word for text in inputs.tolist() for word in {_units.named(one) for one in words(text, language)}]
    often = sorted({word for word in held if word and held.count(word) >= _units.MIN_EXPLAINED})
    names = _units.common(often, query.system.data.splits["train"].inputs, language)
    return _told([_word_sizes(one, language) for one in parts], names, prefix="word=")


def _places_told(found: list[Segments], units: Patches) -> _units.Told:
    """Quarters of patches: the sum over a quarter of what its pixels have of their superpixels' values."""
    names, owner = _quarters(units)
    sums = [np.bincount(owner.ravel(), one.pixels.ravel(), minlength=len(names)) for one in found]
    return _told([dict(zip(names, np.abs(one).tolist(), strict=True)) for one in sums], names, prefix="")


def _quarters(units: Patches) -> tuple[list[str], Array]:
    """Names of the quarters of all patches, and which each pixel lies in `(H, W)`; of thin patches halves or wholes."""
    inside, sides = [], []
    for length, num in zip(units.shape[1:], units.sides, strict=True):
        patch = np.arange(length) * num // length
        at = np.arange(length) - np.searchsorted(patch, patch)
        inside.append(at * 2 >= np.bincount(patch)[patch])
        sides.append(patch)
    keys = [
        f"patch={i + 1},{j + 1} part={k + 1},{m + 1}"
        for i, k in zip(sides[0], inside[0].astype(int), strict=True)
        for j, m in zip(sides[1], inside[1].astype(int), strict=True)
    ]
    names, owner = np.unique(keys, return_inverse=True)
    return names.tolist(), owner.reshape(units.shape[1:])


def _told(sizes: list[dict[str, float]], names: list[str], *, prefix: str) -> _units.Told:
    member = np.array([[name in one for name in names] for one in sizes], dtype=bool).reshape(len(sizes), len(names))
    size = np.array([[one.get(name, 0.0) for name in names] for one in sizes]).reshape(member.shape)
    means = np.nan_to_num(size).sum(axis=0) / np.maximum(member.sum(axis=0), 1)
    top = np.argsort(-means, kind="stable")[: _units.NUM_SHOWN]
    slices = tuple(prefix + re.sub(r"\s+", " & ", names[place]) for place in top)
    return _units.Told(slices, member[:, top], np.nan_to_num(size)[:, None, top])


def _word_sizes(parts: list[Part], language: str) -> dict[str, float]:
    """Size of each named word of a text; neighbours that stayed together share theirs equally."""
    found: dict[str, float] = {}
    for part in parts:
        own = words(part.name, language)
        for word in filter(None, map(_units.named, own)):
            found[word] = found.get(word, 0.0) + abs(part.value) / len(own)
    return found
