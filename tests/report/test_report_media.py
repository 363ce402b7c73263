"""Pages of pictures and texts: how it learned, and what it uses, each drawn, in words and in a table."""

from __future__ import annotations

import re

import numpy as np
import pytest

from assay import registry
from assay.dossier import load_dossier
from assay.report import LANGUAGES
from assay.report.numbers import number
from assay.report.phrases import Phrases
from report_kit import foreign_words, section

pytestmark = pytest.mark.slow
TEXTS = ("english", "chinese")
EXPLAINED = ("attribution", "lime_weight", "gradient_attribution")
MOODS = {"good", "great", "lovely", "fine", "bad", "awful", "dull", "poor"}
MOODS |= {"好", "棒", "喜欢", "不错", "差", "烂", "讨厌", "无聊"}


@pytest.fixture(scope="module")
def dossiers(filed_media):
    return {name: load_dossier(folder) for name, folder in filed_media.items()}


@pytest.fixture(scope="module")
def trees(media_pages, parse):
    return {key: parse(html) for key, html in media_pages.items()}


def drawn(picture, kind):
    """Layers of marks of one kind ("symbol", "text", "rect"), each a list of (x, y, element)."""
    layers = [
        one for one in picture.all("g") if (one.attributes.get("class") or "").startswith(f"mark-{kind} role-mark")
    ]
    return [[(*place(one), one) for one in layer.all("path", "text")] for layer in layers]


def place(element):
    if "transform" in element.attributes:
        found = re.match(r"translate\(([-\d.e]+),\s*([-\d.e]+)\)", element.attributes["transform"])
    else:
        found = re.match(r"M([-\d.e]+),([-\d.e]+)", element.attributes["d"])
    return float(found[1]), float(found[2])


def assert_to_scale(at, values, *, falling):
    """Places on an axis are a straight line of the values."""
    if len(set(values)) == 1:
        assert len(set(at)) == 1
        return
    slope, offset = np.polyfit(values, at, 1)
    np.testing.assert_allclose(slope * np.array(values) + offset, at, atol=0.01)
    assert slope < 0 if falling else slope > 0


def rows(tree, name):
    return [[cell.text() for cell in row.all("td", "th")] for row in section(tree, name).all("tbody")[-1].all("tr")]


def measured(dossier, metric):
    return [one for one in dossier.measurements if one.metric == metric and one.value is not None]


# ------------------------------------------------------------------ how it learned


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", ["image", *TEXTS])
def test_the_curve_is_drawn_told_and_listed(trees, dossiers, name, lang):
    facts, say = dossiers[name].about["system"]["facts"], Phrases(lang)
    curve = facts["curve"]
    assert len(curve) == 5
    part = section(trees[name, lang], "training")
    losses, metric = part.all("svg")
    train, validation = ([one[key] for one in curve] for key in ("train_loss", "validation_loss"))
    dots = drawn(losses, "symbol")[0]
    assert len(dots) == 10
    assert_to_scale([y for _, y, _ in dots], train + validation, falling=True)
    assert_to_scale([x for x, _, _ in dots], [one["epoch"] for one in curve] * 2, falling=False)
    of_metric = [one["validation_metric"] for one in curve]
    assert_to_scale([y for _, y, _ in drawn(metric, "symbol")[0]], of_metric, falling=True)
    told = losses.attributes["aria-label"]
    for values, key in ((train, "training rows"), (validation, "validation rows")):
        words = say("line in words").format(name=say(key), first=number(values[0]), last=number(values[-1]), epoch=5)
        assert words in told
        assert say(key) in losses.text()  # in the legend
    assert say("loss") in losses.text()
    listed = rows(trees[name, lang], "training")
    assert [row[0] for row in listed] == ["1", "2", "3", "4", "5"]
    for row, one in zip(listed, curve, strict=True):
        assert row[1:5] == [
            f"{one['step']:,}",
            number(one["train_loss"]),
            number(one["validation_loss"]),
            number(one["validation_metric"]),
        ]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_says_what_goes_in_and_how_large_it_is(trees, dossiers, lang):
    say = Phrases(lang)
    for name, dossier in dossiers.items():
        card, facts = dossier.about["system"]["model"]["card"], section(trees[name, lang], "training").all("dl")[0]
        shown = dict(zip((one.text() for one in facts.all("dt")), (one.text() for one in facts.all("dd")), strict=True))
        assert shown[say("parameters")] == f"{card['num_parameters']:,}"
        assert shown[say("operations an example")] == f"{card['flops_per_example']:,}"
        assert card["architecture"] in shown[say("architecture")]
        if name == "image":
            assert shown[say("inputs")] == say("inputs image").format(width=12, height=12, channels=1)
            assert say("tokenizer") not in shown
        else:
            assert shown[say("inputs")] == say("inputs text").format(
                language=say(f"language {name[:2].replace('ch', 'zh')}")
            )
            assert f"{card['num_tokens']}" in shown[say("tokenizer")]


# ------------------------------------------------------------------ what it uses


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_map_has_every_patch_at_its_place(trees, dossiers, lang):
    tree, say = trees["image", lang], Phrases(lang)
    pictures = section(tree, "attributions").all("svg")
    assert len(pictures) == 3
    for picture, metric in zip(pictures, EXPLAINED, strict=True):
        found = {one.slice: one for one in measured(dossiers["image"], metric)}
        assert found.keys() == {f"patch={row},{column}" for row in range(1, 5) for column in range(1, 5)}
        numbers = [one for layer in drawn(picture, "text") for one in layer]
        edge = 18
        inside = {((x - edge) // 58 + 1, (y - edge) // 58 + 1): one.text() for x, y, one in numbers if min(x, y) > edge}
        assert len(inside) == 16
        for (column, row), text in inside.items():
            assert text == number(found[f"patch={row:.0f},{column:.0f}"].value)
        beside = sorted(one.text() for x, y, one in numbers if min(x, y) < edge)
        assert beside == sorted("12341234")
        # The larger the number, the darker its square.
        squares = {
            (int((x - edge) // 58 + 1), int((y - edge) // 58 + 1)): one for x, y, one in drawn(picture, "rect")[0]
        }
        light = {at: sum(int(one.attributes["fill"][i : i + 2], 16) for i in (1, 3, 5)) for at, one in squares.items()}
        values = {at: found[f"patch={at[1]},{at[0]}"].value for at in squares}
        assert len(squares) == 16
        order = sorted(squares, key=lambda at: values[at])
        assert [light[at] for at in order] == sorted(light.values(), reverse=True)
        assert light[order[0]] > light[order[-1]] + 50
        assert_told_and_listed(picture, list(found.values()), tree, say)


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("name", TEXTS)
def test_the_bars_name_every_word_with_its_count(trees, dossiers, name, lang):
    tree, say = trees[name, lang], Phrases(lang)
    pictures = section(tree, "attributions").all("svg")
    assert len(pictures) == 3
    order = [one.slice for one in sorted(measured(dossiers[name], "attribution"), key=lambda one: -one.value)]
    assert len(order) >= 5
    moods = (
        {"good", "bad", "great", "awful", "lovely", "dull", "fine", "poor"} | set("好棒差烂") | {"喜欢", "无聊", "讨厌"}
    )
    assert order[0].removeprefix("word=") in moods  # what the label was made from
    for picture, metric in zip(pictures, EXPLAINED, strict=True):
        found = {one.slice: one for one in measured(dossiers[name], metric)}
        listed = [found[one] for one in order if one in found]
        # Gradients explain fewer of the texts, and so name fewer of the words; none that the others do not.
        assert len(listed) == len(found) >= 5
        assert len(listed) == len(order) or metric == "gradient_attribution"
        labels, counts = drawn(picture, "text")
        assert [one.text() for _, _, one in labels] == [say.slice(one.slice) for one in listed]
        assert [one.text() for _, _, one in counts] == [f"n={one.attempted:,}" for one in listed]
        dots = drawn(picture, "symbol")[0]
        assert [y for _, y, _ in dots] == sorted(y for _, y, _ in dots)
        assert_to_scale([x for x, _, _ in dots], [one.value for one in listed], falling=False)
        assert_told_and_listed(picture, listed, tree, say)


def assert_told_and_listed(picture, found, tree, say):
    """Largest and smallest in the text alternative; every one in the table of all measurements."""
    told = picture.attributes["aria-label"]
    assert say.metric(found[0].metric) in told
    for one in (max(found, key=lambda one: one.value), min(found, key=lambda one: one.value)):
        assert f"{say.slice(one.slice)} {say.value(one.value, one.low, one.high, one.unit)}" in told
    listed = {tuple(row[1:4]) for row in rows(tree, "measurements")}
    for one in found:
        assert (say.metric(one.metric), say.slice(one.slice), number(one.value, one.unit)) in listed


# ------------------------------------------------------------------ words


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_metric_of_pictures_and_texts_has_words(dossiers, lang):
    registry.load()
    say = Phrases(lang)
    for name, dossier in dossiers.items():
        kind = "image" if name == "image" else "text"
        told = {m.probe for m in dossier.measurements} | {one.probe for one in dossier.not_applicable}
        assert told == registry.PROBES.keys()
        here = {probe for probe, one in registry.PROBES.items() if kind in one.modalities}
        assert {m.probe for m in dossier.measurements} <= here
        assert [m.reason for m in dossier.measurements if m.reason.startswith("the probe stopped")] == []
        for one in dossier.measurements:
            assert say.metric(one.metric, "means"), one.metric
            assert say.metric(one.metric, "limits") or not one.headline
    assert "personal_data" in {m.probe for m in dossiers["english"].measurements}


def test_the_chinese_pages_have_no_english_phrase(trees, dossiers):
    products = {"Brier", "Shapley", "LIME", "ONNX Runtime", "scikit-learn"}
    for name, dossier in dossiers.items():
        environment = {str(value) for value in dossier.about["environment"].values()}
        assert foreign_words(trees[name, "zh"], environment | products) == []
