"""Whether something written quotes the texts of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

FEWEST_TEXTS = 5  # a word that fewer texts have may be a name
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


def rare_words(written: Any, path: str = "") -> list[str]:
    """Places of measurements of one word (slice `word=...`) that fewer than five texts have.

    >>> rare_words([{"slice": "word=Anna", "attempted": 4}, {"slice": "word=dull", "attempted": 5}])
    ['/0']
    """
    if isinstance(written, (list, tuple)):
        return [found for place, one in enumerate(written) for found in rare_words(one, f"{path}/{place}")]
    if not isinstance(written, Mapping):
        return []
    is_word = str(written.get("slice", "")).startswith("word=") and "attempted" in written
    own = [path] if is_word and written["attempted"] < FEWEST_TEXTS else []
    return own + [found for key, one in written.items() for found in rare_words(one, f"{path}/{key}")]


def _shares(shown: str, own: str, start: int, shortest: int) -> bool:
    """Whether a run of `shortest` letters of `own` that covers the block at `start` stands in `shown`."""
    first, last = max(0, start - shortest + shortest // 2), min(start, len(own) - shortest)
    return any(own[place : place + shortest] in shown for place in range(first, last + 1))


def _spaced(text: str) -> str:
    return " ".join(text.split())
