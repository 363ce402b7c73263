"""A second level inside the units that matter most: which word of a run, which quarter of a patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from assay.errors import Problem, UsageError
from assay.units import Ground, Patches, Words
from assay.units.text import words
from assay.values import Array, texts

Function = Callable[[Array], Array]  # inputs (M, ...) to outputs (M, K)
TOP = 6  # units of each input that are taken apart
SIDE = 2  # parts of a patch along each side
MOST = 8  # parts of a run: of longer ones, neighbouring words stay together
MIN_BLOCKS = 4  # pairs of orders


@dataclass(frozen=True)
class Part:
    """A part of unit `unit` of one input: `name` is the word, or `patch=row,column part=row,column`, and its value.

    Where the unit was not taken apart, the value is an equal share of the unit's.
    """

    unit: int
    name: str
    value: float
    is_own: bool = True  # taken apart


def finer(
    function: Function,
    inputs: Array,
    values: Array,
    ground: Ground,
    *,
    target: Array,
    rng: np.random.Generator,
) -> list[list[Part]]:
    """Owen values of the parts of each input's six largest units, and equal shares of the others' values.

    Definition: the value of a part is its mean marginal contribution when whole units come in random order and, inside
    its own unit, parts do; a unit's parts sum to its Shapley value, which is given in `values (R, U)`.
    Shapes: inputs `(R, ...)` of texts or pictures, target `(R,)` output columns. A unit of P parts costs 8 (P + 1)
    model rows, orders and complements in pairs; a run has at most 8 parts.
    Limits: 4 pairs of orders leave sampling noise; which unit comes first is the first level's choice, so a word that
    matters in a run that cancels is not found. Raises UsageError for tables, whose columns have no parts.
    Source: Owen 1977, "Values of games with a priori unions", section 3; orders in pairs as in `masked`.

    >>> text, rng = texts([" ".join(f"w{place}" for place in range(32))]), np.random.default_rng(0)
    >>> def count(inputs):
    ...     return np.array([[float("w3" in one.split())] for one in inputs.tolist()])
    >>> values, ground = np.eye(16)[[1]], Ground(texts([""]), Words())
    >>> [(part.name, part.value) for part in finer(count, text, values, ground, target=np.array([0]), rng=rng)[0]][:2]
    [('w2', 0.0), ('w3', 1.0)]
    """
    found: list[list[Part]] = []
    for row in range(len(inputs)):
        parts: list[Part] = []
        sizes = np.nan_to_num(values[row])
        for place, unit in enumerate(np.argsort(-np.abs(sizes), kind="stable").tolist()):
            names, mix = _split(ground, inputs[row : row + 1], unit)
            num, is_own = max(len(names), 1), place < TOP and sizes[unit] != 0 and len(names) > 1
            owen = np.full(len(names), sizes[unit] / num)
            if is_own:
                owen = _owen(function, mix, (ground.count, num), target=int(target[row]), rng=rng)
                owen += (sizes[unit] - owen.sum()) / num
            parts += [Part(unit, name, float(value), is_own) for name, value in zip(names, owen, strict=True)]
        found.append(parts)
    return found


def most_rows(num_inputs: int, *, is_text: bool) -> int:
    """Model rows that `finer` runs at most.

    >>> most_rows(16, is_text=False), most_rows(16, is_text=True)
    (3840, 6912)
    """
    return num_inputs * TOP * 2 * MIN_BLOCKS * ((MOST if is_text else SIDE**2) + 1)


# Masks `(M, U - 1 + P)`, the other units first and then the parts, and a background row of each, to inputs `(M, ...)`.
Mix = Callable[[Array, Array], Array]


def _split(ground: Ground, inputs: Array, unit: int) -> tuple[list[str], Mix]:
    """Names of the parts of one unit of an input `(1, ...)`, and how units and parts are put together."""
    units = ground.units
    if isinstance(units, Words):
        runs = units.runs(inputs.tolist()[0])
        single = words(runs[unit], units.language)
        size = -(-len(single) // MOST)
        own = ["".join(single[start : start + size]) for start in range(0, len(single), size)] if single else []

        def join(masks: Array, _: Array) -> Array:
            others = units.count - 1
            told = []
            for mask in masks.tolist():
                kept = ["".join(part for part, stays in zip(own, mask[others:], strict=True) if stays)]
                rest = [run for run, stays in zip(runs[:unit] + runs[unit + 1 :], mask[:others], strict=True) if stays]
                before = sum(mask[:unit])
                told.append("".join(rest[:before] + kept + rest[before:]).strip())
            return texts(told)

        return [part.strip() for part in own], join
    if not isinstance(units, Patches):
        raise UsageError(Problem("columns of a table have no parts", "texts or pictures"))
    inside = units.owner == unit
    down, across = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    places = [np.zeros(size, dtype=int) for size in inside.shape]
    for place, taken in zip(places, (down, across), strict=True):
        place[taken] = np.arange(len(taken)) * min(SIDE, len(taken)) // len(taken)
    sides = min(SIDE, len(down)), min(SIDE, len(across))
    owner = units.owner - (units.owner > unit)
    owner = np.where(inside, units.count - 1 + places[0][:, None] * sides[1] + places[1], owner)

    def paint(masks: Array, source: Array) -> Array:
        kept = masks[:, owner][:, None]
        return np.asarray(np.where(kept, inputs, ground.background[source].astype(inputs.dtype)))

    names = [f"{units.names[unit]} part={i + 1},{j + 1}" for i in range(sides[0]) for j in range(sides[1])]
    return names, _with_background(paint, len(ground.background))


def _with_background(paint: Mix, num_background: int) -> Mix:
    return lambda masks, source: paint(masks, source % num_background)


def _owen(function: Function, mix: Mix, sizes: tuple[int, int], *, target: int, rng: np.random.Generator) -> Array:
    """Mean steps `(P,)` over pairs of orders: units before the own one are kept, then parts come one by one."""
    num_units, num_parts = sizes
    orders, before, source = [], [], []
    for _ in range(MIN_BLOCKS):
        parts, drawn = rng.permutation(num_parts), int(rng.integers(1 << 30))
        kept = rng.permutation(num_units - 1) < rng.integers(num_units)
        orders += [parts, parts[::-1]]
        before += [kept, ~kept]
        source += [drawn, drawn]
    place = np.argsort(np.array(orders), axis=1)
    inside = place[:, None, :] < np.arange(num_parts + 1)[:, None]
    outside = np.broadcast_to(np.array(before)[:, None], (len(orders), num_parts + 1, num_units - 1))
    masks = np.concatenate([outside, inside], axis=2).reshape(-1, num_units - 1 + num_parts)
    outputs = function(mix(masks, np.repeat(np.array(source), num_parts + 1)))[:, target]
    steps = np.diff(outputs.reshape(len(orders), num_parts + 1).astype(np.float64), axis=1)
    return np.asarray(np.take_along_axis(steps, place, axis=1).mean(axis=0))
