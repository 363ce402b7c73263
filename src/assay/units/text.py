"""The units of a text: its words, in at most sixteen runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from assay.values import Array, texts

MAX_RUNS = 16  # a Shapley value of each must stay affordable
SPACED = re.compile(r"\S+\s*|^\s+")
# Languages written without spaces: one character is a word; Latin letters and digits in between go together.
UNSPACED = re.compile(r"[A-Za-z0-9]+\s*|\S\s*|^\s+")


def words(text: str, language: str = "en") -> list[str]:
    """The words of a text, each with the space that follows it: joined they are the text again.

    >>> words("not a good film"), words("很好 ok", "zh")
    (['not ', 'a ', 'good ', 'film'], ['很', '好 ', 'ok'])
    """
    return (UNSPACED if is_unspaced(language) else SPACED).findall(text)


def is_unspaced(language: str) -> bool:
    """Whether words of the language are written without spaces between them."""
    return language in ("zh", "ja", "th")


@dataclass(frozen=True)
class Words:
    """Runs of words of as equal length as may be; a run that is not kept is left out, whatever the background.

    A text with fewer words than runs has empty ones at the end, which change nothing.
    """

    language: str = "en"

    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """U, the number of runs of every text."""
        return MAX_RUNS

    def runs(self, text: str) -> list[str]:
        """The U runs of a text, in order; joined they are the text again.

        >>> Words().runs("one two three")[:4]
        ['one ', 'two ', 'three', '']
        """
        found = words(text, self.language)
        if len(found) <= MAX_RUNS:
            return found + [""] * (MAX_RUNS - len(found))
        ends = np.linspace(0, len(found), MAX_RUNS + 1).round().astype(int)
        return ["".join(found[start:end]) for start, end in pairwise(ends)]

    def unused(self, rows: Array) -> Array:
        """`(r, U)` bool: the empty runs of texts `(r,)` with fewer words than runs.

        >>> Words().unused(texts(["one two three"]))[0, :5].tolist()
        [False, False, False, True, True]
        """
        lengths = np.array([min(len(words(text, self.language)), MAX_RUNS) for text in rows.tolist()], dtype=np.int64)
        empty: Array = np.arange(MAX_RUNS) >= lengths[:, None]
        return empty

    def mix(self, rows: Array, own: Array, background: Array) -> Array:
        """Texts `(r,)` with runs `own (r, W, C, U)` kept: `(r W C,)`; the background is not read.

        >>> import numpy as np
        >>> kept = np.zeros((1, 1, 1, 16), dtype=bool)
        >>> kept[..., 1:] = True
        >>> Words().mix(texts(["not good"]), kept, texts([""])).tolist()
        ['good']
        """
        found = []
        for text, masks in zip(rows.tolist(), own, strict=True):
            runs = self.runs(text)
            for mask in masks.reshape(-1, MAX_RUNS).tolist():
                found.append("".join(run for run, kept in zip(runs, mask, strict=True) if kept).strip())
        return texts(found)
