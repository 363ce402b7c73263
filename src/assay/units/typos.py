"""Small changes of texts: slips of the fingers, letters that look alike, words that got lost.

Every function takes texts `(N,)` and gives texts `(N,)`; white space is never touched, so words stay apart.
Source: Pruthi, Dhingra and Lipton 2019, section 3 (swap, drop, add, neighbouring key; inner letters of words of four
letters and more); Boucher et al. 2022, section IV (homoglyphs).
"""

from __future__ import annotations

import re

import numpy as np

from assay.units.text import is_unspaced, words
from assay.values import Array, texts

KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    key: (row[place - 1 : place] if place else "") + row[place + 1 : place + 2]
    for row in KEYS
    for place, key in enumerate(row)
}
# Latin letters and the Cyrillic or Greek ones that most fonts draw the same way (Unicode TR 39, confusables).
ALIKE = dict(zip("aceijopsxyABCEHIKMNOPSTXYZ", "асеіјорѕхуΑΒСΕΗΙΚΜΝΟΡЅΤΧΥΖ", strict=True))
_LONG = re.compile(r"[^\W\d_]{4,}")
_LETTERS = re.compile(r"[^\W\d_]+")
_HAN = re.compile(r"[\u3400-\u9fff]")


def mistyped(inputs: Array, share: float, *, language: str, rng: np.random.Generator) -> Array:
    """One slip in a `share` of the words of four letters and more: inner letters swapped, dropped, doubled, or missed.

    In languages written without spaces, a character is dropped or swapped with the next one with half that chance, as
    words are two characters long on average.

    >>> told = texts(["a wonderful story"])
    >>> mistyped(told, 1.0, language="en", rng=np.random.default_rng(2)).tolist()
    ['a wonedrful stor']
    """
    if is_unspaced(language):
        return texts(_shuffled(text, share / 2, rng) for text in inputs.tolist())
    return texts(_replaced(text, _LONG, share, rng) for text in inputs.tolist())


def look_alike(inputs: Array, share: float, *, rng: np.random.Generator) -> Array:
    """One letter replaced by a foreign one that looks the same, in a `share` of the words that have such a letter."""
    found = []
    for text in inputs.tolist():
        spots = [match.span() for match in _LETTERS.finditer(text)]
        chosen = rng.random(len(spots)) < share
        letters = list(text)
        for (start, end), number in zip(spots, rng.random(len(spots)), strict=True):
            able = [place for place in range(start, end) if text[place] in ALIKE]
            if chosen[spots.index((start, end))] and able:
                place = able[int(number * len(able))]
                letters[place] = ALIKE[text[place]]
        found.append("".join(letters))
    return texts(found)


def shortened(inputs: Array, share: float, *, language: str, rng: np.random.Generator) -> Array:
    """Each word (in Chinese each character) left out with chance `share`.

    >>> shortened(texts(["not a good film"]), 0.0, language="en", rng=np.random.default_rng(0)).tolist()
    ['not a good film']
    """
    found = []
    for text in inputs.tolist():
        parts = words(text, language)
        kept = rng.random(len(parts)) >= share
        found.append("".join(part for part, stays in zip(parts, kept, strict=True) if stays))
    return texts(found)
