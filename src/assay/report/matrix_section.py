"""The matrix of a comparison, as a picture, in words, and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assay.report import charts
from assay.report.figures import Figure, figure
from assay.report.heat_map import Grid, heat_map
from assay.report.numbers import number
from assay.report.phrases import Phrases

FAMILIES = ("utility", "fairness", "transparency", "privacy", "robustness", "security", "energy", "data")
MARKS = {"better": "▲", "worse": "▼", "no detectable change": "", "changed": "◆", "not comparable": ""}
Matrix = Mapping[str, Any]


def matrix_section(matrix: Matrix, say: Phrases) -> dict[str, Any]:
    """Everything the page says about the matrix table of a dossier."""
    systems, names = matrix["systems"], short_names(matrix)
    order = _order(matrix)
    words = f"{say('matrix description')} {say('pareto set')}: {', '.join(_pareto(matrix))}."
    return {
        "figure": figure(matrix_chart(matrix, say), title=say("the matrix"), description=words, grow=1.25),
        "systems": [(name, _verdict(matrix, system)) for name, system in zip(names, systems, strict=True)],
        "families": [
            (say(f"family {family}"), [_table_row(matrix, index, say) for index in rows]) for family, rows in order
        ],
        "pareto": _pareto(matrix),
        "stories": [
            {"name": name, "verdict": _verdict(matrix, system), **_story(matrix, system, say)}
            for name, system in zip(names[1:], systems[1:], strict=True)
        ],
        "errored": list(matrix["errored"].items()),
        "tradeoff": _tradeoff(matrix, say),
        "baseline": names[0],
    }


def matrix_chart(matrix: Matrix, say: Phrases) -> Any:
    """The picture: dimensions down by family, systems across, verdicts on top."""
    families = tuple(
        (
            say(f"family {family}"),
            tuple(
                (
                    say.name(tuple(matrix["keys"][index])),
                    tuple(cell(matrix["cells"][system][index], say) for system in matrix["systems"]),
                )
                for index in rows
            ),
        )
        for family, rows in _order(matrix)
    )
    verdicts = [_verdict(matrix, system) for system in matrix["systems"]]
    names = short_names(matrix)
    legend = (say("legend marks").format(baseline=names[0]), say("legend empty"))
    shown = tuple((one, f"{say(f'sign {one}')} {say(one)}") for one in verdicts)
    return heat_map(Grid(tuple(names), families, shown, say("verdict"), legend))


def short_names(matrix: Matrix) -> list[str]:
    """Systems as they are called in the table: a treated one by its treatments."""
    baseline = matrix["systems"][0]
    return [name.removeprefix(baseline + "+") or name for name in matrix["systems"]]


def _pareto(matrix: Matrix) -> list[str]:
    names = dict(zip(matrix["systems"], short_names(matrix), strict=True))
    return [names[name] for name in matrix["pareto"]]


def _verdict(matrix: Matrix, system: str) -> str:
    return str(matrix["verdicts"].get(system, "inconclusive"))


def _order(matrix: Matrix) -> list[tuple[str, list[int]]]:
    """Rows by family, in the order in which people ask: does it work, is it fair, can it be understood, ..."""
    found: dict[str, list[int]] = {}
    for index in range(len(matrix["keys"])):
        columns = (matrix["cells"][system][index]["measurement"] for system in matrix["systems"])
        family = next((str(one["dimension"]) for one in columns if one is not None), "")
        found.setdefault(family, []).append(index)
    known = [family for family in FAMILIES if family in found]
    return [(family, found[family]) for family in [*known, *(one for one in found if one not in known)]]


def cell(one: Mapping[str, Any], say: Phrases) -> dict[str, Any]:
    """One cell: text, detail, strength of the change from -1 (clearly worse) to 1, the effect in words, and why."""
    found, effect = one["measurement"], one["effect"]
    if found is None or found["value"] is None:
        why = one["reason"] or (found["reason"] if found else "")
        return {"text": "–", "detail": say("n/a"), "strength": 0.0, "why": why, "effect": "", "verdict": ""}
    verdict = effect["verdict"] if effect else ""
    return {
        "text": f"{number(found['value'], found['unit'])} {MARKS.get(verdict, '')}".strip(),
        "detail": say.interval(found["low"], found["high"], found["unit"]),
        "strength": _strength(effect) if effect else 0.0,
        "why": effect["reason"] if effect else "",
        "effect": change(effect, found["unit"], say) if effect and effect["value"] is not None else "",
        "verdict": verdict,
    }


def change(effect: Mapping[str, Any], unit: str, say: Phrases) -> str:
    """An effect with its interval, in the unit of what it changes."""
    interval = say.interval(effect["low"], effect["high"], unit, signed=True)
    return f"{number(effect['value'], unit, signed=True)} {interval}"


def _strength(effect: Mapping[str, Any]) -> float:
    """How clear a change is: the distance of its interval from no change, against the width."""
    sign = {"better": 1.0, "worse": -1.0}.get(effect["verdict"], 0.0)
    low, high = effect["low"], effect["high"]
    if not sign or low is None or high is None:
        return sign
    clear = min(abs(low), abs(high)) / max(high - low, 1e-12)
    return round(sign * min(1.0, 0.45 + 0.25 * float(clear)), 3)


def _table_row(matrix: Matrix, index: int, say: Phrases) -> dict[str, Any]:
    cells = [cell(matrix["cells"][system][index], say) for system in matrix["systems"]]
    return {"name": say.name(tuple(matrix["keys"][index])), "cells": cells}


def _story(matrix: Matrix, system: str, say: Phrases) -> dict[str, Any]:
    """What moved, with intervals, worse first; and on how many dimensions nothing can be seen."""
    moved: list[dict[str, str]] = []
    still = unknown = 0
    for _, rows in _order(matrix):
        for index in rows:
            one = matrix["cells"][system][index]
            effect = one["effect"]
            if effect is None or effect["value"] is None:
                unknown += 1
            elif effect["verdict"] == "no detectable change":
                still += 1
            else:
                name, verdict = say.name(tuple(matrix["keys"][index])), str(effect["verdict"])
                text = change(effect, one["measurement"]["unit"], say)
                moved.append({"name": name, "verdict": verdict, "mark": MARKS[verdict], "change": text})
    moved.sort(key=lambda one: ("worse", "changed", "better").index(one["verdict"]))
    rest = [say("still").format(still=still, total=len(matrix["keys"]))]
    return {"moved": moved, "rest": rest + ([say("not compared").format(count=unknown)] if unknown else [])}


def _tradeoff(matrix: Matrix, say: Phrases) -> Figure | None:
    """Utility against the largest fairness gap, one dot a system; None when either is missing."""
    keys = [tuple(key) for key in matrix["keys"]]
    across = _first(keys, ("equalized_odds_difference", "mean_absolute_error_difference"))
    up = _first(keys, ("accuracy", "root_mean_squared_error"))
    if across is None or up is None:
        return None
    points: list[dict[str, Any]] = [
        {"name": name, "pareto": system in matrix["pareto"], **_axis("x", x), **_axis("y", y)}
        for system, name in zip(matrix["systems"], short_names(matrix), strict=True)
        for x, y in [[matrix["cells"][system][index]["measurement"] for index in (across, up)]]
        if x and y and x["value"] is not None and y["value"] is not None
    ]
    if not points:
        return None
    titles = (say.name(keys[across]), say.name(keys[up]))
    words = [f"{one['name']}: {number(one['x'])}, {number(one['y'])}" for one in points]
    described = f"{titles[0]} / {titles[1]}. {'; '.join(words)}."
    return figure(charts.scatter(points, titles=titles), title=say("trade-off"), description=described)


def _first(keys: Sequence[tuple[str, ...]], metrics: Sequence[str]) -> int | None:
    return next((index for index, key in enumerate(keys) if key[1] in metrics), None)


def _axis(name: str, found: Mapping[str, Any]) -> dict[str, float]:
    value = found["value"]
    ends = {"low": found["low"], "high": found["high"]}
    return {name: value} | {f"{name}_{end}": value if at is None else at for end, at in ends.items()}
