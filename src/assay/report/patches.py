"""What a model looks at in a picture, as a small map: one square a patch, darker where more, each with its number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from assay.report.charts import INK, SOFT
from assay.report.figures import Figure, figure
from assay.report.heat_map import centred, colour, drawn
from assay.report.numbers import number
from assay.report.phrases import Phrases
from assay.values import Measurement

SIDE, EDGE = 58, 18  # pixels: a square, and the numbers of rows and columns beside
_PLACE = re.compile(r"patch=(\d{1,3}),(\d{1,3})")


def is_map(found: Sequence[Measurement]) -> bool:
    """Whether the measurements are of patches of a picture."""
    return bool(found) and all(_PLACE.fullmatch(one.slice) for one in found)


def patch_figure(found: Sequence[Measurement], title: str, say: Phrases) -> Figure:
    """The map. In words: where most and where least; rows count from the top, columns from the left."""
    places = {_place(one): one for one in found}
    largest = max((abs(one.value or 0.0) for one in found), default=0.0)
    boxes: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    height, width = (max(place[axis] for place in places) for axis in (0, 1))
    for (row, column), one in places.items():
        left, top = EDGE + (column - 1) * SIDE, EDGE + (row - 1) * SIDE
        fill = colour(abs(one.value or 0.0) / largest if largest else 0.0)
        boxes.append({"x": left + 1, "x2": left + SIDE - 1, "y": top + 1, "y2": top + SIDE - 1, "fill": fill})
        at = (left + SIDE / 2, top + SIDE / 2)
        texts.append(centred(at[0], at[1], number(one.value, one.unit), size=11, ink=INK))
    for axis, size in enumerate((height, width)):
        for place in range(size):
            middle = EDGE + (place + 0.5) * SIDE
            x, y = (EDGE / 2, middle) if axis == 0 else (middle, EDGE / 2)
            texts.append(centred(x, y, str(place + 1), size=10, ink=SOFT))
    ordered = sorted(found, key=lambda one: -(one.value or 0.0))
    ends = [f"{say.slice(one.slice)} {say.value(one.value, one.low, one.high, one.unit)}" for one in ordered]
    words = say("figure in words").format(title=title, count=len(found), lowest=ends[-1], highest=ends[0])
    chart = drawn(boxes, texts, (EDGE + width * SIDE, EDGE + height * SIDE))
    return figure(chart, title=title, description=f"{words} {say('map explained')}", grow=1.2)


def _place(one: Measurement) -> tuple[int, int]:
    found = _PLACE.fullmatch(one.slice)
    return (int(found[1]), int(found[2])) if found else (1, 1)
