"""Units of every modality: what is kept stays, what is not comes from elsewhere, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay import units
from assay.digests import array_digest, digest_of, pack_texts, unpack_texts
from assay.explain import masked_passes, shapley
from assay.units import Columns, Ground, Patches, Words
from assay.units.text import MAX_RUNS, words
from assay.values import Column, texts


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=80), st.sampled_from(["en", "zh"]))
@settings(max_examples=100, deadline=None)
def test_words_and_runs_joined_are_the_text(text: str, language: str) -> None:
    assert "".join(words(text, language)) == text
    runs = Words(language).runs(text)
    assert len(runs) == MAX_RUNS
    assert "".join(runs) == text


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=20), max_size=8))
@settings(max_examples=50, deadline=None)
def test_packed_texts_come_back_and_have_one_digest(found: list[str]) -> None:
    packed = texts(found)
    back = unpack_texts(*pack_texts(packed))
    assert back.tolist() == found
    assert array_digest(back) == array_digest(packed)


def test_texts_that_differ_only_in_where_they_end_have_different_digests() -> None:
    assert digest_of(texts(["ab", "c"])) != digest_of(texts(["a", "bc"]))
    assert digest_of(texts(["a"])) != digest_of(texts(["a", ""]))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 13), (1, 3, 2)])
def test_every_pixel_has_one_patch_and_patches_are_even(shape: tuple[int, ...]) -> None:
    patches = Patches(shape)
    sizes = np.bincount(patches.owner.ravel(), minlength=patches.count)
    assert sizes.min() >= 1
    assert sizes.sum() == shape[1] * shape[2]
    assert len(set(patches.names)) == patches.count
    rng = np.random.default_rng(0)
    rows, background = rng.integers(0, 256, (2, *shape)).astype(np.uint8), rng.random((2, 3, *shape))
    own = rng.random((2, 3, 5, patches.count)) < 0.5
    mixed = patches.mix(rows, own, background).reshape(2, 3, 5, *shape)
    assert mixed.dtype == np.uint8
    for r, w, c in np.ndindex(2, 3, 5):
        kept = own[r, w, c][patches.owner][None]
        expected = np.where(kept, rows[r], background[r, w].astype(np.uint8))
        assert (mixed[r, w, c] == expected).all()


@pytest.mark.parametrize("kinds", [("f4", "f4"), ("f8", "f8"), ("f4", "f8")])
def test_rows_are_mixed_to_the_bit(kinds: tuple[str, str]) -> None:
    rng = np.random.default_rng(0)
    rows, background = rng.normal(size=(4, 7)).astype(kinds[0]), rng.normal(size=(4, 3, 7)).astype(kinds[1])
    rows[0, :3], background[0, 0, :3] = (np.nan, -0.0, np.inf), (0.0, np.nan, -0.0)
    own = rng.random((4, 3, 5, 7)) < 0.5
    mixed = Columns(tuple("abcdefg")).mix(rows, own, background)
    expected = np.where(own, rows[:, None, None], background[:, :, None]).reshape(-1, 7)
    assert mixed.dtype == expected.dtype
    assert mixed.tobytes() == expected.tobytes()
    every = np.broadcast_to(own[:1, :1], own.shape)  # as enumerated coalitions come
    again = Columns(tuple("abcdefg")).mix(rows, every, background)
    np.testing.assert_array_equal(again, np.where(every, rows[:, None, None], background[:, :, None]).reshape(-1, 7))


def test_shapley_of_a_counting_model_is_what_each_word_adds() -> None:
    """A model that adds 1 for each "good": the run that holds it has the value 1, all others 0."""

    def count(inputs: np.ndarray) -> np.ndarray:
        found = [text.split().count("good") for text in inputs.tolist()]
        return np.array(found, dtype=np.float64)[:, None]

    rows = texts(["a good film", "nothing here", "good and good"])
    ground = Ground(texts([""]), units.of([Column("text", "text", language="en")]))
    masked = masked_passes(count, rows, ground, num_coalitions=60, rng=np.random.default_rng(0), target=0)
    values = shapley(masked).values
    expected = np.zeros((3, MAX_RUNS))
    expected[0, 1] = expected[2, 0] = expected[2, 2] = 1
    np.testing.assert_allclose(values, expected, atol=1e-9)


def test_shapley_of_a_sum_of_pixels_is_the_sum_over_each_patch() -> None:
    shape = (1, 8, 8)
    rng = np.random.default_rng(1)
    rows, background = rng.random((2, *shape)), np.zeros((1, *shape))
    ground = Ground(background, units.of([Column("image", "image", low=0, high=255, shape=shape)]))
    masked = masked_passes(
        lambda inputs: inputs.reshape(len(inputs), -1).sum(axis=1, keepdims=True), rows, ground,
        num_coalitions=60, rng=rng, target=0,
    )  # fmt: skip
    owner = Patches(shape).owner
    expected = [[row[0][owner == patch].sum() for patch in range(16)] for row in rows]
    np.testing.assert_allclose(shapley(masked).values, expected, atol=1e-9)
