"""Whether something written quotes the texts of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

FEWEST_TEXTS = 10  # different ones; a word that fewer have may be a name
SHORTEST = 24  # letters; under this a phrase is anybody's
SHORTEST_UNSPACED = 12  # of a language written without spaces, whose characters are words


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in JSON, keys included, with its place."""
    if isinstance(value, str):
        yield path or "/", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield path or "/", str(key)
            yield from strings(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from strings(item, f"{path}/{place}")


def quoted(written: Any, texts: Iterable[str], *, shortest: int = SHORTEST) -> list[str]:
    """Places in JSON that share `shortest` or more letters in a row with one of the texts; empty = none.

    Definition: a place is told when a run of at least `shortest` letters of a text, any white space taken as one
    space, stands in it. A text shorter than that is never found: it says too little to be anybody's. Cost: a look-up
    for every `shortest / 2` letters of the texts (a longer run holds such a block wherever it starts).
    Limits: finds copies, not what is told in other words, and nothing in changed spelling.

    >>> quoted({"note": "row 3 says: a dull film that I left early."}, ["It is a dull film that I left early!"])
    ['/note']
    """
    places: dict[str, str] = {}  # what is written, once, and where first
    for place, text in strings(written):
        places.setdefault(_spaced(text), place)
    block = shortest // 2
    found: dict[str, None] = {}
    blocks: dict[str, list[str]] = {}
    for shown in (one for one in places if len(one) >= shortest):
        for start in range(len(shown) - block + 1):
            blocks.setdefault(shown[start : start + block], []).append(shown)
    for own in (one for one in map(_spaced, texts) if len(one) >= shortest):
        for start in range(0, len(own) - block + 1, block):
            for shown in blocks.get(own[start : start + block], ()):
                if places[shown] not in found and _shares(shown, own, start, shortest):
                    found[places[shown]] = None
    return list(found)


def rare_words(written: Any, texts: Iterable[str]) -> list[str]:
    """Places of slices `word=...` whose word stands in fewer than ten different texts: it may be a name.

    Upper and lower case are one. Limits: letters are compared, not words, so that "art" also counts in "part".

    >>> rare_words([{"slice": "word=Anna"}, {"slice": "word=dull"}], [f"a dull day {number}" for number in range(10)])
    ['/0/slice']
    """
    named = {place: text.removeprefix("word=").lower() for place, text in strings(written) if text.startswith("word=")}
    left = dict.fromkeys(named.values(), FEWEST_TEXTS)
    for text in {text.lower(): None for text in texts} if left else ():
        for word in [word for word in left if word in text]:
            left[word] -= 1
            if not left[word]:
                del left[word]
        if not left:
            break
    return [place for place, word in named.items() if word in left]


def _shares(shown: str, own: str, start: int, shortest: int) -> bool:
    """Whether a run of `shortest` letters of `own` that covers the block at `start` stands in `shown`."""
    first, last = max(0, start - shortest + shortest // 2), min(start, len(own) - shortest)
    return any(own[place : place + shortest] in shown for place in range(first, last + 1))


def _spaced(text: str) -> str:
    return " ".join(text.split())
