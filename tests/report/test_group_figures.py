"""Figures of groups: a small group's shrunken rate stands below its own, and is said to."""

from __future__ import annotations

from assay.report.group_effects import group_effects
from assay.report.matrix_cells import gain
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


def test_a_group_that_lost_is_never_left_out_of_the_small_multiples():
    """Forty regions, the last of which got worse; more got better than are told in words."""

    def effect(region, verdict):
        value = {"worse": 0.2, "better": -0.2}.get(verdict, 0.0)
        key = ["group_error_rates", "error_rate", f"region={region:02}"]
        return {"key": key, "value": value, "low": value - 0.1, "high": value + 0.1, "verdict": verdict}

    found = [effect(at, "better" if at < 20 else "no detectable change") for at in range(39)] + [effect(39, "worse")]
    matrix = {"systems": ["one", "one+new"], "details": {"one+new": found}}
    drawn = group_effects(matrix, {"error_rate": "share"}, ["region"], Phrases("en", columns=["region"]))
    assert "region=39" in drawn.svg
    assert drawn.description.removeprefix("What each treatment did to each group. ").startswith("new, region=39")
    assert drawn.note.startswith("24 of 40 groups shown")
    assert group_effects({**matrix, "details": {"one+new": found[:9]}}, {}, ["region"], Phrases("en")).note == ""


def test_the_baseline_sorts_as_no_change_and_what_was_not_compared_last():
    found = {"measurement": {"value": 0.5, "better": "higher"}, "effect": None, "reason": "2 of 5 groups are small"}
    assert gain(found, is_baseline=True) == (0.0, 0.0)
    assert gain({**found, "reason": ""}) == (None, None)
