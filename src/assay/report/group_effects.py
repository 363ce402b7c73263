"""Small multiples: what each treatment did to each group's rates, one small panel a group and rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from assay.estimation.widen import FRACTIONS
from assay.report.charts import BETTER, FAINT, INK, SOFT, WORSE, columns_of, wrap
from assay.report.figures import Figure, figure
from assay.report.heat_map import centred, drawn, left
from assay.report.matrix_cells import MARKS, Matrix, short_names
from assay.report.phrases import Phrases

RATES = ("error_rate", "selection_rate", "true_positive_rate", "false_positive_rate", "group_mean_absolute_error")
GROUP, NAMES, PANEL, GAP, STEP, HEAD = 96, 168, 172, 14, 14, 34  # pixels
MOST_GROUPS, MOST_LETTERS = 24, 30
ORDER = ("worse", "changed", "better")  # what must not be left out comes first
Units = Mapping[str, str]  # by metric
Effect = Mapping[str, Any]


@dataclass(frozen=True)
class _Panels:
    """`effects[group][rate]` is one effect for each treated system, None where there is none to show."""

    groups: tuple[str, ...]
    rates: tuple[str, ...]
    systems: tuple[str, ...]
    effects: Mapping[str, Mapping[str, tuple[Effect | None, ...]]]
    total: int  # groups that there are: where not all are shown, those that moved are


def group_effects(matrix: Matrix, units: Units, columns: Collection[str], say: Phrases) -> Figure | None:
    """The figure; None where no treatment's effect on a group (of one of these columns) was measured."""
    panels = _panels(matrix, columns)
    if not panels.groups or not panels.rates:
        return None
    drawn = figure(_chart(panels, units, say), title=say("per group"), description=_words(panels, say), grow=1.25)
    if len(panels.groups) == panels.total:
        return drawn
    return replace(drawn, note=say("per group shown").format(shown=len(panels.groups), total=panels.total))


def _panels(matrix: Matrix, columns: Collection[str]) -> _Panels:
    found: dict[str, dict[str, list[Effect | None]]] = {}
    systems = matrix["systems"][1:]
    for at, system in enumerate(systems):
        for effect in matrix["details"].get(system, ()):
            _, metric, where = effect["key"]
            is_group = where.partition("=")[0] in columns and "=" in where and "&" not in where
            if metric in RATES and is_group and effect["value"] is not None:
                found.setdefault(where, {}).setdefault(metric, [None] * len(systems))[at] = effect
    groups = tuple(sorted(sorted(found, key=lambda group: (_urgency(found[group]), group))[:MOST_GROUPS]))
    known = {rate for group in groups for rate in found[group]}
    rates = tuple(sorted(known, key=RATES.index))
    effects = {group: {rate: tuple(row) for rate, row in found[group].items()} for group in groups}
    return _Panels(groups, rates, tuple(short_names(matrix)[1:]), effects, len(found))


def _urgency(of_group: Mapping[str, Sequence[Effect | None]]) -> int:
    """0 for a group that any treatment made worse, then those that moved otherwise, then the rest."""
    verdicts = {one["verdict"] for row in of_group.values() for one in row if one is not None}
    return next((place for place, one in enumerate(ORDER) if one in verdicts), len(ORDER))


def _chart(panels: _Panels, units: Units, say: Phrases) -> Any:
    boxes: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    width = GROUP + NAMES + (PANEL + GAP) * len(panels.rates)
    top = float(HEAD)
    reach = {rate: _reach(panels, rate, is_share=units.get(rate, "fraction") in FRACTIONS) for rate in panels.rates}
    for column, rate in enumerate(panels.rates):
        middle = GROUP + NAMES + column * (PANEL + GAP) + PANEL / 2
        texts.append(centred(middle, 9, say.metric(rate), size=11.5, ink=INK))
        texts.append(
            centred(middle, 24, f"± {say.reach(reach[rate], units.get(rate, 'fraction'))}", size=9.5, ink=SOFT)
        )
    for group in panels.groups:
        top = _band(panels, group, reach, (boxes, texts), (top, width), say)
    return drawn(boxes, texts, (width, top + 4))


def _reach(panels: _Panels, rate: str, *, is_share: bool) -> float:
    """Half the width of a rate's panels: the same for all groups. Very wide intervals run out of the panel."""
    found = [one for group in panels.groups for one in panels.effects[group].get(rate, ()) if one is not None]
    values = [abs(float(one["value"])) for one in found]
    ends = [abs(float(one[end])) for one in found for end in ("low", "high") if one[end] is not None]
    most = max(*values, min(max(ends, default=0.0), 2.5 * max(values)), 1e-9)
    return min(1.05 * most, 1.0) if is_share else 1.05 * most


def _band(
    panels: _Panels,
    group: str,
    reach: Mapping[str, float],
    marks: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    place: tuple[float, float],
    say: Phrases,
) -> float:
    """One group: a line for each treated system, a panel for each rate; returns where the next one starts."""
    boxes, texts = marks
    top, width = place
    boxes.append({"x": 0, "x2": width, "y": top, "y2": top + 1, "fill": "#b9c1cb"})
    for number, line in enumerate(wrap(say.slice(group), 15)):
        texts.append(left(0, top + 13 + number * 13, line, size=11, ink=INK, weight="bold"))
    height = STEP * len(panels.systems) + 8
    for row, system in enumerate(panels.systems):
        y = top + 12 + row * STEP
        shown = system if columns_of(system) <= MOST_LETTERS else system[: MOST_LETTERS - 1] + "…"
        texts.append(left(GROUP, y, shown, size=10, ink=SOFT))
        for column, rate in enumerate(panels.rates):
            effect = panels.effects[group].get(rate, (None,) * len(panels.systems))[row]
            middle = GROUP + NAMES + column * (PANEL + GAP) + PANEL / 2
            _line(effect, (middle, y, PANEL / 2 / reach[rate]), boxes, texts)
    for column in range(len(panels.rates)):
        middle = GROUP + NAMES + column * (PANEL + GAP) + PANEL / 2
        boxes.append({"x": middle - 0.5, "x2": middle + 0.5, "y": top + 3, "y2": top + height, "fill": FAINT})
    return top + max(height, 13.0 * len(wrap(say.slice(group), 15)) + 10)


def _line(
    effect: Effect | None,
    place: tuple[float, float, float],
    boxes: list[dict[str, Any]],
    texts: list[dict[str, Any]],
) -> None:
    """An interval, its value, and the mark of a change that holds, beside the end that is farther from none."""
    middle, y, scale = place
    if effect is None or effect["value"] is None:
        return
    told = [effect["value"] if effect[end] is None else effect[end] for end in ("low", "high")]
    ends = [middle + max(-PANEL / 2, min(PANEL / 2, scale * end)) for end in told]
    mark = MARKS.get(effect["verdict"], "")
    ink = {"better": BETTER, "worse": WORSE}.get(effect["verdict"], FAINT)
    at = middle + scale * effect["value"]
    boxes.append({"x": ends[0], "x2": max(ends[1], ends[0] + 1), "y": y - 1.25, "y2": y + 1.25, "fill": ink})
    boxes.append({"x": at - 3, "x2": at + 3, "y": y - 3.5, "y2": y + 3.5, "fill": ink})
    if mark:
        side = ends[1] + 7 if at > middle else ends[0] - 7
        texts.append(centred(min(max(side, middle - PANEL / 2 - 7), middle + PANEL / 2 + 7), y, mark, size=9, ink=ink))


def _words(panels: _Panels, say: Phrases) -> str:
    """What moved, for those who do not see the picture: worse first."""
    found = [
        (str(effect["verdict"]), f"{system}, {say.slice(group)}, {say.metric(rate)}: {say(effect['verdict'])}")
        for group in panels.groups
        for rate, row in panels.effects[group].items()
        for system, effect in zip(panels.systems, row, strict=True)
        if effect is not None and effect["verdict"] in ORDER
    ]
    moved = [text for _, text in sorted(found, key=lambda one: ORDER.index(one[0]))]
    shown = "; ".join(moved[:12]) + ("; …" if len(moved) > 12 else "")
    return f"{say('per group')}. {shown or say('moved nothing')}."
