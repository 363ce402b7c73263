"""Options given as text: `name=value` pairs."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from assay.errors import Problem, UsageError

_PAIR = re.compile(r"""(?:\[[^\]]*\]|"[^"]*"|[^,\["]|\[|")+""")  # a comma in brackets or quotes parts nothing


def parse_options(text: str) -> dict[str, Any]:
    """`name=value` pairs; values are TOML (numbers, true, "text", [1, 2]), anything else is text.

    Raises UsageError for what is no pair, and for a name given twice.

    >>> parse_options("sparsity=0.5,structured=true,column=sex,hidden=[64, 32]")
    {'sparsity': 0.5, 'structured': True, 'column': 'sex', 'hidden': [64, 32]}
    """
    found: dict[str, Any] = {}
    problems = []
    for pair in filter(None, (part.strip() for part in _PAIR.findall(text))):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            problems.append(Problem(f"{pair!r} is no option", "name=value, comma-separated"))
        elif name in found:
            problems.append(Problem(f"option {name!r} is given twice", "each name once"))
        found[name] = _value(value)
    if problems:
        raise UsageError(problems)
    return found


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 and _is_plain(table["value"]) else text


def _is_plain(value: Any) -> bool:
    """Whether JSON can say it too: no dates, no tables."""
    return all(map(_is_plain, value)) if isinstance(value, list) else isinstance(value, (bool, int, float, str))
