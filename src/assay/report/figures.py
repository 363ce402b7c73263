"""A chart as it stands in the page: an image with a name, a text alternative, and its natural size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from assay.report import charts


@dataclass(frozen=True)
class Figure:
    """An inline SVG. `title` names it; `description` says in words what it shows."""

    title: str
    description: str
    svg: Markup
    widest: int  # pixels; beyond, its text would be out of proportion
    note: str = ""


def figure(chart: Any, *, title: str, description: str, grow: float = 1.4) -> Figure:
    """Draw a chart. It is not shown smaller than drawn, as its text would be too small, nor over `grow` times it."""
    head, body = charts.svg(chart).split(">", 1)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    width = float(found.group(1)) if found else 320.0
    head = re.sub(r' (width|height|role|aria-[a-z]+)="[^"]*"', "", head)
    size = f"width:100%;min-width:{width:g}px"
    start = head.replace("<svg", f'<svg role="img" aria-label="{escape(description)}" style="{size}"', 1)
    drawn = Markup(start + ">" + body)  # noqa: S704 (Vega escapes the texts it draws)
    return Figure(title, description, drawn, round(width * grow))
