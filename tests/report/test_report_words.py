"""The texts of a report: complete in both languages, and safe whatever they are given."""

import json
import re
import string
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import assay.report
from assay import engine, registry
from assay.data.quality.personal import KINDS
from assay.errors import UsageError
from assay.estimation.effects import Effect
from assay.matrix import _only_against_both
from assay.report.phrases import LANGUAGES, Phrases
from assay.tasks import Argmax, Identity, Regression, task_of
from assay.values import System
from support import KnownModel

FOLDER = Path(assay.report.__file__).parent
TEXTS = {lang: json.loads((FOLDER / "i18n" / f"{lang}.json").read_text("utf-8")) for lang in LANGUAGES}
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SAME_IN_BOTH = {"sign pass", "sign fail", "sign inconclusive", "colon", "comma", "list comma", "stop", "in percent"}
SAME_IN_BOTH |= {"python", "numpy", "scipy", "torch", "assay", "cpu", "gpu", "onnxruntime", "sklearn"}


def flat(texts):
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def test_both_languages_say_the_same_things():
    english, chinese = TEXTS["en"], TEXTS["zh"]
    assert flat(english).keys() == flat(chinese).keys()
    assert english["metrics"].keys() == chinese["metrics"].keys()
    assert english["slice words"].keys() == chinese["slice words"].keys()
    for name, entry in english["metrics"].items():
        assert entry.keys() == chinese["metrics"][name].keys() == {"label", "means", "limits"}
        assert all(entry.values())
        assert all(chinese["metrics"][name].values())


def test_placeholders_agree():
    for key, text in flat(TEXTS["en"]).items():
        names = [{name for _, name, _, _ in string.Formatter().parse(one) if name} for one in (text, TEXTS["zh"][key])]
        assert names[0] == names[1], key


def test_chinese_is_chinese():
    texts = {key: text for key, text in flat(TEXTS["zh"]).items() if key not in SAME_IN_BOTH}
    assert [key for key, text in texts.items() if not CHINESE.search(text)] == []
    entries = TEXTS["zh"]["metrics"].items()
    assert [n for n, one in entries if not all(CHINESE.search(one[part]) for part in ("means", "limits"))] == []
    assert [text for text in texts.values() if re.search(r"[\u4e00-\u9fff][,;:?!]", text)] == []  # full-width stops


def test_every_text_that_is_asked_for_exists():
    source = (FOLDER / "templates" / "page.html.j2").read_text("utf-8")
    source += "".join(path.read_text("utf-8") for path in FOLDER.glob("*.py"))
    asked = set(re.findall(r"""\b(?:say|self|head)\(['"]([^'"]+)['"]\)""", source))
    assert len(asked) > 50
    assert sorted(asked - flat(TEXTS["en"]).keys()) == []
    for family in registry.FAMILIES:
        assert f"family {family}" in TEXTS["en"]


def test_patterns_have_the_groups_their_words_need():
    for pattern, template in TEXTS["zh"]["patterns"]:
        named = {int(name) for _, name, _, _ in string.Formatter().parse(template) if name}
        assert max(named, default=-1) < re.compile(pattern).groups, pattern


def systems(data):
    """Systems to which, between them, every kind of reason applies."""
    box = System("box", KnownModel(), data, task_of(data), Argmax())
    nobody = replace(data, group_columns=())

    class Nothing(KnownModel):
        offers = frozenset()

    return [
        box,
        System("nobody", KnownModel(), nobody, task_of(data), Argmax()),
        System("regression", KnownModel(), nobody, Regression(), Identity()),
        System("nothing", Nothing(), data, task_of(data), Argmax()),
    ]


def test_every_reason_of_the_engine_is_said_in_chinese(small_data):
    registry.load()
    reasons = {engine.why_not(probe, one) for probe in registry.PROBES.values() for one in systems(small_data)} - {""}
    for observable in registry.NEEDS_GRADIENT | {"logits"}:
        wants = registry.Probe("asks", len, "utility", ("classification", "regression"), (observable,), {})
        reasons |= {engine.why_not(wants, one) for one in systems(small_data)} - {""}
    assert len({re.sub(r"(needs|reads|for|offers) .*", r"\1", one) for one in reasons}) >= 4
    for reason in reasons:
        said = str(Phrases("zh").reason(reason))
        assert "<span" not in said, reason
        assert CHINESE.search(said)
        assert not re.search(r"[A-Za-z]{3,} [A-Za-z]{3,}", said), said
        assert str(Phrases("en").reason(reason)) == reason


def test_why_a_difference_was_taken_back_is_said_in_chinese():
    seen = Effect(("p", "accuracy", ""), 0.1, 0.05, 0.15, "better", 0.95, "paired", "test rows")
    one = SimpleNamespace(replicates=np.zeros(2))
    for spread in ({}, {("other", "accuracy", ""): (0.0,)}):
        reason = _only_against_both(seen, one, spread).reason
        assert reason
        assert "<span" not in str(Phrases("zh").reason(reason))


def test_an_unknown_reason_is_shown_as_it_is():
    say = Phrases("zh")
    assert str(say.reason("the moon <b>is</b> full")) == '<span lang="en">the moon &lt;b&gt;is&lt;/b&gt; full</span>'
    mixed = str(say.reason("largest for class=<b>; something new"))
    assert mixed == '差距最大的是类别 &lt;b&gt;；<span lang="en">something new</span>'
    assert str(say.reason("num_words=4..6; 5 slices searched")) == "词数 4–6；共搜索 5 个切片"
    assert str(say.reason("hours=<b>; class=b: no examples")) == "hours=&lt;b&gt;；类别 b：没有样本"
    nested = str(say.reason("not tested: flip_rate was not measured for a: it was not measured"))
    assert nested == "未测试：a 的 噪声翻转率 没有测量结果：没有测量"
    english = str(Phrases("en").reason("not tested: group_error_rates.worst_group_accuracy was not measured for *"))
    assert english == "not tested: worst-group accuracy was not measured for every group column"


def test_slices_in_words_but_never_the_names_of_the_data():
    say = Phrases("en", columns=["noise"])
    assert say.slice("") == "all rows"
    assert say.slice("fpr=0.01") == "false claims 0.01"
    assert say.slice("attack=loss") == "loss attack (baseline)"
    assert say.slice("noise=loud & sex=Female") == "noise=loud & sex=Female"
    assert say.slice("feature=age=x") == "age=x"
    assert Phrases("zh").slice("batch=1") == "批量 1"
    assert say.slice("brightness=0.2") == "brighter by 0.2"  # a change made to pictures
    assert say.slice("brightness=97.5..167.2 & sex=Female") == "brightness 97.5–167.2 & sex=Female"  # what they are
    assert Phrases("zh").slice("num_words=3..8") == "词数 3–8"
    assert say.slice("num_words=..3 & age=48..") == "number of words ≤ 3 & age ≥ 48"
    assert say.slice("age=20..30") == "age=20..30"
    assert Phrases("zh").slice("* & *") == "各群体列 & 各群体列"


@pytest.mark.parametrize("lang", LANGUAGES)
def test_kinds_of_personal_data_are_said_in_words(lang):
    words = TEXTS[lang]["slice words"]
    assert {key.removeprefix("personal=") for key in words if key.startswith("personal=")} == set(KINDS)
    assert all(CHINESE.search(words[f"personal={kind}"]) for kind in KINDS) == (lang == "zh")


def test_an_unknown_language_is_refused():
    with pytest.raises(UsageError, match=r"'fr'.*en, zh"):
        Phrases("fr")


def test_texts_ship_with_the_package():
    for name in ("i18n/en.json", "i18n/zh.json", "templates/page.html.j2", "templates/style.css"):
        assert (resources.files("assay.report") / name).is_file()
