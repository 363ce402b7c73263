"""Images: what a network of any kind needs before its first layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import ModelError, Problem
from assay.values import Array, Column, Split, modality

SMALLEST = 8  # pixels a side: below it two poolings leave nothing to look at
ROWS_AT_ONCE = 4096  # sums of so many images in float64 fit in a cache-friendly block


class ImageEncoder(nn.Module):
    r"""Pixels `(N, C, H, W)`, uint8 or float on the same 0..255 scale, to standardised float pixels.

    $z_{nchw} = (x_{nchw} - \mu_c)/\sigma_c$ with the mean and the standard deviation of each channel over all pixels of
    the training split; a constant channel has $\sigma = 1$. Differentiable in the raw pixels.
    Limits: fitted on the split it is given and on nothing else; until then $\mu = 0$, $\sigma = 255$. Raises ModelError
    for inputs of another shape.

    >>> encoder = ImageEncoder((1, 8, 8))
    >>> encoder(torch.full((2, 1, 8, 8), 255, dtype=torch.uint8)).unique().tolist()
    [1.0]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.register_buffer("mean", torch.zeros(self.shape[0]))
        self.register_buffer("std", torch.full((self.shape[0],), 255.0))

    @torch.no_grad()
    def fit(self, inputs: Array) -> None:
        """Set mean and standard deviation from training images `(N, C, H, W)`, exactly (float64 sums)."""
        if inputs.ndim != 4 or inputs.shape[1:] != self.shape or not len(inputs):
            raise ModelError(Problem(f"training images have shape {inputs.shape}", f"(N, {_text(self.shape)}), N >= 1"))
        total = np.zeros((2, self.shape[0]))
        for start in range(0, len(inputs), ROWS_AT_ONCE):
            block = inputs[start : start + ROWS_AT_ONCE].astype(np.float64)
            total += np.stack([block.sum(axis=(0, 2, 3)), np.square(block).sum(axis=(0, 2, 3))])
        mean, square = total / (len(inputs) * self.shape[1] * self.shape[2])
        std = np.sqrt(np.maximum(square - mean**2, 0))
        # Sums of squares leave rounding, not 0, for a constant channel.
        self.std.copy_(torch.from_numpy(np.where(std > 1e-4, std, 1.0)))
        self.mean.copy_(torch.from_numpy(mean))

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape, float."""
        if inputs.ndim != 4 or tuple(inputs.shape[1:]) != self.shape:
            raise ModelError(Problem(f"images have shape {tuple(inputs.shape)}", f"(N, {_text(self.shape)})"))
        pixels = inputs if inputs.is_floating_point() else inputs.float()
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]


class ImageNetwork(nn.Module):
    """Raw pixels `(N, C, H, W)` to outputs `(N, K)`: encoder, `body` to embeddings `(N, D)`, one linear `head`.

    What the body is, an architecture says. Call `fit_encoding` before training. With `is_mirrored`, an answer (not a
    step of training) is the mean of the outputs for a picture and for its mirror image: twice the cost.
    """

    is_mirrored = False

    def __init__(self, encoder: ImageEncoder, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.body = body
        self.head = head

    def fit_encoding(self, split: Split) -> None:
        """Fit the channels' mean and standard deviation on this split only."""
        self.encoder.fit(split.inputs)

    def encode(self, inputs: Array) -> Tensor:
        """Images `(N, C, H, W)` as a tensor: uint8 as they are, anything else as float32."""
        kind = np.uint8 if inputs.dtype == np.uint8 else np.float32
        return torch.from_numpy(np.array(inputs, dtype=kind))

    def forward(self, inputs: Tensor) -> Tensor:
        """`(N, C, H, W)`, 0..255, to `(N, K)`."""
        encoded = self.encoder(inputs)
        outputs: Tensor = self.head(self.body(encoded))
        if self.is_mirrored and not self.training:
            outputs = (outputs + self.head(self.body(encoded.flip(3)))) / 2
        return outputs


def image_shape(columns: Sequence[Column]) -> tuple[int, int, int]:
    """(C, H, W) of the one image column. Raises ModelError for other data and for images below 8 x 8 pixels.

    >>> image_shape([Column("image", "image", low=0, high=255, shape=(1, 28, 28))])
    (1, 28, 28)
    """
    if modality(columns) != "image":
        kinds = sorted({column.kind for column in columns})
        raise ModelError(
            Problem(f"the columns are {', '.join(kinds)}", "one image column", "Leave the model out for one that fits")
        )
    shape = columns[0].shape
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < SMALLEST:
        raise ModelError(Problem(f"images are {_text(shape)}", f"channels, height, width; {SMALLEST} pixels or more"))
    return shape[0], shape[1], shape[2]


def _text(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))
