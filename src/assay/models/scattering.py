"""Pictures through a fixed cascade of wavelets, then one linear layer: nothing but the layer is learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.models import from_signature, register_architecture
from assay.models.deskew import Deskew
from assay.models.image import image_shape
from assay.values import Array, Column

NUM_SCALES, SLANT, SIGMA, FREQUENCY = 2, 0.5, 0.8, 0.75 * math.pi
STRIDE = 2**NUM_SCALES  # answers are averages over windows this far apart
MARGIN = STRIDE  # pixels mirrored around a picture
ROWS_AT_ONCE = 64  # more, and the transforms leave the cache: twice as slow


class Scattering(nn.Module):
    r"""Averages of a picture, of its wavelet moduli, and of the moduli of those: `(N, C, H, W)` to `(N, C P, h, w)`.

    $S = [x * \phi,\ |x * \psi_{j\theta}| * \phi,\ ||x * \psi_{j\theta}| * \psi_{j'\theta'}| * \phi]$ with j < j', two
    scales, L = `num_angles`, Morlet wavelets $\psi$ and a Gaussian $\phi$ read every 4 pixels: P = 1 + 2 L + L^2 (81
    for L = 8), h = ceil(H / 4). Moving a picture by less than the window, or warping it slightly, hardly changes the
    answer. No parameter; differentiable. Limits: about 90 small Fourier transforms a picture, so let a training loop
    run it once (`prepare` of `ScatteringNetwork`).

    Source: Bruna & Mallat 2013, "Invariant Scattering Convolution Networks", section 3; the filters of Kymatio
    (Andreux et al. 2020).

    >>> Scattering(28, 28)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 81, 7, 7])
    """

    fine: Tensor
    coarse: Tensor

    def __init__(self, height: int, width: int, *, num_angles: int = 8) -> None:
        super().__init__()
        self.num_angles = num_angles
        self.num_paths = 1 + NUM_SCALES * num_angles + num_angles**2
        self.margins = [(MARGIN, MARGIN + -side % STRIDE) for side in (width, height)]  # padded to whole windows
        sides = [side + sum(margin) for side, margin in zip((width, height), self.margins, strict=True)]
        for j, name in enumerate(("fine", "coarse")):
            bank = [morlet(sides[1], sides[0], j, angle, num_angles) for angle in range(num_angles)]
            # Real to rounding: a Morlet wavelet at u and at -u is conjugate.
            self.register_buffer(name, torch.from_numpy(np.fft.fft2(bank).real.astype(np.float32)), persistent=False)
        for name, side in (("down", height), ("across", width)):
            for step in (1, 2):
                self.register_buffer(f"{name}_{step}", torch.from_numpy(windows(side, step)), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, C P, h, w)`, paths of a channel together."""
        num, channels = pixels.shape[:2]
        flat = pixels.reshape(num * channels, 1, *pixels.shape[2:])
        side, updown = self.margins
        wide = functional.pad(flat, (*side, *updown), mode="reflect")
        transformed = torch.fft.fft2(wide)
        fine = torch.fft.ifft2(transformed * self.fine).abs()
        paths = [
            self._averaged(torch.cat([wide, fine], dim=1), 1),
            self._averaged(self._coarse(transformed), 2),
            self._averaged(self._coarse(torch.fft.fft2(fine)[:, :, None]).flatten(1, 2), 2),
        ]
        averaged = torch.cat(paths, dim=1)
        return averaged.reshape(num, -1, *averaged.shape[2:])

    def _coarse(self, transformed: Tensor) -> Tensor:
        """`|x * psi|` for the coarse wavelets at every second pixel; folding a transform is that."""
        given = transformed * self.coarse
        high, wide = given.shape[-2] // 2, given.shape[-1] // 2
        half = given.reshape(*given.shape[:-2], 2, high, 2, wide).mean(dim=(-4, -2))
        found: Tensor = torch.fft.ifft2(half).abs()
        return found

    def _averaged(self, seen: Tensor, step: int) -> Tensor:
        down, across = self.get_buffer(f"down_{step}"), self.get_buffer(f"across_{step}")
        return down @ seen @ across.T


def morlet(height: int, width: int, scale: int, angle: int, num_angles: int) -> Array:
    r"""A wavelet `(H, W)` with zero mean, wrapped around: $g(u)(e^{i\xi \cdot u} - \beta)$, g a slanted Gaussian."""
    theta = (num_angles - num_angles // 2 - 1 - angle) * math.pi / num_angles
    waves = gabor(height, width, scale, theta, FREQUENCY / 2**scale, slant=4 / num_angles)
    bump = gabor(height, width, scale, theta, 0.0, slant=4 / num_angles)
    made: Array = waves - waves.sum() / bump.sum() * bump
    return made


def gabor(height: int, width: int, scale: int, theta: float, frequency: float, *, slant: float) -> Array:
    """A wave under a Gaussian of deviation 0.8 * 2^scale along `theta`, wider across it, wrapped around."""
    sigma = SIGMA * 2**scale
    found = np.zeros((height, width), dtype=np.complex128)
    for up in range(-2, 3):
        for over in range(-2, 3):
            y, x = np.mgrid[up * height : (up + 1) * height, over * width : (over + 1) * width].astype(np.float64)
            along, aside = x * math.sin(theta) + y * math.cos(theta), x * math.cos(theta) - y * math.sin(theta)
            bell = -(along**2 + slant**2 * aside**2) / (2 * sigma**2)
            found += np.exp(bell + 1j * frequency * along)
    scaled: Array = found * slant / (2 * math.pi * sigma**2)
    return scaled


def windows(side: int, step: int) -> Array:
    """Gaussian averages around every fourth pixel, of a picture in its margins of which every `step`th pixel is known.

    Shape `(ceil(side / 4), padded side / step)`.
    """
    sigma = SIGMA * 2 ** (NUM_SCALES - 1)
    places = np.arange(0, side + 2 * MARGIN + -side % STRIDE, step)
    centres = MARGIN + STRIDE * np.arange(-(-side // STRIDE))
    bell = np.exp(-((places - centres[:, None]) ** 2) / (2 * sigma**2))
    shares: Array = (bell / bell.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


class ScatteringNetwork(nn.Module):
    """Raw pixels `(N, C, H, W)`, 0..255, to `(N, K)`: scattering, group norm without parameters, one linear layer.

    Nothing is learned from the training pictures but the layer, not even a mean: what private training needs. What
    `prepare` made of pictures `(N, D)` may be given in their place, so that a training loop runs the wavelets once.
    With `deskew`, each picture is set upright first, by its own moments (`Deskew`): for digits and characters on a
    ground of 0. Limits: made for small grey pictures; linear in features that know no objects. Raises ModelError for
    other inputs.

    Source: Tramèr & Boneh 2021, "Differentially Private Learning Needs Better Features", section 3.
    """

    def __init__(
        self, shape: Sequence[int], num_outputs: int, *, num_angles: int = 8, num_groups: int = 27, deskew: bool = False
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.shape = tuple(shape)
        scattering = Scattering(height, width, num_angles=num_angles)
        num_maps = channels * scattering.num_paths
        if num_outputs < 1 or num_groups < 1 or num_maps % num_groups:
            what = f"{num_outputs} outputs, {num_groups} groups of {num_maps} maps"
            raise ModelError(Problem(what, f"1 output or more, and groups that divide {num_maps}"))
        layers = [scattering, nn.GroupNorm(num_groups, num_maps, affine=False), nn.Flatten()]
        self.body = nn.Sequential(*([Deskew()] if deskew else []), *layers)
        self.head = nn.Linear(num_maps * -(-height // STRIDE) * -(-width // STRIDE), num_outputs)

    def encode(self, inputs: Array) -> Tensor:
        """Images `(N, C, H, W)` as a tensor: uint8 as they are, anything else as float32."""
        return torch.from_numpy(np.array(inputs, dtype=np.uint8 if inputs.dtype == np.uint8 else np.float32))

    @torch.no_grad()
    def prepare(self, inputs: Array) -> Tensor:
        """What no training changes, once: images `(N, C, H, W)` to `(N, D)` float32."""
        device = self.head.weight.device
        made = [
            self._features(self.encode(inputs[start : start + ROWS_AT_ONCE]).to(device)).cpu()
            for start in range(0, max(len(inputs), 1), ROWS_AT_ONCE)
        ]
        return torch.cat(made)

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, C, H, W)`, or `(N, D)` from `prepare`, to `(N, K)`."""
        outputs: Tensor = self.head(inputs if inputs.ndim == 2 else self._features(inputs))
        return outputs

    def _features(self, pixels: Tensor) -> Tensor:
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != self.shape:
            raise ModelError(
                Problem(f"images have shape {tuple(pixels.shape)}", f"(N, {', '.join(map(str, self.shape))})")
            )
        found: Tensor = self.body(pixels.float() / 255)
        return found


def scattering_network(
    columns: Sequence[Column], *, num_outputs: int, num_angles: int = 8, num_groups: int = 27, deskew: bool = False
) -> ScatteringNetwork:
    """See `ScatteringNetwork`; `num_groups` must divide the number of maps (81 a channel for 8 angles)."""
    shape = image_shape(columns)
    return ScatteringNetwork(shape, num_outputs, num_angles=num_angles, num_groups=num_groups, deskew=deskew)


def _build(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return scattering_network(columns, num_outputs=num_outputs, **params)


register_architecture("scattering", _build, resolver=from_signature(scattering_network, without=["num_outputs"]))
