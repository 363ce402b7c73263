"""The matrix as a table in the page: coloured, sortable where scripts run, each cell one step from its evidence."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any

from markupsafe import Markup

from assay.report.matrix_cells import Matrix, cell, families_of, gain, short_names
from assay.report.numbers import number
from assay.report.phrases import Phrases

LEVELS = (0.0, 0.6, 0.8)  # strength above which a cell is coloured: faintly, more, fully


@cache
def script() -> tuple[Markup, str]:
    """The page's one script, and the source expression by which its policy allows this script and no other."""
    text = (resources.files("assay.report") / "templates" / "sort.js").read_text("utf-8")
    digest = b64encode(sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"  # noqa: S704 (the package's own file; nothing is filled into it)


def heat_table(matrix: Matrix, say: Phrases) -> dict[str, Any]:
    """Heads, rows by family, the evidence of every cell, and what sorting says aloud."""
    names = short_names(matrix)
    families, evidence = [], []
    for family, rows in families_of(matrix):
        families.append((say(f"family {family}"), [_row(matrix, index, say) for index in rows]))
        evidence.append((say(f"family {family}"), [_proof(matrix, at, say) for at in _places(matrix, rows)]))
    return {
        "heads": [
            {"name": name, "shown": breakable(name), "verdict": _verdict(matrix, index)}
            for index, name in enumerate(names)
        ],
        "families": families,
        "evidence": evidence,
        "digests": [
            (name, matrix["digests"].get(full, "")) for name, full in zip(names, matrix["systems"], strict=True)
        ],
        "errored": [(breakable(name), why) for name, why in matrix["errored"].items()],
        "legend": (say("legend marks").format(baseline=names[0]), say("legend strong"), say("legend empty")),
    }


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after a joint.

    >>> str(breakable("a_b+<c>"))
    'a_<wbr>b+<wbr>&lt;c&gt;'
    """
    return Markup("<wbr>").join(re.split(r"(?<=[_+])", name))


def short(interval: str) -> str:
    """An interval with its unit once.

    >>> short("[229 µs, 254 µs]"), short("[0.1, 0.2]"), short("[0.9 ms, 1 s]")
    ('[229, 254 µs]', '[0.1, 0.2]', '[0.9 ms, 1 s]')
    """
    found = re.fullmatch(r"\[(\S+) (\S+), (\S+) (\S+)\]", interval)
    return f"[{found[1]}, {found[3]} {found[4]}]" if found and found[2] == found[4] else interval


def _verdict(matrix: Matrix, index: int) -> str:
    return str(matrix["verdicts"].get(matrix["systems"][index], "inconclusive"))


def _row(matrix: Matrix, index: int, say: Phrases) -> dict[str, Any]:
    first = matrix["cells"][matrix["systems"][0]][index]
    cells = []
    for system in matrix["systems"]:
        one = matrix["cells"][system][index]
        shown = cell(one, say, first)
        raw, standard = gain(one, is_baseline=one is first)
        cells.append(
            {
                **shown,
                "detail": short(shown["detail"]),
                "tint": _tint(shown["strength"]),
                "raw": raw,
                "standard": standard,
            }
        )
    return {"index": index, "name": say.name(tuple(matrix["keys"][index])), "cells": cells}


def _tint(strength: float) -> str:
    """The class of a cell's colour.

    >>> _tint(0.0), _tint(0.5), _tint(-1.0)
    ('', 'b1', 'w3')
    """
    level = sum(abs(strength) > least for least in LEVELS)
    return f"{'b' if strength > 0 else 'w'}{level}" if level else ""


def _places(matrix: Matrix, rows: list[int]) -> list[tuple[int, int]]:
    return [(index, at) for index in rows for at in range(len(matrix["systems"]))]


def _proof(matrix: Matrix, place: tuple[int, int], say: Phrases) -> dict[str, Any]:
    """One cell's evidence: how it was measured, on how many rows, and its paired change."""
    index, at = place
    name, system = short_names(matrix)[at], matrix["systems"][at]
    one = matrix["cells"][system][index]
    shown = cell(one, say, matrix["cells"][matrix["systems"][0]][index])
    found: Mapping[str, Any] = one["measurement"] or {}
    effect: Mapping[str, Any] = one["effect"] or {}
    return {
        "index": index,
        "at": at,
        "dimension": say.name(tuple(matrix["keys"][index])),
        "system": name,
        "value": number(found.get("value"), found.get("unit", "")),
        "interval": shown["detail"],
        "change": shown["effect"],
        "verdict": shown["verdict"],
        "covers": say(f"covers {effect['covers']}") if effect.get("covers") else "",
        "paired": effect.get("method", ""),
        "counts": f"{found['attempted']:,} / {found['attempted'] - found['scored']:,}" if found else "",
        "method": found.get("method", ""),
        "probe": matrix["keys"][index][0],
        "why": shown["why"],
    }
