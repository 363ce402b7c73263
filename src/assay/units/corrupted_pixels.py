"""Twelve ways in which a picture goes wrong, at five severities: a worse camera, other light, weather, a coarse copy.

Every function takes pixels `(N, C, H, W)` scaled to 0..1, a severity from 1 to 5 and a stream of random numbers, and
gives pixels of the same shape. Grey pictures take the severities of MNIST-C, colour pictures those of CIFAR-10-C, with
lengths in pixels scaled from sides of 28 and 32.
Source: Mu and Gilmer 2019, MNIST-C, appendix A and corruptions.py; Hendrycks and Dietterich 2019, section 4 and
make_cifar_c.py; ITU-T T.81 annex K (quantisation of JPEG).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import gaussian_filter, map_coordinates

from assay.units.pixels import Range, settled
from assay.values import Array

SEVERITIES = (1, 2, 3, 4, 5)
FOG_MAP = 256  # side of the height map that pieces of fog are cut from; a power of two
# By kind: what severity 1 to 5 means for grey and for colour pictures.
GREY: Mapping[str, tuple[float, ...]] = {
    "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": (60, 25, 12, 5, 3),
    "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": (0.8, 1.2, 1.8, 2.5, 3.5),  # the published 3 to 10 pixels leave nothing of a digit
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg": (25, 18, 15, 10, 7),
}
GREY_PAIRS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "fog": ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
}
COLOUR: Mapping[str, tuple[float, ...]] = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": (500, 250, 100, 75, 50),
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": (0.3, 0.4, 0.5, 1.0, 1.5),
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg": (80, 65, 58, 50, 40),
}
COLOUR_PAIRS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "fog": ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
}
# Size of the waves and their smoothness, and how far three corners move, as shares of the side (CIFAR-10-C).
ELASTIC = ((0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)  # table K.1

Corruption = Callable[[Array, int, np.random.Generator], Array]


def corrupted(name: str, pixels: Array, severity: int, known: Range, rng: np.random.Generator) -> Array:
    """Pixels `(N, C, H, W)` in their own range, corrupted: float32 whole numbers in that range.

    >>> grey = np.full((1, 1, 4, 4), 100, dtype=np.uint8)
    >>> corrupted("brightness", grey, 2, (0, 255), np.random.default_rng(0)).max()
    np.float32(151.0)
    """
    width = known[1] - known[0]
    unit = (pixels.astype(np.float32) - np.float32(known[0])) / np.float32(width)
    return settled(np.clip(CORRUPTIONS[name](unit, severity, rng), 0, 1) * width + known[0], known)


def _sized(name: str, unit: Array, severity: int) -> float:
    return float((GREY if unit.shape[1] == 1 else COLOUR)[name][severity - 1])


def _pair(name: str, unit: Array, severity: int) -> tuple[float, float]:
    pair = (GREY_PAIRS if unit.shape[1] == 1 else COLOUR_PAIRS)[name][severity - 1]
    return pair[0], pair[1]


def _scale(unit: Array) -> float:
    """Side of these pictures over that of the pictures the severities were chosen for."""
    return float(min(unit.shape[2:])) / (28 if unit.shape[1] == 1 else 32)


# ------------------------------------------------------------------ noise


def gaussian_noise(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """Normal noise of s on every pixel: a sensor that is too warm."""
    noise = rng.standard_normal(unit.shape, dtype=np.float32)
    found: Array = unit + np.float32(_sized("gaussian_noise", unit, severity)) * noise
    return found


def shot_noise(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """Poisson(c x) / c: too little light."""
    count = _sized("shot_noise", unit, severity)
    found: Array = (rng.poisson(unit * count) / count).astype(np.float32)
    return found


def impulse_noise(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """A share of the pixels turned black or white, half each: bits that were lost."""
    share = _sized("impulse_noise", unit, severity)
    drawn = rng.random(unit.shape, dtype=np.float32)
    return np.where(drawn < share / 2, np.float32(0), np.where(drawn < share, np.float32(1), unit))


# ------------------------------------------------------------------ blur


def defocus_blur(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """Mean over a disk: a lens out of focus. `rng` is not used."""
    return filtered(unit, disk(_sized("defocus_blur", unit, severity) * _scale(unit)))


def motion_blur(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """Half a Gaussian along a line of one of nine angles from -45 to 45 degrees, drawn for each picture."""
    radius, spread = (size * _scale(unit) for size in _pair("motion_blur", unit, severity))
    angles = rng.integers(0, 9, len(unit))
    found = np.empty_like(unit)
    for place in range(9):
        mine = angles == place
        found[mine] = filtered(unit[mine], streak(radius, spread, angle=np.pi / 4 * (place - 4) / 4))
    return found


def disk(radius: float, *, fine: int = 16) -> Mapping[tuple[int, int], float]:
    """Share of a disk's area that falls on each pixel, by offset (down, across); sums to 1.

    >>> {offset: round(share, 2) for offset, share in disk(0.5).items()}
    {(0, 0): 1.0}
    """
    reach = int(np.ceil(radius + 0.5))
    steps = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - 0.5 - reach
    inside = steps[:, None] ** 2 + steps[None, :] ** 2 <= max(radius, 1e-3) ** 2
    shares = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).sum(axis=(1, 3)) / max(inside.sum(), 1)
    if not inside.any():
        return {(0, 0): 1.0}
    return {
        (down - reach, across - reach): float(shares[down, across]) for down, across in np.argwhere(shares > 0).tolist()
    }


def streak(radius: float, spread: float, *, angle: float) -> Mapping[tuple[int, int], float]:
    """Weights exp(-i^2 / 2 spread^2) at i = 0 .. 2 radius pixels along a line, shared among the pixels they fall on."""
    steps = np.arange(2 * round(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * spread**2))
    found: dict[tuple[int, int], float] = {}
    for step, weight in zip(steps.tolist(), (weights / weights.sum()).tolist(), strict=True):
        down, across = step * np.sin(angle), step * np.cos(angle)
        for row in (int(np.floor(down)), int(np.floor(down)) + 1):
            for column in (int(np.floor(across)), int(np.floor(across)) + 1):
                share = max(0.0, 1 - abs(down - row)) * max(0.0, 1 - abs(across - column))
                if share > 1e-9:
                    found[row, column] = found.get((row, column), 0.0) + weight * share
    return found


def filtered(unit: Array, taps: Mapping[tuple[int, int], float]) -> Array:
    """Weighted sum of shifted pictures; outside the edge the picture is mirrored."""
    reach = max(max(abs(down), abs(across)) for down, across in taps)
    height, width = unit.shape[2:]
    padded = np.pad(unit, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    found = np.zeros_like(unit)
    for (down, across), weight in taps.items():
        rows = slice(reach + down, reach + down + height)
        found += np.float32(weight) * padded[:, :, rows, reach + across : reach + across + width]
    return found


# ------------------------------------------------------------------ weather and light


def fog(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """(x + c f) m / (m + c), f a piece of a fractal height map, m the picture's maximum: as the published code has it.

    One map of 256 x 256 for all pictures, which repeats without an edge; each picture gets a piece of its own.
    """
    amount, decay = _pair("fog", unit, severity)
    heights = height_map(decay, rng)
    count, _, height, width = unit.shape
    down = (rng.integers(0, FOG_MAP, (count, 1)) + np.arange(height)) % FOG_MAP
    across = (rng.integers(0, FOG_MAP, (count, 1)) + np.arange(width)) % FOG_MAP
    pieces = heights[down[:, :, None], across[:, None, :]][:, None]
    most: Array = unit.max(axis=(1, 2, 3), keepdims=True)
    found: Array = ((unit + amount * pieces) * most / (most + amount)).astype(np.float32)
    return found


def height_map(decay: float, rng: np.random.Generator) -> Array:
    """Diamond-square heights `(256, 256)` from 0 to 1, whose noise falls by `decay` as the steps halve."""
    heights, step, noise = np.zeros((FOG_MAP, FOG_MAP)), FOG_MAP, 100.0

    def rough(total: Array) -> Array:
        return total / 4 + noise * rng.uniform(-noise, noise, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        squares = corners + np.roll(corners, -1, axis=0)
        squares += np.roll(squares, -1, axis=1)
        heights[half::step, half::step] = rough(squares)
        middles = heights[half::step, half::step]
        upright, level = corners + np.roll(corners, -1, axis=1), corners + np.roll(corners, -1, axis=0)
        heights[::step, half::step] = rough(middles + np.roll(middles, 1, axis=0) + upright)
        heights[half::step, ::step] = rough(middles + np.roll(middles, 1, axis=1) + level)
        step, noise = half, noise / decay
    heights -= heights.min()
    found: Array = heights / heights.max()
    return found


def brightness(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """The value of hue, saturation and value raised: every colour times the same. `rng` is not used."""
    value = unit.max(axis=1, keepdims=True)
    raised = np.minimum(value + np.float32(_sized("brightness", unit, severity)), 1)
    found: Array = np.where(value > 0, unit * (raised / np.maximum(value, np.float32(1e-6))), raised)
    return found


def contrast(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """Distances from each picture's mean colour made smaller. `rng` is not used."""
    mean = unit.mean(axis=(2, 3), keepdims=True)
    found: Array = mean + np.float32(_sized("contrast", unit, severity)) * (unit - mean)
    return found


# ------------------------------------------------------------------ coarse copies


def pixelate(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """Down to a share of the pixels by boxes, and up again by boxes. `rng` is not used."""
    share = _sized("pixelate", unit, severity)
    found = unit
    for axis, size in zip((2, 3), unit.shape[2:], strict=True):
        fewer = max(1, int(size * share))
        found = np.moveaxis(np.moveaxis(found, axis, -1) @ (boxes(size, fewer) @ boxes(fewer, size)).T, -1, axis)
    return found.astype(np.float32)


def boxes(few: int, many: int) -> Array:
    """`(few, many)`: the mean over the pixels whose middle lies in each new one, as Pillow resizes; rows sum to 1.

    >>> boxes(2, 4).tolist(), boxes(3, 2).argmax(axis=1).tolist()
    ([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]], [0, 1, 1])
    """
    scale = many / few
    middles = (np.arange(few) + 0.5) * scale
    away = (np.arange(many) + 0.5 - middles[:, None]) / max(scale, 1.0)
    inside = ((away > -0.5) & (away <= 0.5)).astype(np.float64)
    found: Array = inside / inside.sum(axis=1, keepdims=True)
    return found


def jpeg(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """Blocks of 8 x 8 through a cosine transform whose terms are rounded: what JPEG loses. `rng` is not used.

    Every channel is treated as brightness: there is no sub-sampling of colour.
    """
    quality = _sized("jpeg", unit, severity)
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = np.clip(np.floor((LUMINANCE * scale + 50) / 100), 1, 255)
    height, width = unit.shape[2:]
    spare = [(0, 0), (0, 0), (0, -height % 8), (0, -width % 8)]
    padded = np.pad(np.round(unit * 255) - 128, spare, mode="edge")
    tall, wide = padded.shape[2] // 8, padded.shape[3] // 8
    blocks = padded.reshape(*padded.shape[:2], tall, 8, wide, 8).swapaxes(3, 4)
    terms = np.round(dctn(blocks, axes=(4, 5), norm="ortho") / table) * table
    shown = idctn(terms, axes=(4, 5), norm="ortho").swapaxes(3, 4).reshape(padded.shape)
    found: Array = ((np.round(shown) + 128) / 255)[:, :, :height, :width].astype(np.float32)
    return found


# ------------------------------------------------------------------ geometry


def elastic(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """A random affine map that moves three corners, and smooth waves; what comes from outside mirrors the inside."""
    size, smooth, corner = ELASTIC[severity - 1]
    side = float(min(unit.shape[2:]))
    waves = rng.uniform(-1, 1, (2, len(unit), *unit.shape[2:]))
    if size:
        smoothed = gaussian_filter(waves, (0, 0, smooth * side, smooth * side), mode="reflect", truncate=3)
        waves = smoothed * size * side
    moves = rng.uniform(-corner * side, corner * side, (len(unit), 3, 2))
    return moved(unit, affine(moves, unit.shape[2:]), waves if size else np.zeros_like(waves))


def affine(moves: Array, sides: tuple[int, ...]) -> Array:
    """Inverse maps `(N, 2, 3)` of the affine maps that move three corners around the middle by `moves (N, 3, 2)`."""
    middle, reach = np.array(sides) // 2, min(sides) // 3
    corners = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    ends = np.concatenate([corners + moves, np.ones((len(moves), 3, 1))], axis=2)
    found: Array = np.linalg.solve(ends, np.broadcast_to(corners.astype(float), (len(moves), 3, 2))).swapaxes(1, 2)
    return found


def moved(unit: Array, maps: Array, waves: Array) -> Array:
    """Each pixel taken from where `maps (N, 2, 3)` and then `waves (2, N, H, W)` say, between pixels linearly."""
    count, channels, height, width = unit.shape
    grid = np.stack([*np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), np.ones((height, width))])
    places = np.einsum("nij,jhw->inhw", maps, grid) + waves
    rows = np.broadcast_to(np.arange(count)[:, None, None], (count, height, width))
    found = np.empty_like(unit)
    for channel in range(channels):
        found[:, channel] = map_coordinates(unit[:, channel], [rows, *places], order=1, mode="reflect")
    return found


def translate(unit: Array, severity: int, rng: np.random.Generator) -> Array:
    """Moved by 1 to 5 pixels (of 28) along both sides, in a drawn direction; what comes in is black."""
    far = max(1, round(severity * min(unit.shape[2:]) / 28))
    signs = rng.integers(0, 2, (len(unit), 2)) * 2 - 1
    found = np.zeros_like(unit)
    for down in (-1, 1):
        for across in (-1, 1):
            mine = (signs == (down, across)).all(axis=1)
            new, old = _shifted(down * far, unit.shape[2]), _shifted(across * far, unit.shape[3])
            found[np.ix_(mine, np.arange(unit.shape[1]), new[0], old[0])] = unit[mine][:, :, new[1]][:, :, :, old[1]]
    return found


def _shifted(far: int, size: int) -> tuple[Array, Array]:
    """Places after and before a shift, of the pixels that stay inside."""
    before = np.arange(max(0, -far), min(size, size - far))
    return before + far, before


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise": gaussian_noise,
        "shot_noise": shot_noise,
        "impulse_noise": impulse_noise,
        "defocus_blur": defocus_blur,
        "motion_blur": motion_blur,
        "fog": fog,
        "brightness": brightness,
        "contrast": contrast,
        "pixelate": pixelate,
        "jpeg": jpeg,
        "elastic": elastic,
        "translate": translate,
    }
)
