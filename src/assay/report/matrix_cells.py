"""Cells of the matrix as they are shown: value, interval, mark, how clear a change is, and the change in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assay.report.numbers import number
from assay.report.phrases import Phrases

FAMILIES = ("utility", "fairness", "transparency", "privacy", "robustness", "security", "energy", "data")
MARKS = {"better": "▲", "worse": "▼", "no detectable change": "", "changed": "◆", "not comparable": ""}
CLEAR = 0.95  # strength from which a mark is doubled: the change is twice as far from none as its interval is wide
Matrix = Mapping[str, Any]


def short_names(matrix: Matrix) -> list[str]:
    """Systems as they are called in the table: a treated one by its treatments."""
    baseline = matrix["systems"][0]
    return [name.removeprefix(baseline + "+") or name for name in matrix["systems"]]


def families_of(matrix: Matrix) -> list[tuple[str, list[int]]]:
    """Rows by family, in the order in which people ask: does it work, is it fair, can it be understood, ..."""
    found: dict[str, list[int]] = {}
    for index in range(len(matrix["keys"])):
        columns = (matrix["cells"][system][index]["measurement"] for system in matrix["systems"])
        family = next((str(one["dimension"]) for one in columns if one is not None), "")
        found.setdefault(family, []).append(index)
    known = [family for family in FAMILIES if family in found]
    return [(family, found[family]) for family in [*known, *(one for one in found if one not in known)]]


def cell(one: Mapping[str, Any], say: Phrases, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One cell: text, detail, strength of the change from -1 (clearly worse) to 1, the effect in words, and why.

    `before` is the baseline's cell, of whose value a change may be per cent.
    """
    found, effect = one["measurement"], one["effect"]
    if found is None or found["value"] is None:
        why = one["reason"] or (found["reason"] if found else "")
        nothing = dict.fromkeys(("effect", "verdict", "signs"), "")
        return {"text": "–", "value": "–", "detail": say("n/a"), "strength": 0.0, "why": why, **nothing}
    verdict, strength = effect["verdict"] if effect else "", strength_of(effect) if effect else 0.0
    mark = MARKS.get(verdict, "") * (2 if abs(strength) >= CLEAR else 1)
    value = number(found["value"], found["unit"])
    return {
        "text": f"{value} {mark}".strip(),
        "value": value,
        "signs": mark,
        "detail": say.interval(found["low"], found["high"], found["unit"]),
        "strength": strength,
        "why": effect["reason"] if effect else "",
        "effect": change(effect, found["unit"], say, before) if effect and effect["value"] is not None else "",
        "verdict": verdict,
    }


def change(effect: Mapping[str, Any], unit: str, say: Phrases, before: Mapping[str, Any] | None = None) -> str:
    """An effect with its interval: per cent of the baseline's time or size, points of a share, or in its own unit."""
    found = before["measurement"] if before else None
    ends = (effect["value"], effect["low"], effect["high"])
    return say.change(ends, unit, found["value"] if found else None)


def strength_of(effect: Mapping[str, Any]) -> float:
    """How clear a change is: the distance of its interval from no change, against the width."""
    sign = {"better": 1.0, "worse": -1.0}.get(effect["verdict"], 0.0)
    low, high = effect["low"], effect["high"]
    if not sign or low is None or high is None:
        return sign
    clear = min(abs(low), abs(high)) / max(high - low, 1e-12)
    return round(sign * min(1.0, 0.45 + 0.25 * float(clear)), 3)


def gain(one: Mapping[str, Any], *, is_baseline: bool = False) -> tuple[float | None, float | None]:
    """A cell's effect in the direction that is better, in its unit and in half widths of its interval.

    0 for the baseline, whatever is noted of its value (a small group, a part of the rows); None where another system
    was not compared, which is no evidence that nothing changed.

    >>> effect = {"value": -0.2, "low": -0.3, "high": -0.1}
    >>> gain({"measurement": {"value": 0.5, "better": "lower"}, "effect": effect})
    (0.2, 2.0)
    """
    found, effect = one["measurement"], one["effect"]
    if found is None or found["value"] is None or (effect is not None and effect["value"] is None):
        return None, None
    if effect is None:
        return (0.0, 0.0) if is_baseline else (None, None)
    value = effect["value"] * (-1 if found["better"] == "lower" else 1)
    half = (effect["high"] - effect["low"]) / 2 if effect["low"] is not None and effect["high"] is not None else 0.0
    return value, round(max(-999.0, min(999.0, value / half if half else 999.0 * value)), 4)
