"""What is smaller than a unit: words of runs and superpixels of pictures, where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from assay.explain import masked_passes, shapley
from assay.explain.finer import Segments, by_superpixel, by_word
from assay.units import Ground, Patches, Words
from assay.values import Array, texts

LONG = " ".join(f"w{place}" for place in range(48))  # three words a run


def has(text: str, *names: str) -> float:
    return float(set(names) <= set(text.split()))


def score(inputs: Array) -> Array:
    """w4 adds 2; w3 and w5, of the same run, add 1 together; w4 and w40, of two runs, add 0.5 together."""
    return np.array([[2 * has(t, "w4") + has(t, "w3", "w5") + 0.5 * has(t, "w4", "w40")] for t in inputs.tolist()])


def test_words_have_their_shapley_values_and_stand_in_their_runs() -> None:
    (parts,) = by_word(score, texts([LONG]), Words(), target=np.array([0]), rng=np.random.default_rng(1))
    found = {part.name: part.value for part in parts}
    expected = {"w4": 2.25, "w3": 0.5, "w5": 0.5, "w40": 0.25}
    assert [part.name for part in parts] == LONG.split()
    for name, value in found.items():
        assert value == pytest.approx(expected.get(name, 0.0), abs=1e-9)
    for unit, run in enumerate(Words().runs(LONG)):
        assert [part.name for part in parts if part.unit == unit] == run.split()


def test_a_word_that_matters_in_a_run_that_cancels_is_found() -> None:
    def cancels(inputs: Array) -> Array:
        return np.array([[has(t, "w3") - has(t, "w4")] for t in inputs.tolist()])

    (parts,) = by_word(cancels, texts([LONG]), Words(), target=np.array([0]), rng=np.random.default_rng(1))
    found = {part.name: part.value for part in parts}
    assert found["w3"] == pytest.approx(1)
    assert found["w4"] == pytest.approx(-1)


def test_of_a_very_long_text_neighbours_stay_together() -> None:
    told = " ".join(f"w{place}" for place in range(300))
    (parts,) = by_word(score, texts([told]), Words(), target=np.array([0]), rng=np.random.default_rng(1))
    assert len(parts) == 100
    found = {part.name: part.value for part in parts}
    assert found["w3 w4 w5"] == pytest.approx(3.25)
    assert found["w39 w40 w41"] == pytest.approx(0.25)


def test_an_empty_text_has_no_words() -> None:
    assert by_word(score, texts([""]), Words(), target=np.array([0]), rng=np.random.default_rng(1)) == [[]]


def test_chinese_is_taken_apart_by_characters() -> None:
    told = texts(["这部电影真的很好看我们都喜欢它的故事和音乐还有演员们的表演"])

    def likes(inputs: Array) -> Array:
        return np.array([[float("喜" in text)] for text in inputs.tolist()])

    (parts,) = by_word(likes, told, Words("zh"), target=np.array([0]), rng=np.random.default_rng(0))
    assert max(parts, key=lambda part: part.value).name == "喜"


def planted(num: int) -> tuple[Array, Array]:
    """Pictures of noise with a red disc somewhere, and where it is `(R, H, W)`."""
    rng = np.random.default_rng(0)
    places = np.stack(np.mgrid[:32, :32])
    pictures, discs = rng.normal((60, 110, 90), 12, (num, 32, 32, 3)), np.zeros((num, 32, 32), dtype=bool)
    for row in range(num):
        middle, radius = rng.uniform(9, 22, 2), rng.uniform(3, 6)
        discs[row] = ((places - middle[:, None, None]) ** 2).sum(axis=0) < radius**2
    pictures[discs] = rng.normal((210, 40, 50), 12, (int(discs.sum()), 3))
    return pictures.clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2), discs


def reds(inputs: Array) -> Array:
    """How much of a picture is red: more of it adds less and less."""
    red = (inputs[:, 0].astype(float) - inputs[:, 1] > 60).sum(axis=(1, 2))
    return np.stack([-np.sqrt(red), np.sqrt(red)], axis=1)


def overlap(pixels: Array, disc: Array) -> float:
    """Intersection over union of the disc with what holds more than a third of the largest value of a pixel."""
    named = pixels > pixels.max() / 3
    return float((named & disc).sum() / (named | disc).sum())


def test_superpixels_find_an_object_that_decides_better_than_patches() -> None:
    pictures, discs = planted(8)
    start, target, rng = np.full((3, 32, 32), 90, dtype=np.uint8), np.ones(8, dtype=int), np.random.default_rng(0)
    found = by_superpixel(reds, pictures, start, target=target, rng=rng)
    ours = [overlap(one.pixels, disc) for one, disc in zip(found, discs, strict=True)]
    ground = Ground(start[None], Patches((3, 32, 32)))
    values = shapley(masked_passes(reds, pictures, ground, num_coalitions=450, rng=rng, target=target)).values
    sides = values[:, Patches((3, 32, 32)).owner]
    patches = [overlap(one, disc) for one, disc in zip(sides, discs, strict=True)]
    assert np.mean(ours) > 0.8
    assert np.mean(ours) > np.mean(patches) + 0.3
    for one, picture in zip(found, pictures, strict=True):
        change = (reds(picture[None]) - reds(start[None]))[0, 1]
        assert one.values.sum() == pytest.approx(change)
        assert one.region_values.sum() == pytest.approx(change)
        assert one.region_values.max() > 0.7 * change  # the disc is in few regions


def test_pixels_of_a_superpixel_share_its_value() -> None:
    one = Segments(np.zeros((1, 2, 2)), np.array([[0, 0], [0, 1]]), np.array([6.0, 1.0]))
    assert one.pixels.tolist() == [[2, 2], [2, 1]]
    assert one.region_values.tolist() == [6, 1]  # as many regions as superpixels, being few
