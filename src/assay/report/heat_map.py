"""The matrix as a picture: dimensions down, systems across, laid out by hand so that nothing is cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from assay.report.charts import INK, SOFT, pixels, text_rows, values, wrap

Row = Mapping[str, Any]
NAMES, CELL, HEIGHT, FAMILY = 184, 98, 35, 25  # pixels: row names, a cell's width, a row's height, a family's name
NAME_LINE = 14  # pixels from one line of a row's name to the next
NEUTRAL, BETTER, WORSE = "#f1f4f6", "#8cc3d6", "#f0a878"
VERDICT_INK = {"pass": "#14603c", "fail": "#9b2c16", "inconclusive": "#7a5200"}


@dataclass(frozen=True)
class Grid:
    """What the picture shows. `families` are (name, rows); each row is (name, cells), each cell text, detail,
    strength in [-1, 1] (worse … better). `verdicts` are (verdict, words), one a system.
    """

    systems: tuple[str, ...]
    families: tuple[tuple[str, tuple[tuple[str, tuple[Row, ...]], ...]], ...]
    verdicts: tuple[tuple[str, str], ...]
    verdict_name: str
    legend: tuple[str, ...]


def colour(strength: float) -> str:
    """From orange over grey to blue, so that it also reads without red and green.

    >>> colour(0.0), colour(1.0), colour(-1.0), colour(0.5)
    ('#f1f4f6', '#8cc3d6', '#f0a878', '#bedce6')
    """
    end, share = (BETTER if strength > 0 else WORSE), min(abs(strength), 1.0)
    parts = [(int(NEUTRAL[at : at + 2], 16), int(end[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(start + (stop - start) * share):02x}" for start, stop in parts)


def heat_map(grid: Grid) -> Any:
    """The chart. Colour is never the only sign: ▲ and ▼ stand in the text of cells that moved."""
    boxes: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    width = NAMES + CELL * len(grid.systems)
    top = _legend(grid, texts, width)
    top = _head(grid, texts, top)
    for family, rows in grid.families:
        texts.append(_text(0, top + FAMILY / 2 + 3, family, size=11, weight="bold", ink=SOFT))
        boxes.append({"x": 0, "x2": width, "y": top + FAMILY - 3, "y2": top + FAMILY - 2, "fill": "#b9c1cb"})
        top += FAMILY
        for name, cells in rows:
            top += _row(name, cells, (boxes, texts), top)
    return drawn(boxes, texts, (width, top + 2))


def _legend(grid: Grid, texts: list[dict[str, Any]], width: float) -> float:
    lines = [line for part in grid.legend for line in wrap(part, int(width / 5.6))]
    for index, line in enumerate(lines):
        texts.append(_text(0, 8 + index * 15, line, size=11, ink=SOFT))
    return 15.0 * len(lines) + 10


def _head(grid: Grid, texts: list[dict[str, Any]], top: float) -> float:
    """System names, wrapped, over their verdicts."""
    names = [wrap(name, 15) for name in grid.systems]
    height = 13 * max(len(lines) for lines in names)
    for index, lines in enumerate(names):
        x = NAMES + CELL * (index + 0.5)
        for row in text_rows(lines, x=x, middle=top + height - 13 * len(lines) / 2, step=13):
            texts.append(_text(x, row["y"], row["text"], size=11.5, weight="bold", align="center"))
    top += height + 4
    texts.append(_text(0, top + 9, grid.verdict_name, size=11.5))
    for index, (verdict, words) in enumerate(grid.verdicts):
        x, ink = NAMES + CELL * (index + 0.5), VERDICT_INK.get(verdict, INK)
        texts.append(_text(x, top + 9, words, size=11.5, weight="bold", align="center", ink=ink))
    return top + 18


def _row(
    name: str, cells: Sequence[Row], marks: tuple[list[dict[str, Any]], list[dict[str, Any]]], top: float
) -> float:
    """Draws one dimension; returns how high it is, which is more for a long name."""
    boxes, texts = marks
    lines = wrap(name, 30)
    height = max(HEIGHT, NAME_LINE * len(lines) + 6)
    middle = top + height / 2
    for row in text_rows(lines, x=0, middle=middle, step=NAME_LINE):
        texts.append(_text(0, row["y"], row["text"], size=11.5))
    for index, cell in enumerate(cells):
        left = NAMES + CELL * index
        fill = colour(float(cell["strength"]))
        boxes.append({"x": left + 1, "x2": left + CELL - 1, "y": top + 1, "y2": top + height - 1, "fill": fill})
        lift = 7 if cell["detail"] else 0
        texts.append(_text(left + CELL / 2, middle - lift, cell["text"], size=12, weight="bold", align="center"))
        if cell["detail"]:
            texts.append(_text(left + CELL / 2, middle + 8, cell["detail"], size=9.5, align="center", ink="#3c4654"))
    return height


def _text(
    x: float, y: float, text: str, *, size: float, ink: str = INK, weight: str = "normal", align: str = "left"
) -> dict[str, Any]:
    return {"x": x, "y": y, "text": text, "size": size, "ink": ink, "weight": weight, "align": align}


def centred(x: float, y: float, words: str, *, size: float, ink: str) -> dict[str, Any]:
    """One text of a picture made by hand, its middle at (x, y) in pixels from the top left."""
    return _text(x, y, words, size=size, ink=ink, align="center")


def left(x: float, y: float, words: str, *, size: float, ink: str, weight: str = "normal") -> dict[str, Any]:
    """One text of a picture made by hand, starting at x."""
    return _text(x, y, words, size=size, ink=ink, weight=weight)


def drawn(boxes: Sequence[Row], texts: Sequence[Row], size: tuple[float, float]) -> Any:
    """A picture made by hand: filled boxes, and texts over them."""
    width, height = size
    x, y = (alt.X("x:Q", scale=pixels(width), axis=None), alt.Y("y:Q", scale=pixels(height), axis=None))
    layers = [
        alt.Chart(values(boxes)).mark_rect().encode(x=x, x2="x2:Q", y=y, y2="y2:Q", fill=alt.Fill("fill:N", scale=None))
    ]
    styles = {(one["size"], one["weight"], one["align"]): None for one in texts}
    for font_size, weight, align in styles:
        chosen = [one for one in texts if (one["size"], one["weight"], one["align"]) == (font_size, weight, align)]
        mark = alt.Chart(values(chosen)).mark_text(
            align=align, baseline="middle", fontSize=font_size, fontWeight=weight
        )
        layers.append(mark.encode(x=x, y=y, text="text:N", color=alt.Color("ink:N", scale=None)))
    return alt.layer(*layers).properties(width=width, height=height)
