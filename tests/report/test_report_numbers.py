"""Numbers, labels and places as they are shown."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.report.charts import columns_of, spread, wrap
from assay.report.heat_map import colour
from assay.report.numbers import bounds, limit, number

UNITS = {"": 1, "s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
UNITS |= {"J": 1, "mJ": 1e-3, "µJ": 1e-6, "nJ": 1e-9, "kJ": 1e3, "MJ": 1e6, "/s": 1, "nat": 1}
LOW = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def read_back(text):
    """The number a person would read."""
    digits, _, unit = text.replace(",", "").replace("−", "-").partition(" ")
    mantissa, _, power = digits.partition("×10")
    return float(mantissa) * 10.0 ** int(power.translate(LOW) or 0) * UNITS[unit]


@settings(max_examples=300, deadline=None)
@given(
    st.floats(min_value=1e-9, max_value=1e12) | st.floats(min_value=-1e12, max_value=-1e-9),
    st.sampled_from(["", "share", "seconds", "bytes", "joules", "rows per second", "nats"]),
)
def test_a_number_reads_back(value, unit):
    shown = read_back(number(value, unit))
    # at least two figures; three from a thousandth upwards; whole bytes, milliseconds below a thousand are not cut more
    assert shown == pytest.approx(value, rel=0.051, abs=0.00051 if 1e-3 <= abs(value) < 1 else 0)


def test_units_people_use():
    assert number(0.000349, "seconds") == "349 µs"
    assert number(90825, "bytes") == "90.8 kB"
    assert number(0.0562, "joules") == "56.2 mJ"
    assert number(-8.6e-5, "seconds", signed=True) == "−86.0 µs"
    assert number(0.0, "seconds", signed=True) == "0 s"
    assert number(24, "bytes") == "24 B"
    assert number(12345.6, "rows per second") == "12,346 /s"
    assert number(7.65e-6, "grams") == "7.65 µg"
    assert number(26_304, "FLOP") == "26.3 kFLOP"
    assert number(3, "count") == "3"
    assert number(0.518, "FLOP per byte") == "0.518 FLOP/B"
    assert bounds(None, None) == ""
    assert bounds(0.1, None) == "[0.100, –]"
    assert limit("at_least 0.80") == "≥ 0.8"
    assert limit("at_most 123456789.0", "bytes") == "≤ 123.456789 MB"
    assert limit("not a bound") == "not a bound"


@settings(deadline=None)
@given(st.text(max_size=80), st.integers(4, 30))
def test_labels_are_wrapped_and_never_cut(text, width):
    lines = wrap(text, width)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", text)
    assert all(columns_of(line) <= width for line in lines)


@settings(deadline=None)
@given(st.lists(st.floats(0, 200), min_size=1, max_size=12))
def test_names_beside_a_plot_never_overlap(places):
    found = spread(places, gap=14, low=0, high=200)
    assert all(0 <= one <= 200 for one in found)
    ordered = sorted(range(len(places)), key=lambda index: found[index])
    assert all(found[b] - found[a] >= 14 - 1e-9 for a, b in pairwise(ordered))
    assert [places[index] for index in ordered] == sorted(places)


def test_places_far_apart_stay():
    assert spread([50, 10, 90], gap=14, low=0, high=100) == [50, 10, 90]


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.03928 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG 2.2, relative luminance and contrast ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_on_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("strength", [-1, -0.7, -0.45, 0, 0.45, 0.7, 1])
@pytest.mark.parametrize("ink", ["#1c2430", "#3c4654"])
def test_text_in_cells_has_contrast(strength, ink):
    assert contrast(colour(strength), ink) >= 4.5
