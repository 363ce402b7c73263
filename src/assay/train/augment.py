"""Random changes of a training batch that keep its labels: drawn afresh at every step, for a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from assay.errors import Problem, UsageError
from assay.values import Column, modality

PADDING, UNKNOWN = 0, 1  # token ids


@dataclass(frozen=True)
class _Change:
    """One augmentation: what it changes, what its number may be, and how it is done."""

    changes: str
    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    allowed: str = ""  # empty: takes no number
    whole: bool = True
    highest: float = math.inf  # lowest is above 0


def augment(names: Sequence[str], batch: Tensor, generator: torch.Generator, *, columns: Sequence[Column]) -> Tensor:
    r"""The batch with each named change applied in turn, of the same shape and type; `batch` itself is not changed.

    Images `(n, C, H, W)`, uint8 or float on 0..255: `flip` mirrors half of the images left to right; `crop:2` shifts
    each by up to 2 pixels a side, filled with 0 (He et al. 2016, section 4.2); `cutout:8` sets a square of 8 pixels a
    side around a random pixel to 0 (DeVries & Taylor 2017, section 3.2); `noise:0.05` adds normal noise with a standard
    deviation of 0.05 * 255, clipped to 0..255. Tokens `(n, L)`: `token_dropout:0.1` replaces each token, padding aside,
    by the unknown token 1 with chance 0.1. Every draw comes from `generator` and from nothing else. Limits: whether a
    change keeps the label is the caller's knowledge (a mirrored 2 is no digit). Raises UsageError as `check_augment`.

    >>> picture = (Column("image", "image", low=0, high=255, shape=(1, 8, 8)),)
    >>> batch = torch.full((4, 1, 8, 8), 200, dtype=torch.uint8)
    >>> augment(["flip"], batch, torch.Generator().manual_seed(0), columns=picture).equal(batch)
    True
    """
    check_augment(names, columns)
    for name in names:
        word, _, number = name.partition(":")
        batch = CHANGES[word].apply(batch, float(number or 0), generator)
    return batch


def check_augment(names: Sequence[str], columns: Sequence[Column]) -> None:
    """Raise UsageError, with every problem at once, for names or numbers that these columns cannot be augmented by."""
    kind = modality(columns)
    side = min(columns[0].shape[1:]) if kind == "image" else 0
    wrong = []
    for name in names:
        word, colon, number = name.partition(":")
        change = CHANGES.get(word)
        if change is None:
            wrong.append(Problem(f"augmentation {name!r} is not known", ", ".join(spelled(one) for one in CHANGES)))
        elif change.changes != kind:
            fitting = ", ".join(spelled(one) for one in CHANGES if CHANGES[one].changes == kind)
            wrong.append(Problem(f"augmentation {name!r} is for {change.changes}s, and these are {kind}s", fitting))
        elif not change.allowed:
            if colon:
                wrong.append(Problem(f"augmentation {name!r} takes no number", word))
        elif not _fits(number, change, side):
            limit = f"{change.allowed}, at most {side} for this image" if change.whole and side else change.allowed
            wrong.append(Problem(f"augmentation {name!r} has no usable number", f"{word}: and {limit}"))
    if wrong:
        raise UsageError(wrong)


def spelled(word: str) -> str:
    """How a name is written, with its number.

    >>> spelled("flip"), spelled("crop")
    ('flip', 'crop:PIXELS')
    """
    change = CHANGES[word]
    return f"{word}:{'PIXELS' if change.whole else 'SHARE'}" if change.allowed else word


def _fits(number: str, change: _Change, side: int) -> bool:
    try:
        value = float(number)
    except ValueError:
        return False
    if change.whole and not value.is_integer():
        return False
    return 0 < value <= min(change.highest, side if change.whole else math.inf)


def _flip(batch: Tensor, _: float, generator: torch.Generator) -> Tensor:
    mirrored = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, batch.flip(3), batch)


def _crop(batch: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    reach = int(pixels)
    count, channels, height, width = batch.shape
    padded = functional.pad(batch, (reach,) * 4)
    shift = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator)
    down = (shift[0] + torch.arange(height))[:, None, :, None]
    across = (shift[1] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None], down, across]


def _cutout(batch: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    count, _, height, width = batch.shape
    down = _inside(height, count, int(pixels), generator)[:, None, :, None]
    across = _inside(width, count, int(pixels), generator)[:, None, None, :]
    return batch.masked_fill(down & across, 0)


def _inside(length: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    """`(count, length)` bool: the `size` places around a random one, as far as they exist."""
    start = torch.randint(0, length, (count, 1), generator=generator) - size // 2
    place = torch.arange(length)
    return (place >= start) & (place < start + size)


def _noise(batch: Tensor, share: float, generator: torch.Generator) -> Tensor:
    noisy = batch + torch.randn(batch.shape, generator=generator) * (share * 255)
    return noisy.round_().clamp_(0, 255).to(batch.dtype) if batch.dtype == torch.uint8 else noisy.clamp_(0, 255)


def _token_dropout(batch: Tensor, share: float, generator: torch.Generator) -> Tensor:
    dropped = (torch.rand(batch.shape, generator=generator) < share) & (batch != PADDING)
    return batch.masked_fill(dropped, UNKNOWN)


PIXELS, SHARE = "a whole number of pixels from 1", "a share above 0 and at most 1"
CHANGES: dict[str, _Change] = {
    "flip": _Change("image", _flip),
    "crop": _Change("image", _crop, PIXELS),
    "cutout": _Change("image", _cutout, PIXELS),
    "noise": _Change("image", _noise, SHARE, whole=False, highest=1),
    "token_dropout": _Change("text", _token_dropout, SHARE, whole=False, highest=1),
}
