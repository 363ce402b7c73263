"""The page of benchmarks: every part with a speed in it has its table and its chart, and they say what was printed."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from benchmarks.__main__ import CHARTS, PAGE, RUNS, sections, shown
from benchmarks.charts import lengths, svg, table, told
from benchmarks.figures import READERS, Figure, figures

PARTS = sections(PAGE.read_text("utf-8"))
NAME = "{http://www.w3.org/2000/svg}"


def test_every_reader_is_of_a_script_that_runs():
    assert set(READERS) <= set(RUNS)


@pytest.mark.parametrize("name", sorted(PARTS.keys() & READERS.keys()))
def test_a_part_has_its_table_and_its_chart(name):
    found = figures(name, PARTS[name])
    assert found, "its script prints in another way than its reader reads"
    assert any(kind == "ours" for one in found for _, _, kind in one.values)
    assert table(found) in PARTS[name]
    assert (CHARTS / f"{name}.svg").read_text("utf-8") == svg(name, found)


def test_drawing_the_page_again_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.__main__.CHARTS", tmp_path)
    for name, part in PARTS.items():
        assert shown(name, part).rstrip("\n") == part.rstrip("\n")


def test_bars_are_as_long_as_values_and_names_cannot_break_the_picture():
    one = Figure("half <b>", "CPU s", (("ours & co", 1.0, "ours"), ("peer", 4.0, "peer"), ("limit", 0.5, "limit")))
    drawn = ElementTree.fromstring(svg("a_name", [one]))  # noqa: S314 - drawn here
    widths = [float(bar.get("width", "0")) for bar in drawn.iter(f"{NAME}rect") if bar.get("stroke")]
    assert widths[0] / widths[1] == pytest.approx(0.25, abs=0.001)
    assert widths[2] / widths[1] == pytest.approx(0.125, abs=0.001)
    words = " ".join(text.text or "" for text in drawn.iter(f"{NAME}text"))
    assert "half <b>" in words
    assert "ours & co" in words
    assert (drawn.findtext(f"{NAME}title"), "peer 4" in str(drawn.findtext(f"{NAME}desc"))) == ("a name", True)


def test_bars_over_several_powers_of_ten_are_logarithmic_and_say_so():
    one = Figure("wide", "CPU s", (("ours", 1.0, "ours"), ("peer", 1000.0, "peer")))
    assert "CPU s, logarithmic" in svg("wide", [one])
    sizes, is_log = lengths([1.0, 1000.0, 31.6227766], 100)
    assert is_log
    assert sizes == pytest.approx([10, 100, 55])
    assert lengths([0.0, 5.0], 100) == ([0.0, 100.0], False)
    assert told(1234.5) == "1,234"
