"""Superpixels: every pixel in one, each connected, about as many as asked, along the edges that are there."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.ndimage import label

from assay.units.superpixels import REGIONS, _colours, regions, superpixels
from assay.values import Array

SHAPES = [(1, 28, 28), (3, 28, 28), (3, 40, 17), (1, 64, 64), (3, 12, 12), (2, 9, 30)]


def pictures(shape: tuple[int, int, int]) -> list[Array]:
    """Noise, blocks with noise, a slope, and one colour."""
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.repeat(rng.uniform(0, 255, (shape[0], 4, 4)), 16, axis=1), 16, axis=2)
    blocks = blocks[:, : shape[1], : shape[2]] + rng.normal(0, 5, shape)
    slope = np.broadcast_to(np.linspace(0, 255, shape[2]), shape)
    return [rng.uniform(0, 255, shape), blocks.clip(0, 255), slope, np.full(shape, 7.0)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_pixel_is_in_one_connected_piece_and_their_number_is_near_what_was_asked(
    shape: tuple[int, int, int],
) -> None:
    for kind, picture in enumerate(pictures(shape)):
        for num in (16, 100):
            labels = superpixels(picture.astype(np.uint8), num=num)
            count = int(labels.max()) + 1
            assert labels.shape == shape[1:]
            assert np.bincount(labels.ravel()).min() > 0
            assert all(label(labels == one)[1] == 1 for one in range(count))
            asked = min(num, shape[1] * shape[2] // 4)
            assert (0.4 if kind == 0 else 0.6) * asked <= count <= 1.25 * asked
            assert (labels == superpixels(picture.astype(np.uint8), num=num)).all()
            region = regions(labels, picture)
            assert region.shape == (count,)
            assert region.max() + 1 == min(REGIONS, count)
            assert all(label((region == one)[labels])[1] == 1 for one in range(region.max() + 1))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 7), (1, 2, 2), (3, 5, 1)])
def test_tiny_pictures_have_few(shape: tuple[int, int, int]) -> None:
    labels = superpixels(np.random.default_rng(0).uniform(0, 255, shape))
    assert labels.shape == shape[1:]
    assert labels.max() + 1 <= max(1, shape[1] * shape[2] // 4)
    assert regions(labels, np.zeros(shape)).shape == (labels.max() + 1,)


def test_the_range_of_pixels_does_not_matter() -> None:
    picture = pictures((3, 28, 28))[1].astype(np.uint8)
    assert (superpixels(picture) == superpixels(picture / 255, highest=1.0)).all()


def discs(num: int) -> tuple[Array, Array]:
    """Pictures of two colours with noise: a disc, and where it is."""
    rng = np.random.default_rng(1)
    places, found, inside = np.stack(np.mgrid[:48, :48]), [], []
    for _ in range(num):
        disc = ((places - rng.uniform(14, 34, 2)[:, None, None]) ** 2).sum(axis=0) < rng.uniform(6, 12) ** 2
        colours = rng.uniform(0, 255, (2, 3))
        found.append((colours[disc.astype(int)] + rng.normal(0, 8, (48, 48, 3))).clip(0, 255).transpose(2, 0, 1))
        inside.append(disc)
    return np.array(found).astype(np.uint8), np.array(inside)


def mixed(labels: Array, disc: Array) -> float:
    """Achievable error: share of the disc's pixels, and as many others, on the smaller side of their superpixel."""
    inside = np.bincount(labels.ravel(), disc.ravel())
    return float(np.minimum(inside, np.bincount(labels.ravel()) - inside).sum() / disc.sum())


def test_superpixels_keep_to_edges_that_a_grid_cuts() -> None:
    found, inside = discs(12)
    ours = np.mean([mixed(superpixels(one, num=64), disc) for one, disc in zip(found, inside, strict=True)])
    grid = np.arange(48)[:, None] // 6 * 8 + np.arange(48) // 6
    assert ours < 0.05
    assert ours < np.mean([mixed(grid, disc) for disc in inside]) / 4


@pytest.mark.peer
def test_superpixels_are_as_near_to_edges_as_scikit_images() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from skimage.color import rgb2lab
        from skimage.segmentation import slic
    found, inside = discs(12)
    for one in found[:3]:
        np.testing.assert_allclose(_colours(one, 255.0), rgb2lab(one.transpose(1, 2, 0)), atol=0.01)
    ours = [mixed(superpixels(one, num=64), disc) for one, disc in zip(found, inside, strict=True)]
    theirs = [
        mixed(slic(one.transpose(1, 2, 0), n_segments=64, compactness=20, start_label=0), disc)
        for one, disc in zip(found, inside, strict=True)
    ]
    assert np.mean(ours) <= np.mean(theirs) + 0.01
