"""Personal data: real shapes are found, look-alikes are not, and redacting leaves nothing to find."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.quality.personal import KINDS, find, luhn, redact

FOUND = {
    "email": ["ann@example.org", "j.doe+list@mail.example.co.uk", "写信给li.wei@example.com.cn吧"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR1420041010050500013M02606", "NO9386011117947"],
    "chinese id": ["11010519491231002X", "身份证11010519491231002x。"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009", "6011000000000004"],
    "chinese mobile": ["13812345678", "电话：+86 138-1234-5678", "联系人18600001111。", "138 1234 5678"],
    "ip address": ["from 192.168.1.17.", "10.0.0.1:8080", "[203.0.113.9]"],
    "phone": ["+44 20 7946 0958", "(212) 555-0187", "212-555-0187", "+1 (212) 555 0187", "+49 30 901820"],
}
LOOK_ALIKES = [
    "user@localhost", "a@b", "@handle", "see foo@2x.png@", "x..y@example.org", "git@",
    "DE89 3704 0044 0532 0130 01", "GB82WEST12345698765433", "AB12CDEF34567890", "ISBN 978-3-16-148410-0",
    "110105194912310021", "11010519491331002X", "990105194912310021", "order 123456789012345678",
    "4111 1111 1111 1112", "1234 5678 9012 3456", "0000 0000 0000 0000", "2024-01-15 10:30:00", "5555555555555555",
    "12812345678", "1381234567", "138123456789", "A13812345678", "3.13812345678", "￥13812345678.50",
    "version 1.2.3.4", "v1.2.3.4", "256.1.1.1", "1.2.3", "1.2.3.4.5", "0.0.0.1", "section 10.01.02.03", "255.255.255.0",
    "2020-01-02", "12-345-6789", "100-200-300", "212 555", "1999-2005", "$212.555.0187", "+1", "555-0187",
    "112-555-0187", "3.14159265358979", "1,234,567,890", "1/2/2003 4:05", "#1234567890", "1234567890123",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, several in FOUND.items() for text in several])
def test_real_shapes_are_found(kind, text):
    assert [one for one, _, _ in find(text)] == [kind]
    assert [one for one, _, _ in find(f"Before {text} after, and so on.")] == [kind]


def test_look_alikes_are_not():
    assert {text: find(text) for text in LOOK_ALIKES if find(text)} == {}


def test_every_kind_is_tried():
    assert set(FOUND) == set(KINDS)


def test_luhn_finds_every_single_wrong_digit_and_most_swaps():
    number = "4539578763621486"
    assert luhn(number)
    wrong = [number[:i] + str((int(number[i]) + k) % 10) + number[i + 1 :] for i in range(16) for k in range(1, 10)]
    assert not any(luhn(one) for one in wrong)


def test_checksums_turn_away_made_up_numbers():
    """Random digits of the right shape: Luhn lets 1 in 10 through, the check character of the identity card 1 in 11."""
    digits = np.random.default_rng(0).integers(0, 10, (1500, 15)).astype(str)
    cards = ["4" + "".join(row) for row in digits]
    assert np.mean([bool(find(one)) for one in cards]) == pytest.approx(0.1, abs=0.03)
    people = ["11010119900307" + "".join(row[:4]) for row in digits]
    kinds = [[kind for kind, _, _ in find(one)] for one in people]
    assert np.mean([kind == ["chinese id"] for kind in kinds]) == pytest.approx(1 / 11, abs=0.03)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*(one for several in FOUND.values() for one in several), *LOOK_ALIKES, "和", "and"]),
        max_size=6,
    )
)
def test_redacted_texts_hold_none_and_stay_redacted(pieces):
    text = " ; ".join(pieces)
    clean, counts = redact(text)
    assert find(clean) == []
    assert redact(clean) == (clean, {})
    assert sum(counts.values()) == len(find(text))
    if not counts:
        assert clean == text


def test_no_text_takes_long():
    started = time.process_time()
    for text in (
        "1" * 20_000,
        "1 " * 10_000,
        "a" * 20_000 + "@",
        "a@" * 5000,
        "+1-" * 5000,
        "1.1." * 5000,
        "AB12 " * 4000,
    ):
        find(text)
    assert time.process_time() - started < 1.0
