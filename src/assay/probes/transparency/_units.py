"""What is told of explanations: each column or patch, or the words that moved most, where that gives nobody away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay import stats
from assay.access.handles import Query
from assay.probes.transparency import _masked
from assay.stats import Draws, measured
from assay.units import SomeColumns, Units, Words
from assay.units.text import words
from assay.values import Array, Measurement, Task, modality

MIN_EXPLAINED = 3  # explained texts that must hold a word before a mean over them is told
MIN_TRAINING = 10  # different training texts that must hold a word before it is written down
NUM_SHOWN = 20  # words
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")  # letters: no number, address or code is ever named


@dataclass(frozen=True)
class Told:
    """P things that a mean over rows is told of: their slices, who has them, and which part of which unit they are."""

    slices: tuple[str, ...]
    member: Array  # (R, P) bool
    share: Array  # (R, U, P): how much of each unit's size counts for each thing

    def of(self, rows: Array) -> Told:
        """The same things of some of the rows `(r,)`."""
        return Told(self.slices, self.member[rows], self.share[rows])


def told(query: Query, values: Array) -> Told:
    """All columns or patches; of texts at most 20 words, those whose values `(R, U)` are largest on average.

    A word is named only when it is made of letters and stands in at least 3 explained and 10 different training texts,
    so that a report names nobody. A run of several words shares its value equally among them.
    """
    units = _masked.ground(query).units
    if not isinstance(units, Words):
        slices, everyone = _slices(query, units), np.ones(values.shape, dtype=bool)
        return Told(slices, everyone, np.broadcast_to(np.eye(units.count), (len(values), units.count, units.count)))
    shares = [_shares(units, text) for text in query.inputs[_masked.sample(query)].tolist()]
    held = [word for one in shares for word in one]
    often = sorted({word for word in held if held.count(word) >= MIN_EXPLAINED})
    known = common(often, query.system.data.splits["train"].inputs, units.language)
    member = np.array([[word in one for word in known] for one in shares], dtype=bool).reshape(len(shares), len(known))
    nothing = np.zeros(units.count)
    share = np.array([[one.get(word, nothing) for word in known] for one in shares])
    share = share.reshape(len(shares), len(known), units.count).transpose(0, 2, 1)
    sizes = sized(np.nan_to_num(values), share).sum(axis=0) / np.maximum(member.sum(axis=0), 1)
    top = np.argsort(-sizes, kind="stable")[:NUM_SHOWN]
    return Told(tuple(f"word={known[place]}" for place in top), member[:, top], share[:, :, top])


def _slices(query: Query, units: Units) -> tuple[str, ...]:
    if isinstance(units, SomeColumns):
        groups = (f"others={first}..{last}" for first, last in units.spans)
        return (*(f"feature={units.names[place]}" for place in units.alone), *groups)
    prefix = "feature=" if modality(query.columns) == "table" else ""
    return tuple(prefix + name for name in units.names)


def sized(values: Array, share: Array) -> Array:
    """`(R, P)`: how much of the sizes of values `(R, U)` each thing has."""
    found: Array = np.einsum("ru,rup->rp", np.abs(values), share)
    return found


def crossed(halves: Array, share: Array) -> Array:
    """`(R, P)`: what two readings `(2, R, U)` of the same values agree on; of noise alone 0 on average."""
    signs, values = np.sign(np.nan_to_num(halves)), np.nan_to_num(halves)
    found: Array = np.einsum("ru,rup->rp", (signs[0] * values[1] + signs[1] * values[0]) / 2, share)
    return found


def common(candidates: Sequence[str], inputs: Array, language: str) -> list[str]:
    """Those of the words that stand in at least 10 different texts, in their order.

    >>> from assay.values import texts
    >>> common(["film", "alice"], texts([f"film {number} {'Alice' * (number < 9)}" for number in range(12)]), "en")
    ['film']
    """
    left = dict.fromkeys(candidates, MIN_TRAINING)
    for text in dict.fromkeys(inputs.tolist()):
        for word in {named(one) for one in words(text, language)} & left.keys():
            left[word] -= 1
            if not left[word]:
                del left[word]
        if not left:
            break
    return [word for word in candidates if word not in left]


def named(word: str) -> str:
    """A word as it is counted: its letters, in lower case; empty when it is something else.

    >>> named("Isn't, "), named("4711"), named("好 ")
    ("isn't", '', '好')
    """
    found = _WORD.search(word)
    whole = found is not None and not re.search(r"[\d_@]", word)
    return found.group().lower() if found is not None and whole else ""


def _shares(units: Words, text: str) -> dict[str, Array]:
    """For each word of a text, the share of each run `(U,)` that is it."""
    found: dict[str, Array] = {}
    for place, run in enumerate(units.runs(text)):
        parts = words(run, units.language)
        for word in filter(None, map(named, parts)):
            found.setdefault(word, np.zeros(units.count))[place] += 1 / len(parts)
    return found


def means(about: Told, values: Array, is_usable: Array, *, draws: Draws, task: Task, metric: str) -> list[Measurement]:
    """Mean size of each thing's values over the usable rows that have it."""
    sizes = sized(np.nan_to_num(values), about.share)
    scored = about.member & is_usable[:, None]
    sums = draws.sums(np.concatenate([np.where(scored, sizes, 0.0), scored.astype(np.float64)], axis=1))
    num = len(about.slices)
    return [
        measured(
            stats.mean(sums[:, place], sums[:, num + place], level=draws.level, bounds=(0, None)), metric,
            unit=_masked.unit(task), better="neither", slice=slice_, attempted=int(about.member[:, place].sum()),
            errored=int((about.member[:, place] & ~is_usable).sum()),
        )
        for place, slice_ in enumerate(about.slices)
    ]  # fmt: skip
