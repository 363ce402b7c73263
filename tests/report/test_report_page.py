"""The page: what stands on it is what the dossier says, in both languages, and nothing else gets in."""

import json
import re
import shutil
import zlib
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import pytest

from assay import registry
from assay.dossier import load_dossier
from assay.errors import DossierError, UsageError
from assay.estimation.needed import MOST_REQUIRED, TOO_SMALL
from assay.report import LANGUAGES, matrix_png, read_tables, render, write_report
from assay.report.matrix_section import matrix_chart, short_names
from assay.report.numbers import limit, number
from assay.report.phrases import Phrases
from assay.values import Finding
from report_kit import foreign_words, section

pytestmark = (
    pytest.mark.slow
)  # pages of three dossiers: twenty seconds of drawing; the command line draws one in the fast tier

EVIL = "<script>alert('1')</script>\" onload=\"x & \\1 {0}"


def rendered(dossier, lang="en", tables=None):
    return render(dossier, tables=tables or {}, signed_by="k" * 64, lang=lang)


@pytest.fixture(scope="module")
def loaded(filed):
    return [load_dossier(folder) for folder in filed]


@pytest.fixture(scope="module")
def trees(pages, parse):
    return {key: parse(html) for key, html in pages.items()}


# ------------------------------------------------------------------ words


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_metric_has_words(loaded, lang):
    registry.load()
    of_tables = {
        name for name, one in registry.PROBES.items() if "table" in one.modalities and one.tasks != ("multi_label",)
    }
    assert {m.probe for one in loaded for m in one.measurements} == of_tables
    say = Phrases(lang)
    measured = [m for one in loaded for m in one.measurements if not m.reason.startswith("the probe stopped")]
    assert len({m.metric for m in measured}) > 50
    for one in measured:
        assert say.metric(one.metric, "means"), one.metric
        assert say.metric(one.metric, "limits") or not one.headline


def test_no_probe_stopped(loaded):
    assert [m.reason for one in loaded for m in one.measurements if m.reason.startswith("the probe stopped")] == []


def english_in(tree, dossier):
    environment = {str(value) for value in dossier.about["environment"].values()}
    return foreign_words(tree, environment | {"Brier", "Shapley", "LIME", "ONNX Runtime", "scikit-learn"})


def test_the_chinese_page_has_no_english_phrase(trees, loaded):
    assert english_in(trees["compared", "zh"], loaded[0]) == []


@pytest.mark.slow
def test_no_chinese_page_has_an_english_phrase(every_page, parse, loaded):
    for name, dossier in zip(("compared", "classes", "regression"), loaded, strict=True):
        assert english_in(parse(every_page[name, "zh"]), dossier) == []


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_verdict_stands_in_the_table(trees, loaded, lang):
    say = Phrases(lang, columns=["sex", "race"])
    for name, dossier in zip(("compared", "classes", "regression"), loaded, strict=True):
        if (name, lang) not in trees:
            continue  # in Chinese the comparison alone is drawn here
        table = section(trees[name, lang], "verdicts").all("tbody")[0].all("tr")
        units = {one.digest: one.unit for one in dossier.measurements}
        shown = [[cell.text() for cell in row.all("td", "th")] for row in table]
        assert len(shown) == len(dossier.findings) > 0
        for one in dossier.findings:
            unit = units.get(one.measurement, "")
            label = f"{say.metric(one.metric)} {say.slice(one.slice) if one.slice else ''}".strip()
            row = next(cells for cells in shown if cells[1] == label and cells[3] == limit(one.bound, unit))
            assert row[0] == f"{say('sign ' + one.verdict)} {say(one.verdict)}"
            assert row[2].startswith(number(one.value, unit))
            assert one.low is None or number(one.low, unit) in row[2] or one.low == one.high
            assert row[5] == one.clause
        counts = [sum(one.verdict == kind for one in dossier.findings) for kind in ("pass", "fail", "inconclusive")]
        summary = trees[name, lang].all("header")[0].all("p")[1].text()
        assert [int(text) for text in re.findall(r"\d+", summary)][-3:] == counts


def test_every_measurement_stands_in_the_table(trees, loaded):
    say = Phrases("en", columns=["sex", "race"])
    for name, dossier in zip(("compared", "classes", "regression"), loaded, strict=True):
        rows = section(trees[name, "en"], "measurements").all("tbody")[0].all("tr")
        shown = [[cell.text() for cell in row.all("td", "th")] for row in rows]
        assert len(shown) == len(dossier.measurements)
        for one, cells in zip(dossier.measurements, shown, strict=True):
            assert cells[1:4] == [say.metric(one.metric), say.slice(one.slice), number(one.value, one.unit)]
            assert cells[5] == f"{one.attempted:,} / {one.errored:,}"
            assert one.value is not None or cells[6] == one.reason


def test_the_matrix_shows_every_cell_and_the_picture_has_them_all(trees, filed):
    matrix = read_tables(filed.compared)["matrix"]
    part = section(trees["compared", "en"], "matrix")
    table, proofs = part.all("table")
    heads = [one.attributes["data-name"] for one in table.all("thead")[0].all("th")[1:]]
    assert heads == short_names(matrix) == ["base", "quantize_int8"]
    picture = json.dumps(matrix_chart(matrix, Phrases("en")).to_dict(validate=False), ensure_ascii=False)
    shown = {one.attributes["id"]: one for one in table.all("td") if "id" in one.attributes}
    evidence = {one.attributes["id"]: one for one in proofs.all("tr") if "id" in one.attributes}
    for at, system in enumerate(matrix["systems"]):
        assert len(matrix["cells"][system]) == len(matrix["keys"])
        for index, cell in enumerate(matrix["cells"][system]):
            found, mine = cell["measurement"], shown[f"c-{at}-{index}"]
            proof = evidence[mine.all("a")[0].attributes["href"].removeprefix("#")]
            assert proof.all("a")[0].attributes["href"] == f"#c-{at}-{index}"  # and back
            if found is not None and found["value"] is not None:
                assert number(found["value"], found["unit"]) in picture
                assert mine.text().startswith(number(found["value"], found["unit"]))
                assert number(found["value"], found["unit"]) in proof.text()
                assert f"{found['attempted']:,} / " in proof.text()
                assert found["method"] in proof.text()
    assert len(shown) == len(evidence) == len(matrix["systems"]) * len(matrix["keys"])
    # Families in the order in which people ask, each dimension once.
    families = [one.text() for one in table.all("th") if one.attributes["scope"] == "rowgroup"]
    assert families == ["Utility", "Fairness", "Transparency", "Privacy", "Robustness", "Energy and cost", "Data"]
    assert len(table.all("tr")) == 2 + len(families) + len(matrix["keys"])
    size = next(one.text() for one in part.all("li") if "model size" in one.text())
    assert re.match(r"▲ better ?: model size −\d+ % \(exact\)", size)
    assert loaded_id(filed) in part.text()


def loaded_id(filed):
    return load_dossier(filed.compared).evidence_id


def test_a_change_has_a_colour_a_mark_and_a_word(trees):
    table = section(trees["compared", "en"], "matrix").all("table")[0]
    moved = [one for one in table.all("td") if one.attributes.get("class")]
    assert moved
    for one in moved:
        words, mark = ("better", "▲") if one.attributes["class"][0] == "b" else ("worse", "▼")
        assert words in one.text()
        assert mark in one.text()
        raw, standard = (float(one.attributes[name] or "nan") for name in ("data-s", "data-z"))
        assert (raw > 0) == (standard > 0) == (words == "better")


def test_what_failed_is_a_row_with_its_reason_and_the_groups_are_small_multiples(loaded, filed, parse):
    matrix = read_tables(filed.compared)["matrix"] | {"errored": {"dp_sgd": "dp_sgd does not fit base: no recipe"}}
    part = section(parse(rendered(loaded[0], "en", {"matrix": matrix})), "matrix")
    failed = part.all("tfoot")[0].all("tr")[0]
    assert failed.text().replace("_ ", "_") == "dp_sgd could not be made : dp_sgd does not fit base: no recipe"
    groups = part.all("svg")[0]
    words = [one.text() for one in groups.all("text")]
    assert {"sex=Male", "sex=Female", "quantize_int8", "error rate", "selection rate"} <= set(words)
    assert not [one for one in words if "class=" in one]
    assert groups.attributes["aria-label"].startswith("What each treatment did to each group")


def test_figures_of_all_sections(trees):
    both, several, regression = (trees[name, "en"] for name in ("compared", "classes", "regression"))
    names = ["verdicts", "matrix", "groups", "slices", "attributions", "reliability", "privacy", "training"]
    names += ["measurements", "meaning", "provenance"]
    found = [one.attributes["id"] for one in both.all("section")]
    assert [name for name in names if name != "slices"] == [name for name in found if name != "slices"]
    assert (
        len(section(both, "attributions").all("svg")) == 3 + 4
    )  # Shapley values, LIME, gradients; effects of 4 columns
    assert len(section(both, "privacy").all("svg")) == 2
    groups = [one.text() for one in section(both, "groups").all("h3")]
    assert {"error rate", "error rate · intersections", "robust accuracy"} <= set(groups)
    assert "matrix" not in [one.attributes["id"] for one in several.all("section")]
    assert "mean absolute error of a group" in [one.text() for one in section(regression, "groups").all("h3")]
    linked = {one.attributes["href"] for one in both.all("nav")[0].all("a")}
    assert linked == {f"#{name}" for name in found}


# ------------------------------------------------------------------ form


def test_headings_landmarks_tables_and_figures(trees):
    for (_, lang), tree in trees.items():
        assert tree.all("html")[0].attributes["lang"] == {"en": "en", "zh": "zh-CN"}[lang]
        levels = [int(one.tag[1]) for one in tree.all("h1", "h2", "h3", "h4", "h5", "h6")]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert [len(tree.all(tag)) for tag in ("header", "nav", "main", "footer")] == [1, 1, 1, 1]
        assert all(one.attributes.get("scope") in ("col", "row", "rowgroup") for one in tree.all("th"))
        assert all(one.attributes["role"] == "img" and one.attributes["aria-label"] for one in tree.all("svg"))
        boxes = [one for one in tree.all("div") if one.attributes.get("class") == "scroll"]
        assert boxes
        assert all(one.attributes["tabindex"] == "0" and one.attributes["aria-label"] for one in boxes)
        ids = [one.attributes["id"] for one in tree.all() if "id" in one.attributes and one.tag not in INSIDE_SVG]
        assert len(ids) == len(set(ids))
        assert tree.all("title")[0].text()


INSIDE_SVG = {"clipPath", "clippath", "g", "path", "lineargradient", "rect"}


def test_nothing_is_fetched_and_nothing_runs(trees):
    for tree in trees.values():
        policy = [one for one in tree.all("meta") if one.attributes.get("http-equiv") == "Content-Security-Policy"]
        assert policy[0].attributes["content"].startswith("default-src 'none';")
        assert tree.all("iframe", "object", "embed", "form", "img", "base", "use", "image") == []
        scripts, is_compared = (
            tree.all("script"),
            bool([one for one in tree.all() if one.attributes.get("id") == "heat"]),
        )
        assert len(scripts) == is_compared  # it sorts the matrix, and is the only one the policy lets run
        told = "".join(str(part) for one in scripts for part in one.inside)
        allowed = f"script-src 'sha256-{b64encode(sha256(told.encode()).digest()).decode()}'"
        assert policy[0].attributes["content"].count("script-src") == policy[0].attributes["content"].count(allowed)
        assert policy[0].attributes["content"].count(allowed) == is_compared
        assert not re.search(r"innerHTML|eval|fetch|XMLHttp|import|document\.write|https?:", told)
        for one in tree.all():
            for name, value in one.attributes.items():
                assert not name.startswith("on")
                assert name not in ("src", "href", "xlink:href", "action") or value.startswith(("#", "data:,"))
        assert "@import" not in tree.all("style")[0].text()
        assert "url(" not in tree.all("style")[0].text()


@pytest.mark.parametrize("lang", ["en", pytest.param("zh", marks=pytest.mark.slow)])
def test_hostile_names_are_text(loaded, filed, parse, trees, lang):
    dossier = loaded[0]
    about = json.loads(json.dumps(dossier.about).replace('"sex"', json.dumps(EVIL)))
    about["system"]["name"] = about["data"]["name"] = about["policy"]["name"] = EVIL
    about["environment"][EVIL] = EVIL
    about["ledger"] = {EVIL: 5}
    about["system"]["lineage"] = [{"treatment": EVIL}]
    measured = [
        replace(one, slice=one.slice.replace("sex", EVIL), method=EVIL, reason=one.reason and EVIL)
        for one in dossier.measurements
    ]
    measured += [replace(one, metric=EVIL) for one in dossier.measurements[:2]]
    findings = [replace(one, slice=EVIL, clause=EVIL, rule=EVIL) for one in dossier.findings]
    findings.append(replace(dossier.findings[0], value=None, reason=EVIL, bound=EVIL))
    text = json.dumps(read_tables(filed.compared)["matrix"])
    matrix = json.loads(text.replace('"sex"', json.dumps(EVIL)).replace('"base+quantize_int8"', json.dumps(EVIL)))
    matrix["errored"] = {EVIL: EVIL}
    hostile = replace(dossier, about=about, measurements=tuple(measured), findings=tuple(findings))
    html = rendered(hostile, lang, {"matrix": matrix})
    tree = parse(html)
    assert html.count("<script") == html.count("</script>") == 1  # the page's own
    assert {one.tag for one in tree.all()} <= {one.tag for one in trees["compared", "zh"].all()} | {"tfoot"}
    assert not [name for one in tree.all() for name in one.attributes if name.startswith("on")]
    assert tree.all("h1")[0].text().count("<script>") == 2
    assert any("alert" in one.text() for svg in tree.all("svg") for one in svg.all("text"))


# ------------------------------------------------------------------ what can be missing or wrong


def test_a_damaged_dossier_is_refused(filed, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(filed.compared, copy)
    path = copy / "open" / "matrix.json"
    path.write_bytes(path.read_bytes().replace(b'"higher"', b'"lower"', 1))
    with pytest.raises(DossierError, match=r"matrix\.json"):
        write_report(copy, out=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_an_unknown_language_is_refused_first(tmp_path):
    with pytest.raises(UsageError):
        write_report(tmp_path / "no such dossier", lang="fr")


def test_the_default_place_is_beside_the_dossier(filed, tmp_path, monkeypatch):
    monkeypatch.setattr("assay.report.render", lambda *_, lang, **__: f"<html>{lang}")  # as if drawn
    copy = tmp_path / "audit"
    shutil.copytree(filed.regression, copy)
    assert write_report(copy) == tmp_path / "audit.html"
    assert write_report(copy, lang="zh") == tmp_path / "audit.zh.html"
    assert load_dossier(copy).verdict  # still whole: the page is beside it, not in it


def test_without_groups_or_curves_those_sections_are_left_out(loaded, parse):
    dossier = loaded[2]
    about = json.loads(json.dumps(dossier.about))
    about["data"]["group_columns"] = []
    few = [one for one in dossier.measurements if one.probe in ("regression_error", "model_bytes")]
    tree = parse(rendered(replace(dossier, about=about, measurements=tuple(few)), "zh"))
    assert [one.attributes["id"] for one in tree.all("section")] == [
        "verdicts",
        "training",
        "measurements",
        "meaning",
        "provenance",
    ]
    assert "R²" in section(tree, "measurements").text()


def test_a_number_of_rows_that_is_no_advice_is_not_given(loaded, parse):
    dossier = loaded[0]
    measured = next(one for one in dossier.measurements if one.low is not None and one.value is not None)
    judged = Finding("r", "inconclusive", "", measured.digest, measured.metric, "", measured.value, measured.low)
    few, many = (replace(judged, required_num=MOST_REQUIRED + more, bound="at_most 0.5") for more in (0, 1))
    shown = [rendered(replace(dossier, findings=(one,), measurements=(measured,))) for one in (few, many)]
    assert "about 10,000,000 rows would settle it" in shown[0]
    assert "10,000,001" not in shown[1]
    assert "the value is too close to the bound to settle with more rows" in shown[1]


def test_a_group_too_small_to_judge_is_said_to_be_so(loaded):
    dossier = loaded[0]
    measured = next(one for one in dossier.measurements if one.low is not None and one.value is not None)
    reason = f"0.1 [0, 0.5] reaches to both sides of 0.2; {TOO_SMALL}: n = {measured.scored}"
    judged = Finding("r", "inconclusive", reason, measured.digest, measured.metric, "", measured.value, measured.low)
    told = replace(judged, required_num=measured.scored + 180, bound="at_most 0.2")
    few, never = (replace(dossier, findings=(one,), measurements=(measured,)) for one in (told, judged))
    assert f"too small to judge: {measured.scored:,} rows" in rendered(few)
    assert "about 180 more would settle it" in rendered(few)
    assert "more would settle it" not in rendered(never)
    assert "样本太少，无法判定" in rendered(few, "zh")
    parts = [replace(measured, slice=f"town={name}", scored=num) for name, num in (("c", 12), ("d", 888))]
    gap = replace(measured, slice="town")
    of_gap = replace(told, slice="town", measurement=gap.digest)
    whole = replace(dossier, findings=(of_gap,), measurements=(gap, *parts))
    assert f"too small to judge: of {measured.scored:,} rows town=c has 12; on so few" in rendered(whole)
    assert "town=c 仅有 12 个" in rendered(whole, "zh")


def test_the_picture_is_a_png_in_both_languages(filed):
    matrix = read_tables(filed.compared)["matrix"]
    few = {name: cells[::6] for name, cells in matrix["cells"].items()}  # each costs, and shows the same
    matrix = {**matrix, "keys": matrix["keys"][::6], "cells": few}
    english, chinese = (matrix_png(matrix, lang=lang) for lang in LANGUAGES)
    assert english[:8] == chinese[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = (int.from_bytes(english[at : at + 4], "big") for at in (16, 20))
    assert width >= 2 * (184 + 98 * 2)
    assert height >= 2 * 35 * len(matrix["keys"])
    assert english != chinese
    assert len(english) < 0.15 * width * height  # packed: a picture for a README, not a raw bitmap
    start = english.index(b"IDAT")
    size = int.from_bytes(english[start - 4 : start], "big")
    assert zlib.crc32(english[start : start + 4 + size]) == int.from_bytes(english[start + 4 + size :][:4], "big")
    assert len(zlib.decompress(english[start + 4 : start + 4 + size])) == height * (1 + 4 * width)


def test_tasks_of_the_three_dossiers(loaded):
    tasks = [one.about["system"]["task"] for one in loaded]
    assert [one["name"] for one in tasks] == ["classification", "classification", "regression"]
    assert [len(one["classes"]) for one in tasks] == [2, 3, 0]
