"""Charts of figures as SVG, and the table beside them: bars that print, with every value written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.figures import Figure

WIDTH, LABEL, VALUE, LINE, HEAD, GAP = 760, 250, 90, 20, 40, 14
WIDE = 20.0  # the largest over the smallest value from which bars are logarithmic
FILL = {"ours": "#1f5fa8", "peer": "#9aa3ad", "limit": "url(#stripes)"}
STYLE = "text{font:13px system-ui,sans-serif;fill:#1a1a1a}.what{font-weight:600}.unit{fill:#555}"
STRIPES = (
    '<pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="6" height="6" fill="#fff"/><rect width="3" height="6" fill="#555"/></pattern>'
)


def told(value: float) -> str:
    """Three digits that count, thousands set apart.

    >>> told(36004.59), told(0.0052), told(1.0)
    ('36,005', '0.0052', '1')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def lengths(values: Sequence[float], room: float) -> tuple[list[float], bool]:
    """How long each bar is, and whether they are logarithmic: then the smallest is a tenth of the room.

    >>> lengths([1.0, 2.0], 100)
    ([50.0, 100.0], False)
    >>> [round(one) for one in lengths([1.0, 10.0, 100.0], 100)[0]]
    [10, 55, 100]
    """
    low, high = min(values), max(values)
    if low <= 0 or high / low < WIDE:
        return [room * value / high if high > 0 else 0.0 for value in values], False
    span = math.log(high / low)
    return [room * (0.1 + 0.9 * math.log(value / low) / span) for value in values], True


def svg(name: str, figures: Sequence[Figure]) -> str:
    """One panel a figure, one bar a value."""
    room, top, panels = WIDTH - LABEL - VALUE, GAP, []
    for one in figures:
        sizes, is_log = lengths([value for _, value, _ in one.values], room)
        unit = one.unit + (", logarithmic" if is_log else "")
        panels.append(f'<text class="what" x="{GAP}" y="{top + 14}">{escape(one.what)}</text>')
        panels.append(f'<text class="unit" x="{GAP}" y="{top + 31}">{escape(unit)}{_asked(one)}</text>')
        for place, ((label, value, kind), size) in enumerate(zip(one.values, sizes, strict=True)):
            y = top + HEAD + place * LINE
            panels.append(f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
            bar = f'width="{size:.1f}" height="{LINE - 6}" fill="{FILL[kind]}" stroke="#555"'
            panels.append(f'<rect x="{LABEL}" y="{y + 3}" {bar}/>')
            panels.append(f'<text x="{LABEL + size + 6:.1f}" y="{y + 14}">{told(value)}</text>')
        top += HEAD + len(one.values) * LINE + GAP
    heading = f"<title>{escape(name.replace('_', ' '))}</title><desc>{escape(_in_words(figures))}</desc>"
    box = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {box}>'
        f'{heading}<style>{STYLE}</style><defs>{STRIPES}</defs><rect width="{WIDTH}" height="{top}" fill="#fff"/>'
        + "\n".join(panels)
        + "</svg>\n"
    )


def table(figures: Sequence[Figure]) -> str:
    """The same in Markdown: ours in bold, the limit in italics."""
    marks = {"ours": "**{}**", "peer": "{}", "limit": "*{}*"}
    lines = ["| what | unit | ours, *limit* and peers | asked |", "|---|---|---|---|"]
    for one in figures:
        values = " · ".join(f"{label} {marks[kind].format(told(value))}" for label, value, kind in one.values)
        lines.append(f"| {one.what} | {one.unit} | {values} | {one.goal or '–'} |")
    return "\n".join(lines)


def _asked(one: Figure) -> str:
    return f" · asked: {escape(one.goal)}" if one.goal else ""


def _in_words(figures: Sequence[Figure]) -> str:
    return "; ".join(
        f"{one.what}, {one.unit}: " + ", ".join(f"{label} {told(value)}" for label, value, _ in one.values)
        for one in figures
    )
