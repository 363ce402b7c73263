"""Curves of accumulated local effects as small charts on one scale."""

from assay.report.effects import effect_figures
from assay.report.phrases import Phrases
from assay.values import Dossier, Measurement

COLUMNS = [{"name": "age", "kind": "numeric"}, {"name": "job", "kind": "categorical"}]


def point(feature, value, effect, width=0.02):
    bounds = (None, None) if width is None else (effect - width, effect + width)
    reason = "no interval" if width is None else ""
    return Measurement(
        "feature_effects", "accumulated_effect", effect, *bounds, 0.95, "recentred bootstrap", "probability", "neither",
        f"feature={feature} & value={value}", 100, 100, 0, reason,
    )  # fmt: skip


def dossier(*measurements):
    return Dossier("", "", "pass", "", measurements, about={"data": {"columns": COLUMNS}})


def test_one_chart_a_column_with_every_value_in_words_and_one_scale():
    found = [point("age", value, effect) for value, effect in (("17", -0.2), ("38.5", 0.0), ("90", 0.3))]
    found += [point("job", name, effect) for name, effect in (("a", -0.4), ("managerial work", 0.1))]
    age, job = effect_figures(dossier(*found), Phrases("en"))
    assert (age.title, job.title) == ("age", "job")
    assert "17: −0.2" in age.description
    assert "managerial work: +0.1" in job.description
    assert "managerial work" in job.svg
    for one in (age, job):  # the lowest and the highest of all, on both
        assert ">−0.6<" in one.svg or ">−0.5<" in one.svg or ">−0.4<" in one.svg
    (chinese,) = effect_figures(dossier(*found[:3]), Phrases("zh"))
    assert "累积局部效应" in chinese.description
    assert "对答案的效应" in chinese.svg


def test_nothing_to_draw_and_a_single_value():
    assert effect_figures(dossier(), Phrases("en")) == []
    assert effect_figures(dossier(point("age", "3", 0.1, None)), Phrases("en")) == []
    (one,) = effect_figures(dossier(point("age", "3", 0.0)), Phrases("en"))
    assert "age" in one.svg
