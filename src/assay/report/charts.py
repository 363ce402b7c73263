"""Charts as SVG text: drawn by Vega offline, no script and no network in the page that shows them."""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import altair as alt

INK, SOFT, FAINT, BETTER, WORSE, BAR = "#1c2430", "#4a5563", "#8a94a3", "#1f6f8b", "#c2571a", "#9dbdcb"
# Named fonts of equal widths on every machine, so that what was measured when drawing holds when shown.
LATIN, CHINESE = "Arial, 'Liberation Sans'", "'Noto Sans CJK SC', 'PingFang SC', 'Microsoft YaHei', 'Noto Sans SC'"
LINE = 13  # pixels from one line of a label to the next: a font with Chinese has high lines, in Latin letters too
Row = Mapping[str, Any]


def svg(chart: Any) -> str:
    """An altair chart as SVG text, scaled by the page and not by fixed pixels."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(_styled(chart)))


def png(chart: Any, *, chinese: bool = False, scale: float = 2.0) -> bytes:
    """An altair chart as PNG bytes, for pages that cannot show SVG."""
    import vl_convert

    # The rasteriser takes the first font and, for what it lacks, any other: so a Chinese one must come first.
    font = f"{CHINESE}, {LATIN}" if chinese else f"{LATIN}, {CHINESE}"
    return packed(bytes(vl_convert.vegalite_to_png(_styled(chart, font), scale=scale)))


def packed(image: bytes) -> bytes:
    """A PNG with its pixels compressed as far as they go: about a quarter of what the rasteriser writes."""
    at, parts, pixels_of = 8, [image[:8]], b""
    while at < len(image):
        size = int.from_bytes(image[at : at + 4], "big")
        kind, chunk = image[at + 4 : at + 8], image[at : at + 12 + size]
        if kind == b"IDAT":
            pixels_of += chunk[8:-4]
        else:
            parts.append(chunk)
        at += len(chunk)
    body = b"IDAT" + zlib.compress(zlib.decompress(pixels_of), 9)
    drawn = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return b"".join([*parts[:-1], drawn, parts[-1]])


def _styled(chart: Any, font: str = f"{LATIN}, {CHINESE}") -> dict[str, Any]:
    # aria: Vega would build descriptions by an expression that quotes titles, and so names of columns, badly.
    styled = chart.configure(font=f"{font}, sans-serif", aria=False, background="white", padding=6).configure_view(
        stroke=None
    )
    axis = {"labelColor": INK, "titleColor": INK, "gridColor": "#e3e7ec", "domainColor": FAINT, "tickColor": FAINT}
    styled = styled.configure_axis(**axis, labelFontSize=10, titleFontSize=10.5, titleFontWeight="normal")
    found: dict[str, Any] = styled.configure_legend(labelColor=INK, labelFontSize=10.5, labelLimit=0).to_dict(
        validate=False
    )
    return found


def columns_of(text: str) -> int:
    """How many Latin letters wide a text is: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def wrap(text: str, width: int) -> list[str]:
    """A label in lines of at most `width` letters; nothing is cut off. It breaks after a space or a joint if it can.

    >>> wrap("race=Asian-Pac-Islander", 14), wrap("prune_magnitude", 9), wrap("", 9)
    (['race=Asian-', 'Pac-Islander'], ['prune_', 'magnitude'], [''])
    """
    lines, line, joint = [], "", 0
    for letter in " ".join(text.split()):
        while columns_of(line + letter) > width and line:
            cut = joint or len(line)
            lines.append(line[:cut].rstrip())
            line, joint = line[cut:].lstrip(), 0
        line += letter
        if letter in " =_-/&·+，、" or columns_of(letter) == 2:
            joint = len(line)
    return [*lines, line]


def text_rows(lines: Sequence[str], *, x: float, middle: float, step: float = LINE) -> list[dict[str, Any]]:
    """Lines of a label around a middle, as marks."""
    top = middle - step * (len(lines) - 1) / 2
    return [{"x": x, "y": top + step * index, "text": line} for index, line in enumerate(lines)]


def pixels(high: float) -> Any:
    """A scale on which a number is a pixel, from the top."""
    return alt.Scale(domain=[0, high], range=[0, high], nice=False, zero=False)


class _Rows(alt.InlineData):
    """Rows that all marks of a chart share: altair would copy them for each, which took a third of a page's time."""

    def __deepcopy__(self, memo: object) -> _Rows:
        return self


def values(rows: Sequence[Row]) -> Any:
    """Rows as the data of a chart."""
    return _Rows(values=[dict(row) for row in rows])


def intervals(rows: Sequence[Row], *, x_title: str, letters: int = 24, width: int = 140) -> Any:
    """One dot and one interval a row: label (a line each level), value, low, high, note. Rows keep their order, and
    labels are wrapped, never cut. A row may have a second estimate below its first: shrunk, shrunk_low, shrunk_high.
    """
    placed, labels, notes, top = [], [], [], 0.0
    for row in rows:
        lines = [line for part in str(row["label"]).split("\n") for line in wrap(part, letters)]
        height = max(20.0, LINE * len(lines) + 6)
        middle = top + height / 2
        placed.append({**row, "y": middle})
        labels += text_rows(lines, x=-8, middle=middle)
        notes += text_rows([str(row.get("note", ""))], x=width + 10, middle=middle)
        top += height
    y = alt.Y("y:Q", scale=pixels(top), axis=None)
    told = ("low", "value", "high", "shrunk", "shrunk_low", "shrunk_high")
    ends = [float(row[end]) for row in rows for end in told if row.get(end) is not None]
    marks = ticks_over(min(ends), max(ends))
    spread_out = alt.Scale(domain=[marks[0], marks[-1]], nice=False)
    axis = alt.Axis(values=marks, labelFlush=False)
    base = alt.Chart(values(placed)).encode(y=y)
    x = partial(alt.X, title=x_title, scale=spread_out, axis=axis)
    bars = base.mark_rule(strokeWidth=3, color=BAR).encode(x=x("low:Q"), x2="high:Q")
    dots = base.mark_point(filled=True, size=45, color=BETTER, opacity=1).encode(x=x("value:Q"))
    at_y = alt.Y("y:Q", scale=pixels(top), axis=None)
    names = alt.Chart(values(labels)).mark_text(align="right", baseline="middle", fontSize=10.5, color=INK)
    counts = alt.Chart(values(notes)).mark_text(align="left", baseline="middle", fontSize=9.5, color=SOFT)
    side = [
        mark.encode(x=alt.value(place), y=at_y, text="text:N") for mark, place in ((names, -8), (counts, width + 10))
    ]
    return alt.layer(bars, *_second(placed, top, x), dots, *side).properties(width=width, height=top)


def _second(placed: Sequence[Row], top: float, x: Callable[[str], Any]) -> list[Any]:
    """Thin intervals with an open diamond, a little below the dots of the rows that have a second estimate."""
    rows = [
        {"y": row["y"] + 6, **{end: row[f"shrunk_{end}"] for end in ("low", "high")}, "value": row["shrunk"]}
        for row in placed
        if row.get("shrunk") is not None
    ]
    if not rows:
        return []
    base = alt.Chart(values(rows)).encode(y=alt.Y("y:Q", scale=pixels(top), axis=None))
    bars = base.mark_rule(strokeWidth=1.2, color=SOFT).encode(x=x("low:Q"), x2="high:Q")
    marks = base.mark_point(shape="diamond", size=34, color=SOFT, fill="white", opacity=1).encode(x=x("value:Q"))
    return [bars, marks]


def ticks_over(low: float, high: float, *, most: int = 4) -> list[float]:
    """Round numbers that enclose `[low, high]` in at most `most` steps of 1, 2 or 5 times a power of ten.

    >>> ticks_over(0.008, 0.019)
    [0.005, 0.01, 0.015, 0.02]
    """
    width = max(high - low, 1e-12 + 1e-6 * abs(high))
    power = math.floor(math.log10(width / most))
    for step in (factor * 10.0**exponent for exponent in range(power, power + 3) for factor in (1, 2, 5)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            last = max(last, first + 1)
            return [round(number * step, 12) for number in range(first, last + 1)]
    return [low, low + width]


def reliability(bins: Sequence[Row], *, titles: tuple[str, str]) -> Any:
    """Observed frequency against predicted confidence: confidence, frequency, low, high. The diagonal is perfect."""
    base = alt.Chart(values(bins))
    unit = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X("confidence:Q", title=titles[0], scale=unit)
    diagonal = alt.Chart(values([{"a": 0, "b": 0}, {"a": 1, "b": 1}])).mark_line(
        color=FAINT, strokeDash=[4, 3], strokeWidth=1
    )
    bars = base.mark_rule(strokeWidth=2, color=BAR).encode(
        x=x, y=alt.Y("low:Q", title=titles[1], scale=unit), y2="high:Q"
    )
    dots = base.mark_point(filled=True, size=45, color=BETTER, opacity=1).encode(
        x=x, y=alt.Y("frequency:Q", title=titles[1], scale=unit)
    )
    line = diagonal.encode(x=alt.X("a:Q", scale=unit), y=alt.Y("b:Q", scale=unit))
    return alt.layer(line, bars, dots).properties(width=250, height=250)


def roc(points: Sequence[Row], *, titles: tuple[str, str], names: tuple[str, str]) -> Any:
    """True against false positive rate, both on log axes: fpr, tpr, low, high. Low rates are what matters."""
    lowest = min([one["fpr"] for one in points] + [one["tpr"] for one in points if one["tpr"] > 0])
    floor = 10.0 ** math.floor(math.log10(max(lowest, 1e-6)))
    log = alt.Scale(type="log", domain=[floor, 1], clamp=True, nice=False)
    marks = [10.0**power for power in range(round(math.log10(floor)), 1)]
    axis = alt.Axis(values=marks, format="~%", grid=True, labelFlush=False)
    seen = [dict(one, low=max(one["low"], floor), tpr=max(one["tpr"], floor), name=names[0]) for one in points]
    x = alt.X("fpr:Q", title=titles[0], scale=log, axis=axis)
    y, low = (alt.Y(f"{name}:Q", title=titles[1], scale=log, axis=axis) for name in ("tpr", "low"))
    base = alt.Chart(values(seen)).encode(x=x)
    key = alt.Color(
        "name:N",
        scale=alt.Scale(domain=list(names), range=[BETTER, FAINT]),
        legend=alt.Legend(title=None, orient="top"),
    )
    band = base.mark_area(opacity=0.25, color=BETTER).encode(y=low, y2="high:Q")
    line = base.mark_line(point=True, strokeWidth=2).encode(y=y, color=key)
    chance = [{"fpr": at, "tpr": at, "name": names[1]} for at in (floor, 1.0)]
    guess = alt.Chart(values(chance)).mark_line(strokeDash=[4, 3]).encode(x=x, y=y, color=key)
    return alt.layer(band, guess, line).properties(width=250, height=250)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], *, titles: tuple[str, str]) -> Any:
    """Named lines of points (x, y), dashed differently, so that they also read in grey; titles of both axes."""
    rows = [{"name": name, "x": x, "y": y} for name, points in series.items() for x, y in points]
    across = [x for points in series.values() for x, _ in points]
    up = [y for points in series.values() for _, y in points]
    first, last = min(across), max(*across, min(across) + 1)
    room = 0.05 if max(up) - min(up) < 1e-3 * max(abs(max(up)), 1e-3) else 0.0  # a flat line stands in the middle
    heights = ticks_over(min(up) - room, max(up) + room)
    x_axis = alt.Axis(values=_whole_ticks(first, last), format="d", labelFlush=False)
    y_axis = alt.Axis(values=heights, labelFlush=False)
    x = alt.X("x:Q", title=titles[0], scale=alt.Scale(domain=[first, last], nice=False), axis=x_axis)
    y = alt.Y("y:Q", title=titles[1], scale=alt.Scale(domain=[heights[0], heights[-1]], nice=False), axis=y_axis)
    names = list(series)
    legend = alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=400)
    ink = alt.Color("name:N", scale=alt.Scale(domain=names, range=[BETTER, WORSE]), legend=legend)
    dash = alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=[[1, 0], [5, 3]]), legend=legend)
    base = alt.Chart(values(rows)).encode(x=x, y=y, color=ink)
    line = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    dots = base.mark_point(filled=True, size=28, opacity=1)
    return alt.layer(line, dots).properties(width=270, height=190)


def _whole_ticks(first: float, last: float) -> list[float]:
    """At most seven whole numbers from the first to the last."""
    step = max(1, math.ceil((last - first) / 6))
    return [float(place) for place in range(math.ceil(first), math.floor(last) + 1, step)]


def scatter(points: Sequence[Row], *, titles: tuple[str, str]) -> Any:
    """Two dimensions against each other, one dot a system: name, x, y, both intervals, pareto.

    Names stand in a column at the right, each joined to its dot by a thin line: they cannot overlap or be cut off.
    """
    width, height = 210, max(200, 16 * len(points))
    across = _domain([one[name] for one in points for name in ("x", "x_low", "x_high")])
    up = _domain([one[name] for one in points for name in ("y", "y_low", "y_high")])
    pixel = [height * (up[1] - one["y"]) / (up[1] - up[0]) for one in points]
    rows = [
        dict(one, at_y=up[1] - place * (up[1] - up[0]) / height, at_x=across[1])
        for one, place in zip(points, spread(pixel, gap=14.0, low=5.0, high=height - 5.0), strict=True)
    ]
    base = alt.Chart(values(rows))
    x_scale, y_scale = alt.Scale(domain=across, nice=False), alt.Scale(domain=up, nice=False)
    ticks = alt.Axis(tickCount=4, labelOverlap=True, labelSeparation=4)
    x = alt.X("x:Q", title=titles[0], scale=x_scale, axis=ticks)
    y = alt.Y("y:Q", title=titles[1], scale=y_scale, axis=ticks)
    leader = base.mark_rule(color="#b9c1cb", strokeWidth=0.8).encode(x=x, x2="at_x:Q", y=y, y2="at_y:Q")
    wide = base.mark_rule(color=BAR, strokeWidth=2).encode(
        x=alt.X("x_low:Q", title=titles[0], scale=x_scale, axis=ticks), x2="x_high:Q", y=y
    )
    tall = base.mark_rule(color=BAR, strokeWidth=2).encode(
        y=alt.Y("y_low:Q", title=titles[1], scale=y_scale, axis=ticks), y2="y_high:Q", x=x
    )
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(
        x=x, y=y, color=alt.condition("datum.pareto", alt.value(BETTER), alt.value(FAINT))
    )
    names = base.mark_text(align="left", baseline="middle", dx=4, fontSize=10.5, color=INK)
    named = names.encode(
        x=alt.X("at_x:Q", title=titles[0], scale=x_scale, axis=ticks),
        y=alt.Y("at_y:Q", title=titles[1], scale=y_scale, axis=ticks),
        text="name:N",
    )
    return alt.layer(leader, wide, tall, dots, named).properties(width=width, height=height)


def spread(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places moved as little as needed so that neighbours are `gap` apart, in the same order, within `low` and `high`.

    >>> spread([10, 11, 50], gap=14, low=0, high=100), spread([0, 0], gap=10, low=0, high=100)
    ([3.5, 17.5, 50.0], [0, 10])
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    # Least squares under the order: neighbours that are too near are pooled, and a pool moves as one.
    pools: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, size = float(places[index]) - rank * gap, 1
        while pools and pools[-1][0] >= mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    last = high - (len(places) - 1) * gap
    flat = [min(max(mean, low), max(last, low)) for mean, size in pools for _ in range(size)]
    found = [0.0] * len(places)
    for rank, index in enumerate(order):
        found[index] = flat[rank] + rank * gap
    return found


def _domain(found: Sequence[float | None]) -> list[float]:
    known = [one for one in found if one is not None]
    margin = (max(known) - min(known)) * 0.05 or abs(known[0]) * 0.05 or 0.05
    return [min(known) - margin, max(known) + margin]
