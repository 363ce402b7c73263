"""Small changes of pictures: what a worse camera, another light or a finger on the lens does.

Every function takes pixels `(N, C, H, W)` and the range they may have, and gives float32 whole numbers in that range.
Source: Hendrycks and Dietterich 2019, appendix A (kinds and sizes); DeVries and Taylor 2017, section 3 (occlusion).
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from assay.values import Array

Range = tuple[float, float]


def noisy(pixels: Array, level: float, known: Range, rng: np.random.Generator) -> Array:
    """Independent normal noise on every pixel, with a standard deviation of `level` of the range.

    >>> grey = np.full((1, 1, 2, 2), 128, dtype=np.uint8)
    >>> noisy(grey, 0.0, (0, 255), np.random.default_rng(0)).ravel().tolist()
    [128.0, 128.0, 128.0, 128.0]
    """
    width = known[1] - known[0]
    noise = rng.standard_normal(pixels.shape, dtype=np.float32)
    return settled(pixels + np.float32(level * width) * noise, known)


def brighter(pixels: Array, level: float, known: Range) -> Array:
    """Every pixel raised by `level` of the range.

    >>> brighter(np.array([[[[0, 250]]]], dtype=np.uint8), 0.2, (0, 255)).ravel().tolist()
    [51.0, 255.0]
    """
    return settled(pixels + np.float32(level * (known[1] - known[0])), known)


def flatter(pixels: Array, level: float, known: Range) -> Array:
    """Contrast: distances from each picture's mean colour times `level`, below 1.

    >>> flatter(np.array([[[[0, 200]]]], dtype=np.uint8), 0.5, (0, 255)).ravel().tolist()
    [50.0, 150.0]
    """
    mean = pixels.mean(axis=(2, 3), keepdims=True, dtype=np.float32)
    return settled(mean + np.float32(level) * (pixels - mean), known)


def blurred(pixels: Array, level: float, known: Range) -> Array:
    """A Gaussian blur with a standard deviation of `level` pixels; the edge goes on outside.

    >>> blurred(np.array([[[[0, 0, 200, 0, 0]]]], dtype=np.uint8), 1.0, (0, 255)).ravel().tolist()
    [11.0, 48.0, 80.0, 48.0, 11.0]
    """
    return settled(gaussian_filter(pixels.astype(np.float32), (0, 0, level, level), mode="nearest"), known)


def occluded(pixels: Array, level: float, known: Range, rng: np.random.Generator) -> Array:
    """One rectangle of `level` times each side, anywhere inside the picture, filled with the picture's mean colour.

    >>> half = np.array([[[[0, 0, 100, 100]]]], dtype=np.uint8)
    >>> occluded(half, 1.0, (0, 255), np.random.default_rng(0)).ravel().tolist()
    [50.0, 50.0, 50.0, 50.0]
    """
    height, width = pixels.shape[2:]
    tall, wide = max(1, round(level * height)), max(1, round(level * width))
    down = np.arange(height) - rng.integers(0, height - tall + 1, len(pixels))[:, None]
    across = np.arange(width) - rng.integers(0, width - wide + 1, len(pixels))[:, None]
    inside = ((down >= 0) & (down < tall))[:, None, :, None] & ((across >= 0) & (across < wide))[:, None, None, :]
    mean = pixels.mean(axis=(2, 3), keepdims=True, dtype=np.float32)
    return settled(np.where(inside, mean, pixels.astype(np.float32)), known)


def settled(pixels: Array, known: Range) -> Array:
    """As a file would hold them: whole numbers in the range."""
    whole: Array = np.clip(np.round(pixels), *known).astype(np.float32)
    return whole
