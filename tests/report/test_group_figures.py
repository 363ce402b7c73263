"""Figures of groups: a small group's shrunken rate stands below its own, and is said to."""

from __future__ import annotations

from assay.report.phrases import Phrases
from assay.report.sections import group_figures
from assay.values import Dossier, Measurement

SEX = {"name": "sex"}


def rate(metric, where, value, low, high):
    return Measurement("p", metric, value, low, high, 0.95, "m", "share", "lower", slice=where, attempted=40, scored=40)


def figures(measurements, lang="en"):
    about = {"data": {"group_columns": [SEX], "columns": [SEX]}}
    dossier = Dossier("x", "x", "pass", "x", measurements=tuple(measurements), about=about)
    return group_figures(dossier, Phrases(lang, columns=["sex"]))


OWN = [rate("error_rate", "sex=f", 0.1, 0.05, 0.2), rate("error_rate", "sex=m", 0.5, 0.2, 0.8)]
SHRUNK = rate("shrunk_error_rate", "sex=m", 0.6, 0.1, 0.95)


def test_a_shrunken_rate_is_drawn_below_the_groups_own():
    (drawn,) = figures([*OWN, SHRUNK])
    (bare,) = figures(OWN)
    assert (drawn.svg.count("mark-symbol"), bare.svg.count("mark-symbol")) == (2, 1), "dots, and below them diamonds"
    assert drawn.note.startswith("Open diamonds")
    assert ">1.0<" in drawn.svg, "the axis reaches over its ends"
    assert bare.note == ""
