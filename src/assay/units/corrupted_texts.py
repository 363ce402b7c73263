"""Six ways in which a text goes wrong, at five severities: fingers, look-alike letters, lost words, cases, spaces.

Every function takes texts `(N,)`, a severity from 1 to 5, a language and a stream of random numbers.
Source: Pruthi, Dhingra and Lipton 2019, section 3 (typing); Boucher et al. 2022, section III (homoglyphs); Wang et al.
2021, TextFlint, section 2 (words dropped and swapped, cases, spaces).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from assay.units import typos
from assay.units.text import is_unspaced, words
from assay.values import Array, texts

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # of the words, at severity 1 to 5

Corruption = Callable[..., Array]


def corrupted(name: str, inputs: Array, severity: int, language: str, rng: np.random.Generator) -> Array:
    """Texts `(N,)`, corrupted.

    >>> corrupted("casing", texts(["ab cd ef gh"]), 5, "en", np.random.default_rng(0)).tolist()
    ['ab CD EF GH']
    """
    return CORRUPTIONS[name](inputs, SHARES[severity - 1], language=language, rng=rng)


def kinds(language: str) -> tuple[str, ...]:
    """The corruptions that a language has: Chinese, Japanese and Thai have no case."""
    return tuple(name for name in CORRUPTIONS if name != "casing" or not is_unspaced(language))


def casing(inputs: Array, share: float, *, language: str, rng: np.random.Generator) -> Array:
    """A share of the words with the case of every letter turned."""
    return _by_word(inputs, share, language=language, rng=rng, change=str.swapcase)


def spacing(inputs: Array, share: float, *, language: str, rng: np.random.Generator) -> Array:
    """The space after a share of the words left out; without spaces, a space put after a share of the characters.

    >>> spacing(texts(["one two three"]), 1.0, language="en", rng=np.random.default_rng(0)).tolist()
    ['onetwothree']
    """
    change = (lambda word: word + " ") if is_unspaced(language) else str.rstrip
    return _by_word(inputs, share, language=language, rng=rng, change=change)


def word_order(inputs: Array, share: float, *, language: str, rng: np.random.Generator) -> Array:
    """A share of the words swapped with the next one, no word more than once.

    >>> word_order(texts(["one two three"]), 1.0, language="en", rng=np.random.default_rng(0)).tolist()
    ['two one three']
    """
    found = []
    for text in inputs.tolist():
        parts = [part.strip() for part in words(text, language)]
        chances, place = rng.random(len(parts)).tolist(), 0
        while place + 1 < len(parts):
            if chances[place] < share:
                parts[place : place + 2] = parts[place + 1], parts[place]
                place += 1
            place += 1
        found.append(("" if is_unspaced(language) else " ").join(parts))
    return texts(found)


def _by_word(
    inputs: Array, share: float, *, language: str, rng: np.random.Generator, change: Callable[[str], str]
) -> Array:
    found = []
    for text in inputs.tolist():
        parts = words(text, language)
        chosen = (rng.random(len(parts)) < share).tolist()
        found.append("".join(change(part) if picked else part for part, picked in zip(parts, chosen, strict=True)))
    return texts(found)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "typos": typos.mistyped,
        "homoglyphs": typos.look_alike,
        "dropped_words": typos.shortened,
        "word_order": word_order,
        "casing": casing,
        "spacing": spacing,
    }
)
