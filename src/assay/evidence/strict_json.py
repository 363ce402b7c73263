"""JSON that means one thing: UTF-8, finite numbers, no key given twice."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def loads(data: bytes) -> Any:
    """The value in `data`. Raises ValueError for anything else, NaN and repeated keys, or RecursionError.

    >>> loads(b'{"a": [1, 2.5, null]}')
    {'a': [1, 2.5, None]}
    """
    return json.loads(data.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_unique)


def _no_number(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice in one object")
    return found
