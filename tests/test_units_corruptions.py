"""Corruptions are what their formulas say, by closed forms and by scikit-image, SciPy and Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy.ndimage import convolve, gaussian_filter

from assay.units import corrupted_pixels, corrupted_rows, corrupted_texts
from assay.units.corrupted_pixels import COLOUR, GREY, SEVERITIES
from assay.units.text import words
from assay.values import Column, texts

RANGE = (0.0, 255.0)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_draws(monkeypatch):
    """Every test draws the same numbers, whichever ran before it in this process."""
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


PICTURES = {
    "grey": RNG.integers(0, 256, (12, 1, 28, 28)).astype(np.uint8),
    "colour": RNG.integers(0, 256, (6, 3, 32, 30)).astype(np.uint8),
    "tiny": RNG.integers(0, 256, (4, 1, 6, 9)).astype(np.uint8),
}


def spoilt(name, pixels, severity, seed=0):
    return corrupted_pixels.corrupted(name, pixels, severity, RANGE, np.random.default_rng(seed))


@pytest.mark.parametrize("name", corrupted_pixels.CORRUPTIONS)
def test_corrupted_pictures_are_pictures_and_worse_at_higher_severity(name):
    for kind, pixels in PICTURES.items():
        kept = pixels.copy()
        for severity in SEVERITIES:
            found = spoilt(name, pixels, severity)
            assert found.shape == pixels.shape
            assert found.dtype == np.float32
            assert (found == np.round(found)).all()
            assert 0 <= found.min() <= found.max() <= 255
            assert np.array_equal(found, spoilt(name, pixels, severity))
        assert np.array_equal(kept, pixels), kind
    smooth = gaussian_filter(np.random.default_rng(1).normal(size=(30, 1, 28, 28)), (0, 0, 1.5, 1.5))
    smooth = np.round(127 + 70 * smooth / smooth.std()).clip(0, 255)
    damage = [np.square(spoilt(name, smooth, severity) - smooth).mean() for severity in SEVERITIES]
    if name != "elastic":  # its published first severity moves the corners furthest
        assert damage[::2] == sorted(damage[::2])
        assert damage[1] < damage[3] < damage[4]
    assert damage[0] > 0


def test_noise_agrees_with_its_distribution():
    grey = np.full((60, 1, 28, 28), 102, dtype=np.uint8)  # 0.4
    for severity in (1, 3):
        noise = spoilt("gaussian_noise", grey, severity) / 255 - 0.4
        assert np.median(np.abs(noise)) == pytest.approx(0.6745 * GREY["gaussian_noise"][severity - 1], rel=0.03)
        shot = spoilt("shot_noise", grey, severity) / 255
        inside = shot < 1
        assert shot[inside].mean() == pytest.approx(0.4, rel=0.02)
        assert shot.var() == pytest.approx(0.4 / GREY["shot_noise"][severity - 1], rel=0.1)
        lost = spoilt("impulse_noise", grey, severity)
        share = GREY["impulse_noise"][severity - 1]
        assert (lost == 0).mean() == pytest.approx(share / 2, abs=0.005)
        assert (lost == 255).mean() == pytest.approx(share / 2, abs=0.005)


def dense(taps):
    reach = max(max(abs(down), abs(across)) for down, across in taps)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for (down, across), weight in taps.items():
        kernel[reach + down, reach + across] = weight
    return kernel


@pytest.mark.parametrize(
    "taps", [corrupted_pixels.disk(2.5), corrupted_pixels.disk(0.3), corrupted_pixels.streak(9, 2.5, angle=0.5)]
)
def test_filters_agree_with_scipy(taps):
    unit = PICTURES["grey"][:2].astype(np.float32) / 255
    assert sum(taps.values()) == pytest.approx(1)
    kernel = dense(taps)[::-1, ::-1]
    expected = [convolve(one[0].astype(np.float64), kernel, mode="mirror") for one in unit]
    np.testing.assert_allclose(corrupted_pixels.filtered(unit, taps)[:, 0], expected, atol=1e-5)


def test_a_disk_has_the_area_of_a_disk():
    taps = corrupted_pixels.disk(3.0, fine=64)
    assert max(taps.values()) == pytest.approx(1 / (np.pi * 9), rel=0.005)
    assert np.sum([weight * (down**2 + across**2) for (down, across), weight in taps.items()]) == pytest.approx(
        9 / 2 + 1 / 6, rel=0.05
    )  # second moment of a disk, and that of putting it into pixels


def test_light_agrees_with_its_formula():
    pixels = PICTURES["colour"] // 3 + 20
    unit = pixels / 255
    for severity in SEVERITIES:
        value = unit.max(axis=1, keepdims=True)
        raised = np.minimum(value + COLOUR["brightness"][severity - 1], 1) / value * unit
        np.testing.assert_allclose(spoilt("brightness", pixels, severity), np.round(raised * 255), atol=1)
        mean = unit.mean(axis=(2, 3), keepdims=True)
        flat = mean + COLOUR["contrast"][severity - 1] * (unit - mean)
        np.testing.assert_allclose(spoilt("contrast", pixels, severity), np.round(flat * 255), atol=1)


def test_brightness_is_the_published_one():
    from skimage import color

    pixels = PICTURES["colour"]
    hsv = color.rgb2hsv(pixels.transpose(0, 2, 3, 1))
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.15, 0, 1)
    expected = np.round(color.hsv2rgb(hsv).transpose(0, 3, 1, 2) * 255)
    np.testing.assert_allclose(spoilt("brightness", pixels, 3), expected, atol=1)


def published_height_map(rng, mapsize, decay):
    """The loops of the published code, cell by cell."""
    heights = np.zeros((mapsize, mapsize))
    step, noise = mapsize, 100.0
    while step >= 2:
        half = step // 2
        told = noise * rng.uniform(-noise, noise, (mapsize // step, mapsize // step))
        for i in range(0, mapsize, step):
            for j in range(0, mapsize, step):
                corners = sum(heights[(i + a) % mapsize, (j + b) % mapsize] for a in (0, step) for b in (0, step))
                heights[i + half, j + half] = corners / 4 + told[i // step, j // step]
        first = noise * rng.uniform(-noise, noise, told.shape)
        second = noise * rng.uniform(-noise, noise, told.shape)
        for i in range(0, mapsize, step):
            for j in range(0, mapsize, step):
                around = [(i, j), (i, (j + step) % mapsize), (i + half, j + half), ((i - half) % mapsize, j + half)]
                heights[i, j + half] = sum(heights[place] for place in around) / 4 + first[i // step, j // step]
                around = [(i, j), ((i + step) % mapsize, j), (i + half, j + half), (i + half, (j - half) % mapsize)]
                heights[i + half, j] = sum(heights[place] for place in around) / 4 + second[i // step, j // step]
        step, noise = half, noise / decay
    heights -= heights.min()
    return heights / heights.max()


def test_fog_is_the_published_one(monkeypatch):
    monkeypatch.setattr(corrupted_pixels, "FOG_MAP", 16)
    ours = corrupted_pixels.height_map(2.0, np.random.default_rng(3))
    np.testing.assert_allclose(ours, published_height_map(np.random.default_rng(3), 16, 2.0), atol=1e-12)


def test_coarse_pixels_agree_with_pillow():
    image = pytest.importorskip("PIL.Image")
    picture = PICTURES["grey"][0, 0]
    for severity in SEVERITIES:
        side = int(28 * GREY["pixelate"][severity - 1])
        shown = image.fromarray(picture).resize((side, side), image.Resampling.BOX)
        expected = np.asarray(shown.resize((28, 28), image.Resampling.BOX), dtype=float)
        found = spoilt("pixelate", PICTURES["grey"][:1], severity)[0, 0]
        assert np.abs(found - expected).max() <= 1.5, severity  # Pillow rounds in between


def test_jpeg_agrees_with_pillow():
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(5)
    picture = np.clip(np.add.outer(np.arange(28.0), np.arange(28.0)) * 4 + rng.normal(0, 12, (28, 28)), 0, 255)
    picture = picture.astype(np.uint8)
    for severity in SEVERITIES:
        file = io.BytesIO()
        image.fromarray(picture).save(file, "JPEG", quality=GREY["jpeg"][severity - 1])
        expected = np.asarray(image.open(file), dtype=float)
        found = spoilt("jpeg", picture[None, None], severity)[0, 0]
        inner = np.abs(found - expected)[:24, :24]  # the last blocks are padded by each in its own way
        assert (inner <= 2).mean() > 0.85  # a term that lies half-way may be rounded either way, which moves a block
        assert np.mean(inner) < 1.2


def test_geometry_agrees_with_closed_forms():
    ramp = np.broadcast_to(np.add.outer(2 * np.arange(28.0), np.arange(28.0)) / 100, (3, 1, 28, 28)).astype(np.float32)
    still = np.zeros((3, 3, 2))
    waves = np.zeros((2, 3, 28, 28))
    np.testing.assert_allclose(
        corrupted_pixels.moved(ramp, corrupted_pixels.affine(still, (28, 28)), waves), ramp, atol=1e-6
    )
    waves[0], waves[1] = 0.25, -0.5  # between pixels a ramp is itself
    found = corrupted_pixels.moved(ramp, corrupted_pixels.affine(still, (28, 28)), waves)
    np.testing.assert_allclose(found[:, :, 2:-2, 2:-2], ramp[:, :, 2:-2, 2:-2] + (2 * 0.25 - 0.5) / 100, atol=1e-6)
    moves = np.random.default_rng(1).uniform(-2, 2, (3, 3, 2))
    maps = corrupted_pixels.affine(moves, (28, 28))
    corners = np.array([14, 14]) + 9 * np.array([[1, 1], [1, -1], [-1, -1]])
    ends = np.concatenate([corners + moves, np.ones((3, 3, 1))], axis=2)
    np.testing.assert_allclose(np.einsum("nij,nkj->nki", maps, ends), np.broadcast_to(corners, (3, 3, 2)), atol=1e-9)


def test_translation_moves_every_pixel_alike():
    for severity in SEVERITIES:
        found = spoilt("translate", PICTURES["grey"], severity)
        for old, new in zip(PICTURES["grey"][:, 0], found[:, 0], strict=True):
            fits = [
                (np.roll(old, (a, b), (0, 1))[s:-s, s:-s] == new[s:-s, s:-s]).all()
                for s in [severity]
                for a in (-s, s)
                for b in (-s, s)
            ]
            assert any(fits)
            assert (new == 0).sum() >= 28 * severity


# ------------------------------------------------------------------ texts


TOLD = texts(["the quick brown fox jumps over the lazy dog again"] * 400)


@pytest.mark.parametrize("name", corrupted_texts.CORRUPTIONS)
def test_a_share_of_the_words_is_changed(name):
    for severity, share in zip((1, 3, 5), (0.05, 0.2, 0.5), strict=True):
        found = corrupted_texts.corrupted(name, TOLD, severity, "en", np.random.default_rng(severity)).tolist()
        again = corrupted_texts.corrupted(name, TOLD, severity, "en", np.random.default_rng(severity)).tolist()
        assert found == again
        before = TOLD.tolist()[0].split()
        if name == "dropped_words":
            assert np.mean([1 - len(one.split()) / 10 for one in found]) == pytest.approx(share, abs=0.02)
        elif name == "spacing":
            assert np.mean([1 - (len(one.split()) - 1) / 9 for one in found]) == pytest.approx(share, abs=0.03)
        elif name == "casing":
            turned = [sum(a != b for a, b in zip(one.split(), before, strict=True)) / 10 for one in found]
            assert np.mean(turned) == pytest.approx(share, abs=0.02)
        elif name == "word_order":
            assert all(sorted(one.split()) == sorted(before) for one in found)
            assert np.mean([one.split() != before for one in found]) > 1 - (1 - share) ** 4


def test_chinese_has_no_case_and_gains_spaces():
    assert "casing" not in corrupted_texts.kinds("zh")
    assert "casing" in corrupted_texts.kinds("en")
    told = texts(["这部电影很好看"] * 50)
    spaced = corrupted_texts.corrupted("spacing", told, 5, "zh", np.random.default_rng(0)).tolist()
    assert all(one.replace(" ", "") == "这部电影很好看" for one in spaced)
    swapped = corrupted_texts.corrupted("word_order", told, 5, "zh", np.random.default_rng(0)).tolist()
    assert all(sorted(words(one, "zh")) == sorted(words("这部电影很好看", "zh")) for one in swapped)
    assert len(set(swapped)) > 3


# ------------------------------------------------------------------ tables


COLUMNS = (Column("x", "numeric", low=-3, high=3), Column("age", "numeric"), Column("job", "categorical", ("a", "b")))


def table(num=4000):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=num), rng.integers(20, 60, num), rng.integers(0, 2, num)]
    return np.stack(parts, axis=1).astype(np.float32)


def test_rows_are_changed_by_the_stated_amounts():
    rows = table()
    kept = rows.copy()
    for severity in SEVERITIES:
        made = {
            name: corrupted_rows.corrupted(name, rows, severity, COLUMNS, np.random.default_rng(severity))
            for name in corrupted_rows.CORRUPTIONS
        }
        assert all(one.dtype == np.float32 and one.shape == rows.shape for one in made.values())
        noise, shift = made["noise"] - rows, made["shift"] - rows
        assert noise[:, 0].std() == pytest.approx(corrupted_rows.NOISE[severity - 1], rel=0.05)
        assert (made["noise"][:, 1] == np.round(made["noise"][:, 1])).all()
        assert not noise[:, 2].any()
        np.testing.assert_allclose(np.abs(shift[:, 0]), corrupted_rows.SHIFT[severity - 1], rtol=0.05)
        share = corrupted_rows.SHARES[severity - 1]
        wrong = made["unit_error"] != rows
        assert wrong.any(axis=1).mean() == pytest.approx(share, abs=0.03)
        assert (wrong.sum(axis=1) <= 1).all()
        factors = made["unit_error"][:, 1][wrong[:, 1]] / rows[:, 1][wrong[:, 1]]
        assert set(np.round(factors, 3)) == {10.0, 100.0}
        empty = np.isnan(made["missing_cells"]) | (made["missing_cells"] == -1)
        assert empty.mean() == pytest.approx(share, abs=0.02)
        assert np.isnan(made["missing_cells"][:, :2]).any()
        assert not np.isnan(made["missing_cells"][:, 2]).any()
        swapped = made["category_swap"][:, 2] != rows[:, 2]
        assert swapped.mean() == pytest.approx(share / 2, abs=0.03)
        assert np.array_equal(made["category_swap"][:, :2], rows[:, :2])
    assert np.array_equal(rows, kept)
    assert corrupted_rows.kinds(COLUMNS[:1]) == ("noise", "shift", "unit_error", "missing_cells")
