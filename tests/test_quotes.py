"""Quotes of texts in what is written: found as brute force finds them, wherever they stand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.evidence.quotes import quoted, strings
from assay.evidence.strict_json import loads


def shares(written: str, text: str, shortest: int) -> bool:
    """From the definition."""
    one, two = (" ".join(part.split()) for part in (written, text))
    return any(two[at : at + shortest] in one for at in range(len(two) - shortest + 1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab ", max_size=30), max_size=4),
    st.lists(st.text("ab ", max_size=30), max_size=4),
    st.integers(2, 9),
)
def test_quotes_are_those_of_the_definition(written, texts, shortest):
    value = {f"{index}": one for index, one in enumerate(written)}
    found = quoted({"x": value}, texts, shortest=shortest)
    seen, expected = set(), []
    for index, one in enumerate(written):
        spaced = " ".join(one.split())
        if spaced not in seen and any(shares(one, text, shortest) for text in texts):
            expected.append(f"/x/{index}")
        seen.add(spaced)
    assert sorted(found) == sorted(expected)


def test_keys_are_written_too_and_a_place_does_not_quote():
    text = "my neighbour Anna owes me three hundred francs"
    (place,) = quoted({"slices": [{text: 1}]}, [text])
    assert place == "/slices/0"
    assert quoted({"slices": [{"neighbour Anna": 1}]}, [text]) == []
    assert list(strings({"a": ["b", {"c": "d"}], "e": 1})) == [
        ("/", "a"), ("/a/0", "b"), ("/a/1", "c"), ("/a/1/c", "d"), ("/", "e"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [b"NaN", b"[Infinity]", b'{"a": 1, "a": 1}', b"\xff", b"\xef\xbb\xbf1", b"{", "[1]".encode("utf-16")]
)
def test_json_that_does_not_mean_one_thing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"."):
        loads(wrong)
    assert loads(json.dumps({"é": [1, 1e-7, None]}).encode()) == {"é": [1, 1e-7, None]}
