"""Small changes of texts: slips of the fingers, letters that look alike, words that got lost.

Every function takes texts `(N,)` and gives texts `(N,)`. White space is never touched, so words stay apart.
Source: Pruthi, Dhingra and Lipton 2019, section 3 (swap, drop, add, neighbouring key; inner letters of words of four
letters and more); Boucher et al. 2022, section III (homoglyphs).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from assay.units.text import is_unspaced, words
from assay.values import Array, texts

KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    key: row[max(place - 1, 0) : place] + row[place + 1 : place + 2] for row in KEYS for place, key in enumerate(row)
}
# Latin letters and the Cyrillic or Greek ones that most fonts draw the same way (Unicode technical standard 39).
ALIKE = dict(zip("aceijopsxyABCEHIKMNOPSTXYZ", "асеіјорѕхуΑΒСΕΗΙΚΜΝΟΡЅΤΧΥΖ", strict=True))
# Characters that a hurried eye takes for each other (形近字), in pairs.
PAIRS = re.findall(
    r"\S\S",
    "己已 末未 土士 人入 大太 日目 干千 天夫 王玉 木本 几儿 力刀 石右 午牛 今令 "
    "免兔 折拆 侯候 辨辩 密蜜 很狠 晴睛 情清 没设 我找 住往 这还",
)
ALIKE |= {pair[0]: pair[1] for pair in PAIRS} | {pair[1]: pair[0] for pair in PAIRS}
_LONG = re.compile(r"([^\W\d_]{4,})")
_PAIR = re.compile(r"(?=([\u3400-\u9fff]{2}))")
_WITH_TWIN = {
    False: re.compile(rf"[^\W\d_]*[{''.join(ALIKE)}][^\W\d_]*"),
    True: re.compile(rf"[{''.join(ALIKE)}]"),  # without spaces: single characters
}

Slip = Callable[[str, float, float], str]  # (word, kind in [0, 1), place in [0, 1)) -> word


def mistyped(inputs: Array, share: float, *, language: str, rng: np.random.Generator) -> Array:
    """One slip in a `share` of the words of four letters and more: inner letters swapped, dropped, doubled, or missed.

    In languages written without spaces, characters are dropped or swapped with the next one with half that chance each
    character, as words are two characters long on average.

    >>> mistyped(texts(["a wonderful story"]), 1.0, language="en", rng=np.random.default_rng(3)).tolist()
    ['a wondefrul sotry']
    """
    if is_unspaced(language):
        return texts(_jumbled(text, share / 2, rng) for text in inputs.tolist())
    return texts(_changed(text, _LONG, share, slip=slipped, rng=rng) for text in inputs.tolist())


def slipped_once(inputs: Array, *, language: str, rng: np.random.Generator) -> Array:
    """One slip in one word of each text, its number of words kept; without spaces, two neighbouring characters swapped.

    Texts without a word of four letters, or two neighbouring Chinese characters, stay as they are.

    >>> slipped_once(texts(["so long", "ok"]), language="en", rng=np.random.default_rng(0)).tolist()
    ['so lng', 'ok']
    """
    spots = _PAIR if is_unspaced(language) else _LONG
    chances = rng.random((len(inputs), 3))
    found = []
    for text, (which, kind, place) in zip(inputs.tolist(), chances.tolist(), strict=True):
        spans = [(match.start(1), match.end(1)) for match in spots.finditer(text)]
        if spans:
            start, end = spans[int(which * len(spans))]
            word = text[start:end][::-1] if spots is _PAIR else slipped(text[start:end], kind, place)
            found.append(text[:start] + word + text[end:])
        else:
            found.append(text)
    return texts(found)


def look_alike(inputs: Array, share: float, *, language: str, rng: np.random.Generator) -> Array:
    r"""One letter replaced by another that looks the same, in a `share` of the words that have such a letter.

    Latin letters by those of another script; without spaces, characters by others of nearly the same shape.

    >>> found = look_alike(texts(["bad"]), 1.0, language="en", rng=np.random.default_rng(0)).tolist()[0]
    >>> found == "bad", found.encode("utf-8")
    (False, b'b\xd0\xb0d')
    """
    spots = _WITH_TWIN[is_unspaced(language)]
    return texts(_changed(text, spots, share, slip=twinned, rng=rng) for text in inputs.tolist())


def shortened(inputs: Array, share: float, *, language: str, rng: np.random.Generator) -> Array:
    """Each word (without spaces, each character) left out with chance `share`.

    >>> shortened(texts(["not a good film"]), 0.5, language="en", rng=np.random.default_rng(1)).tolist()
    ['not a film']
    """
    found = []
    for text in inputs.tolist():
        parts = words(text, language)
        kept = rng.random(len(parts)) >= share
        found.append("".join(part for part, stays in zip(parts, kept.tolist(), strict=True) if stays))
    return texts(found)


def slipped(word: str, kind: float, place: float) -> str:
    """One slip inside a word, its first and last letter kept: a swap, a drop, a double, or a neighbouring key.

    >>> [slipped("world", kind, 0.0) for kind in (0.0, 0.3, 0.6, 0.9)]
    ['wrold', 'wrld', 'woorld', 'wprld']
    """
    if kind < 0.25:
        at = 1 + int(place * (len(word) - 3))
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    at = 1 + int(place * (len(word) - 2))
    if kind < 0.5:
        return word[:at] + word[at + 1 :]
    near = NEIGHBOURS.get(word[at].lower(), "") if kind >= 0.75 else ""
    if not near:
        return word[:at] + word[at] + word[at:]
    key = near[int(kind * 8) % len(near)]
    return word[:at] + (key.upper() if word[at].isupper() else key) + word[at + 1 :]


def twinned(word: str, kind: float, place: float) -> str:
    """A word with one letter replaced by its twin; `kind` is not used."""
    able = [at for at, letter in enumerate(word) if letter in ALIKE]
    at = able[int(place * len(able))]
    return word[:at] + ALIKE[word[at]] + word[at + 1 :]


def _changed(text: str, which: re.Pattern[str], share: float, *, slip: Slip, rng: np.random.Generator) -> str:
    spans = [match.span() for match in which.finditer(text)]
    chances = rng.random((len(spans), 3)).tolist()  # drawn for every word, so that equal texts meet equal slips
    parts, after = [], 0
    for (start, end), (chance, kind, place) in zip(spans, chances, strict=True):
        if chance < share:
            parts += [text[after:start], slip(text[start:end], kind, place)]
            after = end
    return "".join([*parts, text[after:]])


def _jumbled(text: str, share: float, rng: np.random.Generator) -> str:
    """Letters of a text without spaces: each with chance `share` dropped, or swapped with the next one."""
    letters = list(text)
    chances = rng.random((len(letters), 2)).tolist()
    for at, (chance, kind) in enumerate(chances):
        if chance >= share or not letters[at].isalpha():
            continue
        following = letters[at + 1] if at + 1 < len(letters) else ""
        if kind < 0.5 and following.isalpha():
            letters[at], letters[at + 1] = following, letters[at]
        else:
            letters[at] = ""
    return "".join(letters)
