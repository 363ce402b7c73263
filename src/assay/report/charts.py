"""Charts as SVG text: drawn by Vega offline, no script and no network in the page that shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

INK, FAINT, BETTER, WORSE, NEUTRAL = "#1c2430", "#8a94a3", "#1f6f8b", "#c2571a", "#e9ecf0"
FONT = "system-ui, 'Noto Sans', 'Noto Sans CJK SC', 'Microsoft YaHei', sans-serif"
Row = Mapping[str, Any]


def svg(chart: Any) -> str:
    """An altair chart as SVG text, scaled by the page and not by fixed pixels."""
    import vl_convert

    styled = chart.configure(font=FONT, background="white").configure_axis(
        labelColor=INK, titleColor=INK, gridColor="#e3e7ec", domainColor=FAINT, tickColor=FAINT, labelLimit=260
    )
    styled = styled.configure_view(stroke=None).configure_legend(labelColor=INK, titleColor=INK, labelLimit=320)
    return str(vl_convert.vegalite_to_svg(styled.to_dict()))


def png(chart: Any, *, scale: float = 2.0) -> bytes:
    """An altair chart as PNG bytes, for pages that cannot show SVG."""
    import vl_convert

    styled = chart.configure(font=FONT, background="white").configure_view(stroke=None)
    return bytes(vl_convert.vegalite_to_png(styled.to_dict(), scale=scale))


def heat_map(cells: Sequence[Row], *, systems: Sequence[str], dimensions: Sequence[str], legend: Sequence[str]) -> Any:
    """The matrix. Each cell: system, dimension, text, detail, strength in [-1, 1] (worse … better), verdict.

    Colour is never the only sign: ▲ and ▼ stand in the text of cells that moved.
    """
    base = alt.Chart(alt.Data(values=[dict(cell) for cell in cells])).encode(
        x=alt.X("dimension:N", sort=list(dimensions), title=None, axis=_top_axis()),
        y=alt.Y("system:N", sort=list(systems), title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=8)),
    )
    colour = alt.Color(
        "strength:Q",
        scale=alt.Scale(domain=[-1, 0, 1], range=["#f0a878", "#f4f6f8", "#8cc3d6"], clamp=True, interpolate="rgb"),
        legend=None,
    )
    boxes = base.mark_rect(stroke="white", strokeWidth=2, cornerRadius=3).encode(color=colour)
    values = base.mark_text(dy=-7, fontSize=12, fontWeight="bold", color=INK).encode(text="text:N")
    details = base.mark_text(dy=9, fontSize=9.5, color="#3c4654").encode(text="detail:N")
    size = {"width": alt.Step(92), "height": alt.Step(44)}
    title = alt.TitleParams(" · ".join(legend), fontSize=11, fontWeight="normal", color="#3c4654", anchor="start")
    return alt.layer(boxes, values, details).properties(**size, title=title)


def _top_axis() -> Any:
    return alt.Axis(orient="top", labelAngle=-28, labelAlign="left", domain=False, ticks=False, labelPadding=6)


def intervals(rows: Sequence[Row], *, x_title: str, reference: float | None = None) -> Any:
    """One dot and one interval a row: label, value, low, high, note. Rows keep their order."""
    data = alt.Data(values=[dict(row) for row in rows])
    labels = list(dict.fromkeys(str(row["label"]) for row in rows))
    y = alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(domain=False, ticks=False, labelPadding=6))
    base = alt.Chart(data).encode(y=y)
    spread = alt.Scale(zero=False, nice=True)
    bars = base.mark_rule(strokeWidth=3, color="#9dbdcb").encode(
        x=alt.X("low:Q", title=x_title, scale=spread), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=60, color=BETTER, opacity=1).encode(x=alt.X("value:Q", title=x_title))
    notes = base.mark_text(align="left", dx=8, dy=-8, fontSize=9, color="#5a6472").encode(x="high:Q", text="note:N")
    layers = [bars, dots, notes]
    if reference is not None:
        line = alt.Chart(alt.Data(values=[{"at": reference}])).mark_rule(color=FAINT, strokeDash=[4, 3])
        layers.insert(0, line.encode(x="at:Q"))
    return alt.layer(*layers).properties(width=300, height=alt.Step(24))


def reliability(bins: Sequence[Row], *, titles: tuple[str, str]) -> Any:
    """Observed frequency against predicted confidence: confidence, frequency, low, high. The diagonal is perfect."""
    base = alt.Chart(alt.Data(values=[dict(one) for one in bins]))
    unit = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X("confidence:Q", title=titles[0], scale=unit)
    diagonal = alt.Chart(alt.Data(values=[{"a": 0, "b": 0}, {"a": 1, "b": 1}])).mark_line(
        color=FAINT, strokeDash=[4, 3], strokeWidth=1
    )
    bars = base.mark_rule(strokeWidth=2, color="#9dbdcb").encode(
        x=x, y=alt.Y("low:Q", title=titles[1], scale=unit), y2="high:Q"
    )
    dots = base.mark_point(filled=True, size=50, color=BETTER, opacity=1).encode(
        x=x, y=alt.Y("frequency:Q", title=titles[1], scale=unit)
    )
    layers = alt.layer(diagonal.encode(x=alt.X("a:Q", scale=unit), y=alt.Y("b:Q", scale=unit)), bars, dots)
    return layers.properties(width=280, height=280)


def roc(points: Sequence[Row], *, titles: tuple[str, str], names: tuple[str, str]) -> Any:
    """True against false positive rate, both on log axes: fpr, tpr, low, high. Low rates are what matters."""
    log = alt.Scale(type="log", domain=[1e-4, 1], clamp=True, nice=False)
    seen = [dict(one, low=max(one["low"], 1e-4), tpr=max(one["tpr"], 1e-4)) for one in points]
    base = alt.Chart(alt.Data(values=seen)).encode(x=alt.X("fpr:Q", title=titles[0], scale=log, axis=_log_axis()))
    band = base.mark_area(opacity=0.25, color=BETTER).encode(
        y=alt.Y("low:Q", title=titles[1], scale=log, axis=_log_axis()), y2="high:Q"
    )
    key = alt.Color(
        "name:N",
        scale=alt.Scale(domain=list(names), range=[BETTER, FAINT]),
        legend=alt.Legend(title=None, orient="top"),
    )
    line = base.transform_calculate(name=f"'{names[0]}'").mark_line(point=True, strokeWidth=2)
    chance = [{"fpr": 1e-4, "tpr": 1e-4, "name": names[1]}, {"fpr": 1, "tpr": 1, "name": names[1]}]
    guess = alt.Chart(alt.Data(values=chance)).mark_line(strokeDash=[4, 3])
    y = alt.Y("tpr:Q", title=titles[1], scale=log, axis=_log_axis())
    layers = alt.layer(band, guess.encode(x=alt.X("fpr:Q", scale=log), y=y, color=key), line.encode(y=y, color=key))
    return layers.properties(width=280, height=280)


def _log_axis() -> Any:
    return alt.Axis(values=[1e-4, 1e-3, 1e-2, 1e-1, 1], format="~%", grid=True)


def scatter(points: Sequence[Row], *, titles: tuple[str, str]) -> Any:
    """Two dimensions against each other, one named dot a system: name, x, y, and both intervals."""
    base = alt.Chart(alt.Data(values=[dict(one) for one in points]))
    x = alt.X("x:Q", title=titles[0], scale=alt.Scale(zero=False, nice=True))
    y = alt.Y("y:Q", title=titles[1], scale=alt.Scale(zero=False, nice=True))
    across = base.mark_rule(color="#9dbdcb", strokeWidth=2).encode(
        x=alt.X("x_low:Q", title=titles[0]), x2="x_high:Q", y=y
    )
    up = base.mark_rule(color="#9dbdcb", strokeWidth=2).encode(y=alt.Y("y_low:Q", title=titles[1]), y2="y_high:Q", x=x)
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x, y=y, color=alt.condition("datum.pareto", alt.value(BETTER), alt.value(FAINT))
    )
    names = base.mark_text(align="left", dx=7, dy=-8, fontSize=11, color=INK).encode(x=x, y=y, text="name:N")
    return alt.layer(across, up, dots, names).properties(width=320, height=260)
