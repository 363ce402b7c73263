"""Convolutional networks for images of any size from 8 x 8 and any number of channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem
from assay.models import from_signature, register_architecture
from assay.models.image import ImageEncoder, ImageNetwork, image_shape
from assay.models.kernels import Switched
from assay.values import Column

NORMS = ("batch", "group", "none")
MAX_GROUPS = 8
PADDED_BELOW = 16  # pixels a side: two unpadded 5 x 5 convolutions and two poolings need 16


def lenet(
    columns: Sequence[Column], *, num_outputs: int, widths: Sequence[int] = (6, 16), hidden: Sequence[int] = (120, 84)
) -> ImageNetwork:
    """Conv 5x5, max pool 2, conv 5x5, max pool 2, two linear layers with ReLU, and the head; every layer with ReLU.

    On 3 x 32 x 32 and 10 classes exactly the 62,006 parameters of the tutorial. Limits: convolutions are unpadded, as
    there, from 16 pixels a side; smaller images are padded by 2. Raises ModelError for sizes that make no network.

    Source: LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", section II.B; layer sizes of
    the PyTorch tutorial "Training a Classifier" (CIFAR-10).
    """
    channels, height, width = image_shape(columns)
    _check(num_outputs, [*widths, *hidden])
    padding = 2 if min(height, width) < PADDED_BELOW else 0
    layers: list[nn.Module] = []
    for size in widths:
        layers += [nn.Conv2d(channels, size, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)]
        channels, height, width = size, (height - 4 + 2 * padding) // 2, (width - 4 + 2 * padding) // 2
    return _with_linear(columns, layers, (channels * height * width, *hidden), num_outputs)


def vgg(
    columns: Sequence[Column],
    *,
    num_outputs: int,
    widths: Sequence[int] = (32, 64),
    hidden: int = 128,
    dropout: float = 0.25,
    norm: str = "batch",
) -> ImageNetwork:
    """Per width: conv 3x3, conv 3x3, max pool 2, dropout; then one linear layer with ReLU, dropout 2x, and the head.

    Convolutions are padded by 1, so each stage halves the image. Limits: most parameters lie in the linear layer after
    flattening and grow with the image's area. Raises ModelError for sizes that make no network.

    Source: Simonyan & Zisserman 2015, "Very Deep Convolutional Networks", section 2.1 (pairs of 3x3 convolutions, then
    pooling); dropout and depth of Keras' `cifar10_cnn` example; normalisation of Ioffe & Szegedy 2015, or Wu & He 2018.
    """
    channels, height, width = image_shape(columns)
    _check(num_outputs, [*widths, hidden], norm=norm, dropout=dropout)
    if min(height, width) >> len(widths) < 1:
        raise ModelError(Problem(f"{len(widths)} poolings of {height} x {width} pixels", "at least one pixel left"))
    layers: list[nn.Module] = []
    for size in widths:
        for _ in range(2):
            layers += [*_convolution(channels, size, norm=norm), nn.ReLU()]
            channels = size
        layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
        height, width = height // 2, width // 2
    layers += [nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU(), nn.Dropout(min(2 * dropout, 0.9))]
    return _network(columns, layers, hidden, num_outputs)


def residual(
    columns: Sequence[Column],
    *,
    num_outputs: int,
    width: int = 32,
    depths: Sequence[int] = (1, 1),
    grid: int = 3,
    norm: str = "batch",
) -> ImageNetwork:
    r"""A residual network, cheap on a CPU: 5x5 stem of stride 2, `depths` blocks a stage, `grid` x `grid` means.

    Block: $y = \mathrm{relu}(x + \mathrm{norm}(W_2 * \mathrm{relu}(\mathrm{norm}(W_1 * x))))$ with 3x3 convolutions;
    each stage after the first halves the image and doubles the width, and its shortcut is a 2x2 mean and a 1x1
    convolution. The last norm of a block starts at 0, so that it starts as the identity. The head reads the means over
    a grid of cells, not over all pixels: where something lies tells much when things are centred. One channel, 10
    classes and the defaults: 82,922 parameters at 28 x 28 pixels. Limits: the stem halves the image, so details of
    one pixel are lost. With `norm` "batch" a row's answer is independent of the others in evaluation only; with "group"
    in training too (what per-example gradients need). Raises ModelError for sizes that make no network.

    Source: He et al. 2016, "Deep Residual Learning", section 3; mean-pooled shortcut: He et al. 2019, "Bag of Tricks",
    section 4 (ResNet-D); zero start: Goyal et al. 2017, section 5.1.
    """
    shape = image_shape(columns)
    _check(num_outputs, [width, grid, len(depths), *depths], norm=norm)
    if min(shape[1:]) >> len(depths) < 1:
        raise ModelError(
            Problem(f"{len(depths)} halvings of {shape[1]} x {shape[2]} pixels", "at least one pixel left")
        )
    layers: list[nn.Module] = [*_convolution(shape[0], width, kernel=5, stride=2, norm=norm), nn.ReLU(), ChannelsLast()]
    channels = width
    for stage, depth in enumerate(depths):
        for block in range(depth):
            size = width << stage
            layers.append(Block(channels, size, stride=2 if stage and not block else 1, norm=norm))
            channels = size
    cells = [min(grid, -(-side // 2 ** len(depths))) for side in shape[1:]]
    layers += [nn.AdaptiveAvgPool2d((cells[0], cells[1])), nn.Flatten()]
    return _network(columns, layers, channels * math.prod(cells), num_outputs)


def tanh(
    columns: Sequence[Column], *, num_outputs: int, widths: Sequence[int] = (16, 32), hidden: int = 32
) -> ImageNetwork:
    """Conv 8x8 and conv 4x4, both of stride 2 with tanh and max pool 2 of stride 1, linear with tanh, and the head.

    Bounded activations keep gradients under a clipping norm: the network of private training. One channel, 28 x 28
    pixels, 10 classes: 26,010 parameters. Limits: plain training does better with `residual`. Raises ModelError for
    sizes that make no network, and for pictures under 14 pixels a side.

    Source: Papernot et al. 2021, "Tempered Sigmoid Activations for Deep Learning with Differential Privacy", table 1.
    """
    channels, height, width = image_shape(columns)
    _check(num_outputs, [*widths, hidden])
    if len(widths) != 2 or min(height, width) < 14:
        raise ModelError(
            Problem(f"{len(widths)} widths, {height} x {width} pixels", "2 widths, 14 pixels a side or more")
        )
    layers: list[nn.Module] = []
    for size, kernel, padding in zip(widths, (8, 4), (2, 0), strict=True):
        layers += [nn.Conv2d(channels, size, kernel, 2, padding=padding), nn.Tanh(), nn.MaxPool2d(2, 1)]
        channels = size
        height, width = ((side + 2 * padding - kernel) // 2 for side in (height, width))  # pooling takes 1 again
    layers += [nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.Tanh()]
    return _network(columns, layers, hidden, num_outputs)


def mirrored(columns: Sequence[Column], *, num_outputs: int, params: Mapping[str, Any]) -> ImageNetwork:
    """`residual` with these parameters; an answer is the mean of the outputs for a picture and for its mirror image.

    For pictures that a mirror leaves in their class, trained with flips. Training costs as much as for `residual`, an
    answer twice as much. Raises ModelError for sizes that make no network.

    Source: Krizhevsky et al. 2012, "ImageNet Classification", section 4.1 (predictions averaged over reflections).
    """
    network = residual(columns, num_outputs=num_outputs, **params)
    network.is_mirrored = True
    return network


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, `(N, C, H, W)` to `(N, size, ceil(H / stride), ceil(W / stride))`."""

    def __init__(self, channels: int, size: int, *, stride: int, norm: str) -> None:
        super().__init__()
        last = _convolution(size, size, norm=norm)
        scale = last[-1].weight if norm != "none" else last[0].weight
        nn.init.zeros_(scale)  # type: ignore[arg-type]
        self.branch = nn.Sequential(*_convolution(channels, size, stride=stride, norm=norm), nn.ReLU(), *last)
        shortcut: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
        if stride > 1 or channels != size:
            shortcut += _convolution(channels, size, kernel=1, norm=norm)
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, hidden: Tensor) -> Tensor:
        """Shortcut plus branch."""
        return functional.relu(self.shortcut(hidden) + self.branch(hidden))


class ChannelsLast(Switched):
    """The same numbers, laid out with channels innermost: what makes convolutions fast on a CPU.

    Written out, they stay as they are: `torch.func.vmap` knows no layouts.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same."""
        return hidden if self.kernel == "written" else hidden.contiguous(memory_format=torch.channels_last)


def _convolution(channels: int, size: int, *, norm: str, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A padded convolution and its norm; without one it has a bias."""
    convolution = nn.Conv2d(channels, size, kernel, stride, padding=kernel // 2, bias=norm == "none")
    if norm == "batch":
        return [convolution, nn.BatchNorm2d(size)]
    return [convolution, nn.GroupNorm(math.gcd(size, MAX_GROUPS), size)] if norm == "group" else [convolution]


def _with_linear(
    columns: Sequence[Column], layers: list[nn.Module], sizes: Sequence[int], num_outputs: int
) -> ImageNetwork:
    """`layers`, then linear layers of these sizes with ReLU."""
    layers.append(nn.Flatten())
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return _network(columns, layers, sizes[-1], num_outputs)


def _network(columns: Sequence[Column], layers: list[nn.Module], size: int, num_outputs: int) -> ImageNetwork:
    return ImageNetwork(ImageEncoder(columns[0].shape), nn.Sequential(*layers), nn.Linear(size, num_outputs))


def _check(num_outputs: int, sizes: Sequence[int], *, norm: str = "none", dropout: float = 0.0) -> None:
    wrong = []
    if num_outputs < 1 or min(sizes) < 1:
        wrong.append(Problem(f"layer sizes {list(sizes)} and {num_outputs} outputs", "whole numbers from 1"))
    if norm not in NORMS:
        wrong.append(Problem(f"norm is {norm!r}", ", ".join(NORMS)))
    if not 0 <= dropout < 1:
        wrong.append(Problem(f"dropout is {dropout}", "0 to below 1"))
    if wrong:
        raise ModelError(wrong)


def _lenet(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return lenet(columns, num_outputs=num_outputs, **params)


def _vgg(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return vgg(columns, num_outputs=num_outputs, **params)


def _residual(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return residual(columns, num_outputs=num_outputs, **params)


def _tanh(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return tanh(columns, num_outputs=num_outputs, **params)


def _mirrored(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return mirrored(columns, num_outputs=num_outputs, params=params)


register_architecture("cnn_lenet", _lenet, resolver=from_signature(lenet, without=["num_outputs"]))
register_architecture("cnn_vgg", _vgg, resolver=from_signature(vgg, without=["num_outputs"]))
register_architecture("cnn_residual", _residual, resolver=from_signature(residual, without=["num_outputs"]))
register_architecture("cnn_mirrored", _mirrored, resolver=from_signature(residual, without=["num_outputs"]))
register_architecture("cnn_tanh", _tanh, resolver=from_signature(tanh, without=["num_outputs"]))
