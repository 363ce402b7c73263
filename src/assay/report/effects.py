"""What the answer does along each of the columns that move it most: accumulated local effects, with bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from assay.report import charts
from assay.report.figures import Figure, figure
from assay.report.numbers import number
from assay.report.phrases import Phrases
from assay.values import Dossier, Measurement

METRIC = "accumulated_effect"
HEIGHT, WIDTH = 130, 190
Point = tuple[str, Measurement]  # the value a column has, and the effect there


def effect_figures(dossier: Dossier, say: Phrases) -> list[Figure]:
    """One small chart a column, all on one scale; the column with the largest range first."""
    curves: dict[str, list[Point]] = {}
    for one in dossier.measurements:
        if one.metric == METRIC and one.value is not None and one.low is not None and one.high is not None:
            feature, _, value = one.slice.removeprefix("feature=").partition(" & value=")
            curves.setdefault(feature, []).append((value, one))
    ends = [end for curve in curves.values() for _, one in curve for end in (one.low, one.high) if end is not None]
    numeric = {column["name"] for column in dossier.about["data"]["columns"] if column["kind"] == "numeric"}
    heights = charts.ticks_over(min(ends), max(ends)) if ends else []
    return [_drawn(name, curve, heights, say, is_number=name in numeric) for name, curve in curves.items()]


def _drawn(feature: str, curve: Sequence[Point], heights: list[float], say: Phrases, *, is_number: bool) -> Figure:
    first = curve[0][1]
    axis = f"{say('effect on the answer')}{say('of the target') if first.unit.endswith('target') else ''}"
    rows = [{"x": value, "effect": one.value, "low": one.low, "high": one.high} for value, one in curve]
    chart = _line(rows, feature, axis, heights) if is_number else _dots(rows, feature, axis, heights)
    told = "; ".join(f"{value}: {number(one.value, signed=True)}" for value, one in curve)
    return figure(chart, title=feature, description=f"{say('effects description')} {feature}: {told}.")


def _scale(axis: str, heights: list[float]) -> dict[str, Any]:
    scale = alt.Scale(domain=[heights[0], heights[-1]], nice=False)
    return {"title": axis, "scale": scale, "axis": alt.Axis(values=heights, labelFlush=False)}


def _line(rows: Sequence[charts.Row], feature: str, axis: str, heights: list[float]) -> Any:
    """A band and a line over the values of a number, and where the mean effect is 0."""
    told = [{**row, "x": float(row["x"])} for row in rows]
    across = [row["x"] for row in told]
    ends = alt.Scale(domain=[min(across), max(across)], nice=False)
    marks = charts.ticks_over(min(across), max(across)) if max(across) > min(across) else across[:1]
    shown = alt.Axis(values=[one for one in marks if min(across) <= one <= max(across)], labelFlush=False)
    base = alt.Chart(charts.values(told)).encode(x=alt.X("x:Q", title=feature, scale=ends, axis=shown))
    about = _scale(axis, heights)
    band = base.mark_area(opacity=0.3, color=charts.BAR).encode(y=alt.Y("low:Q", **about), y2="high:Q")
    line = base.mark_line(strokeWidth=2, color=charts.BETTER).encode(y=alt.Y("effect:Q", **about))
    return alt.layer(_zero(about), band, line).properties(width=WIDTH, height=HEIGHT)


def _dots(rows: Sequence[charts.Row], feature: str, axis: str, heights: list[float]) -> Any:
    """A dot and an interval for each category, in the order they were accumulated in."""
    order = [str(row["x"]) for row in rows]
    angle = -35 if max(map(len, order)) > 4 or len(order) > 6 else 0
    shown = alt.Axis(labelAngle=angle, labelLimit=110)
    base = alt.Chart(charts.values(rows)).encode(x=alt.X("x:N", title=feature, sort=order, axis=shown))
    about = _scale(axis, heights)
    bars = base.mark_rule(strokeWidth=3, color=charts.BAR).encode(y=alt.Y("low:Q", **about), y2="high:Q")
    dots = base.mark_point(filled=True, size=40, color=charts.BETTER, opacity=1).encode(y=alt.Y("effect:Q", **about))
    return alt.layer(_zero(about), bars, dots).properties(width=WIDTH, height=HEIGHT)


def _zero(about: dict[str, Any]) -> Any:
    line = alt.Chart(charts.values([{"zero": 0.0}])).mark_rule(color=charts.FAINT, strokeDash=[4, 3])
    return line.encode(y=alt.Y("zero:Q", **about))
