"""Small changes of pictures and texts are what they say, stay in their range, and are the same for every system."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.units import pixels, typos
from assay.units.text import words
from assay.values import texts

RANGE = (0.0, 255.0)
PICTURES = np.random.default_rng(0).integers(0, 256, (40, 3, 16, 12)).astype(np.uint8)
CHANGES = {
    "noise": lambda one: pixels.noisy(one, 0.1, RANGE, np.random.default_rng(1)),
    "brightness": lambda one: pixels.brighter(one, 0.2, RANGE),
    "contrast": lambda one: pixels.flatter(one, 0.5, RANGE),
    "blur": lambda one: pixels.blurred(one, 1.0, RANGE),
    "occlusion": lambda one: pixels.occluded(one, 0.3, RANGE, np.random.default_rng(1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_pictures_are_pictures(name: str) -> None:
    kept = PICTURES.copy()
    found = CHANGES[name](PICTURES)
    assert np.array_equal(PICTURES, kept)
    assert found.dtype == np.float32
    assert found.shape == PICTURES.shape
    assert np.array_equal(found, np.round(found))
    assert 0 <= found.min() <= found.max() <= 255
    assert (found != PICTURES).any(axis=(1, 2, 3)).all()
    assert np.array_equal(found, CHANGES[name](PICTURES))


def test_noise_has_the_size_it_says() -> None:
    grey = np.full((50, 1, 20, 20), 128, dtype=np.uint8)
    found = pixels.noisy(grey, 0.1, RANGE, np.random.default_rng(0)) - 128
    assert found.std() == pytest.approx(25.5, rel=0.02)
    assert abs(found.mean()) < 0.6


def test_a_rectangle_of_the_stated_size_is_covered_and_nothing_else() -> None:
    white = np.full((30, 1, 20, 10), 255, dtype=np.uint8)
    white[:, :, ::2] = 0
    changed = pixels.occluded(white, 0.3, RANGE, np.random.default_rng(0)) != white
    assert (changed.sum(axis=(1, 2, 3)) == 6 * 3).all()
    for one in changed[:, 0]:
        rows, columns = np.flatnonzero(one.any(axis=1)), np.flatnonzero(one.any(axis=0))
        assert len(rows) == 6
        assert len(columns) == 3
        assert one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_blur_keeps_the_mean_of_a_picture_and_lowers_its_spread() -> None:
    found = pixels.blurred(PICTURES, 1.0, RANGE)
    np.testing.assert_allclose(found.mean(axis=(2, 3)), PICTURES.mean(axis=(2, 3)), atol=12)
    assert (found.std(axis=(2, 3)) < 0.6 * PICTURES.std(axis=(2, 3))).all()


def distance(first: str, second: str) -> int:
    """Edits with swaps of neighbours as one (Damerau 1964, optimal string alignment)."""
    table = [[max(i, j) if not min(i, j) else 0 for j in range(len(second) + 1)] for i in range(len(first) + 1)]
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            same = first[i - 1] == second[j - 1]
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (not same))
            if i > 1 and j > 1 and first[i - 1] == second[j - 2] and first[i - 2] == second[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


WORD = st.text("abcdefghijklmnopqrstuvwxyzABCé", min_size=4, max_size=12)


@given(WORD, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_a_slip_is_one_edit_inside_the_word(word: str, kind: float, place: float) -> None:
    found = typos.slipped(word, kind, place)
    assert distance(word, found) <= 1  # 0 where two equal letters change places
    assert (found[0], found[-1]) == (word[0], word[-1])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_share_nothing_changes_nothing(language: str) -> None:
    told = texts(["A good film, was it not?", "这部电影真的很好看。", "", "  ok "])
    rng = np.random.default_rng(0)
    assert typos.mistyped(told, 0.0, language=language, rng=rng).tolist() == told.tolist()
    assert typos.look_alike(told, 0.0, language=language, rng=rng).tolist() == told.tolist()
    assert typos.shortened(told, 0.0, language=language, rng=rng).tolist() == told.tolist()


def test_as_many_words_are_mistyped_as_said_and_the_rest_stay() -> None:
    told = texts(["wonderful story about an old man and the people around him"] * 600)
    found = typos.mistyped(told, 0.3, language="en", rng=np.random.default_rng(0))
    able = told[0].split()
    changed = np.array([[a != b for a, b in zip(able, one.split(" "), strict=True)] for one in found.tolist()])
    long = np.array([len(word) >= 4 for word in able])
    assert not changed[:, ~long].any()
    assert changed[:, long].mean() == pytest.approx(0.3, abs=0.02)


def test_as_many_words_are_left_out_as_said() -> None:
    told = texts(["one two three four five six seven eight nine ten"] * 400)
    found = typos.shortened(told, 0.1, language="en", rng=np.random.default_rng(0))
    counts = [len(text.split()) for text in found.tolist()]
    assert np.mean(counts) == pytest.approx(9, abs=0.1)
    chinese = typos.shortened(texts(["这部电影真的很好看"] * 400), 0.1, language="zh", rng=np.random.default_rng(0))
    assert np.mean([len(text) for text in chinese.tolist()]) == pytest.approx(9 * 0.9, abs=0.1)


def test_look_alikes_are_other_letters_of_the_same_number() -> None:
    told = texts(["a bad movie", "xyz", "hfgt", "我很好"])
    found = typos.look_alike(told[:3], 1.0, language="en", rng=np.random.default_rng(0)).tolist()
    assert [len(one) for one in found] == [11, 3, 4]
    assert [sum(a != b for a, b in zip(x, y, strict=True)) for x, y in zip(told.tolist(), found, strict=False)] == [
        3,
        1,
        0,
    ]
    assert typos.look_alike(told[3:], 1.0, language="zh", rng=np.random.default_rng(0)).tolist() == ["找狠好"]
    assert len(set(typos.PAIRS)) == len(typos.PAIRS)


@pytest.mark.parametrize(
    ("language", "told"), [("en", "a wonderful story, told well"), ("zh", "这部电影真的很好看。ok 2024")]
)
def test_one_slip_keeps_the_number_of_words(language: str, told: str) -> None:
    for seed in range(20):
        found = typos.slipped_once(texts([told]), language=language, rng=np.random.default_rng(seed)).tolist()[0]
        assert distance(told, found) == 1
        assert len(words(found, language)) == len(words(told, language))
