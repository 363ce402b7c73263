"""Conditional generator and discriminator, for images and for table rows, and how the pair is trained."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from assay.errors import ModelError, Problem, UsageError
from assay.models import build, from_signature, register_architecture
from assay.models.image import image_shape
from assay.models.row_code import RowCode
from assay.values import Array, Column, Progress, Split, modality, quiet

NOISE = 32  # numbers of noise a sample is made from
LEAK = 0.2
EVERY = 0.5  # seconds between two words on progress


@dataclass(frozen=True)
class GanSettings:
    """Every number of a training run. `penalty` is gamma of R1."""

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    width: int = 32  # channels of the last hidden layer of images; tables have hidden layers of 4 * width
    penalty: float = 0.1
    average: float = 0.99  # of the generator's weights over steps, which is what samples
    num_threads: int = 1

    def __post_init__(self) -> None:
        wrong = [
            Problem(f"{name} is {getattr(self, name)}", allowed)
            for name, fine, allowed in (
                ("epochs", self.epochs >= 1, "1 or more"),
                ("batch_size", self.batch_size >= 2, "2 or more"),
                ("learning_rate", 0 < self.learning_rate < math.inf, "a positive number"),
                ("width", self.width >= 1, "1 or more"),
                ("penalty", 0 <= self.penalty < math.inf, "0 or more"),
                ("average", 0 <= self.average < 1, "0 to below 1"),
                ("num_threads", self.num_threads >= 1, "1 or more"),
            )
            if not fine
        ]
        if wrong:
            raise UsageError(wrong)


@dataclass(frozen=True)
class Gan:
    """A trained pair. `sample(labels)` draws raw inputs of these classes, shaped as the split it was trained on."""

    generator: nn.Module
    discriminator: nn.Module
    num_classes: int
    facts: Mapping[str, Any]

    def sample(self, labels: Array, *, seed: int) -> Array:
        """Classes `(M,)` to inputs: images `(M, C, H, W)` uint8, or rows `(M, F)` float32. Raises ModelError."""
        classes = torch.from_numpy(np.asarray(labels, dtype=np.int64))
        if classes.ndim != 1 or (len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < self.num_classes):
            raise ModelError(Problem("labels to sample are not class indices", f"(M,) of 0 to {self.num_classes - 1}"))
        noise = torch.randn(len(classes), NOISE, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            drawn = self.generator(_given(noise, classes, self.num_classes))
        decoded: Array = _code(self.generator).decode(drawn)
        return decoded


def fit_gan(
    split: Split,
    columns: Sequence[Column],
    num_classes: int,
    *,
    settings: GanSettings | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> Gan:
    r"""Train a generator of `split`'s inputs given their class, against a discriminator.

    Minimises in turn, on batches of real inputs x with classes y and noise z,
    $\mathrm{softplus}(-D(x, y)) + \mathrm{softplus}(D(G(z, y), y)) + \frac{\gamma}{2}\|\nabla_x D(x, y)\|^2$ over D and
    $\mathrm{softplus}(-D(G(z, y), y))$ over G (non-saturating loss: Goodfellow et al. 2014, section 3; the penalty R1,
    with which training converges near the data: Mescheder et al. 2018, section 4.1), with Adam without momentum. D
    meets the class by projection (Miyato & Koyama 2018, section 3). Samples come from the mean of G's weights over
    steps (Yazici et al. 2019). The same seed gives the same weights.

    Limits: a GAN says nothing of how likely a sample is, may miss parts of the data, and gives no privacy: it can
    repeat rows it was trained on. Raises ModelError for text, for labels that are no class indices, and when the loss
    stops being finite.
    """
    settings = settings or GanSettings()
    labels = torch.from_numpy(np.asarray(split.labels, dtype=np.int64))
    _check(split, labels, num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        params = {"width": settings.width}
        players = [
            build(name, columns=columns, num_outputs=num_classes, params=params)
            for name in ("gan_generator", "gan_discriminator", "gan_generator")
        ]
        generator, discriminator, mean = players
        _code(generator).fit(split.inputs)
        mean.load_state_dict(generator.state_dict())
        threads = torch.get_num_threads()
        torch.set_num_threads(settings.num_threads)
        try:
            real = (_code(generator).encode(split.inputs), labels)
            losses = _play((generator, discriminator, mean), real, settings, _Told(progress))
        finally:
            torch.set_num_threads(threads)
    facts = {"num_train": len(split), "steps": losses["steps"], "losses": losses["last"]}
    return Gan(mean.eval(), discriminator.eval(), num_classes, facts)


class _Told:
    """Calls the progress callback at most every half second: losses, steps a second, seconds left."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.start = self.last = time.monotonic()

    def step(self, done: int, total: int, losses: Mapping[str, float]) -> None:
        """One step was made."""
        now = time.monotonic()
        if now - self.last < EVERY and done < total:
            return
        self.last = now
        pace = done / max(now - self.start, 1e-9)
        told = ", ".join(f"{name} {loss:.3g}" for name, loss in losses.items())
        self.progress(f"training a GAN: {told}, {pace:,.0f} steps/s, {(total - done) / pace:,.0f} s left", done, total)


def _play(
    players: tuple[nn.Module, nn.Module, nn.Module],
    real: tuple[Tensor, Tensor],
    settings: GanSettings,
    told: _Told,
) -> dict[str, Any]:
    """All steps; the players' last losses."""
    generator, discriminator, mean = players
    total = settings.epochs * max(1, len(real[1]) // settings.batch_size)
    num_classes = int(discriminator.num_classes)  # type: ignore[arg-type]
    rate, steps = settings.learning_rate, 0
    optimizers = [
        torch.optim.Adam(player.parameters(), lr=rate, betas=(0.0, 0.99)) for player in (discriminator, generator)
    ]
    own: list[Tensor] = list(generator.parameters())
    averaged: list[Tensor] = list(mean.parameters())
    last = {"discriminator": math.nan, "generator": math.nan}
    for rows in _batches(len(real[1]), settings):
        inputs, labels = real[0][rows], real[1][rows]
        fake = generator(_given(torch.randn(len(rows), NOISE), labels, num_classes))
        judged = _real_and_fake(discriminator, (inputs, fake.detach()), labels, settings.penalty)
        last["discriminator"] = _step(optimizers[0], judged, steps)
        last["generator"] = _step(optimizers[1], functional.softplus(-discriminator(fake, labels)).mean(), steps)
        steps += 1
        with torch.no_grad():
            keep = min(settings.average, steps / (steps + 10))  # early weights leave the mean quickly
            torch._foreach_lerp_(averaged, own, 1 - keep)
        told.step(steps, total, last)
    return {"steps": steps, "last": last}


def _real_and_fake(discriminator: nn.Module, pair: tuple[Tensor, Tensor], labels: Tensor, penalty: float) -> Tensor:
    """The discriminator's loss, with R1."""
    real = pair[0].detach().requires_grad_(penalty > 0)
    judged = discriminator(real, labels)
    loss: Tensor = (functional.softplus(-judged) + functional.softplus(discriminator(pair[1], labels))).mean()
    if penalty:
        (slope,) = torch.autograd.grad(judged.sum(), real, create_graph=True)
        loss = loss + penalty / 2 * slope.flatten(1).square().sum(dim=1).mean()
    return loss


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise ModelError(Problem(f"the loss became {value} at step {step}", next="Lower the learning rate"))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def _batches(num_rows: int, settings: GanSettings) -> Iterator[Tensor]:
    for _ in range(settings.epochs):
        # A last batch of a few rows would weigh as much as a full one.
        whole = max(num_rows - num_rows % settings.batch_size, min(num_rows, settings.batch_size))
        yield from torch.split(torch.randperm(num_rows)[:whole], settings.batch_size)


def _given(noise: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """What a generator is given, `(N, NOISE + K)`."""
    return torch.cat([noise, functional.one_hot(labels, num_classes).to(noise.dtype)], dim=1)


def _check(split: Split, labels: Tensor, num_classes: int) -> None:
    wrong = []
    if len(split) < 2:
        wrong.append(Problem(f"{len(split)} rows to train on", "2 or more"))
    elif labels.ndim != 1 or not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        wrong.append(Problem("a label is not a class index", f"(N,) of 0 to {num_classes - 1}"))
    if wrong:
        raise ModelError(wrong)


# ------------------------------------------------------------------ players


class ImageCode(nn.Module):
    """Pixels 0..255 to -1..1 and back; nothing is fitted."""

    def fit(self, inputs: Array) -> None:
        """Nothing to fit."""

    def encode(self, inputs: Array) -> Tensor:
        """`(N, C, H, W)` to the same, -1..1."""
        return torch.from_numpy(inputs.astype(np.float32) / np.float32(127.5) - 1)

    def decode(self, encoded: Tensor) -> Array:
        """-1..1 to uint8."""
        return ((encoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


class Generator(nn.Module):
    """Noise and one-hot class `(N, NOISE + K)` to encoded inputs; `code` says what those mean."""

    def __init__(self, body: nn.Module, code: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.code = code

    def forward(self, given: Tensor) -> Tensor:
        """`(N, NOISE + K)` to encoded inputs."""
        drawn: Tensor = self.body(given)
        return self.code.choose(drawn) if isinstance(self.code, RowCode) else drawn.tanh()


class Discriminator(nn.Module):
    r"""How real encoded inputs look as members of their class: $D(x, y) = (v + e_y) \cdot \phi(x) + b$, `(N,)`."""

    def __init__(self, body: nn.Module, size: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.num_classes = num_classes
        self.head = nn.Linear(size, 1)
        self.classes = nn.Embedding(num_classes, size)
        nn.init.zeros_(self.classes.weight)  # classes are told apart as far as the data ask for it

    def forward(self, encoded: Tensor, labels: Tensor) -> Tensor:
        """Encoded inputs `(N, ...)` and classes `(N,)` to `(N,)`; above 0 is "real"."""
        seen = self.body(encoded)
        judged: Tensor = self.head(seen)[:, 0] + (self.classes(labels) * seen).sum(dim=1)
        return judged


def _code(generator: nn.Module) -> Any:
    return generator.code


def _generator(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return generator(columns, num_classes=num_outputs, **params)


def _discriminator(columns: Sequence[Column], num_outputs: int, params: Mapping[str, Any]) -> nn.Module:
    return discriminator(columns, num_classes=num_outputs, **params)


def generator(columns: Sequence[Column], *, num_classes: int, width: int = 32) -> Generator:
    """Images: a linear layer to 2 `width` channels of H/4 x W/4, then two transposed 4x4 convolutions of stride 2.

    Tables: two hidden layers of 4 `width` to the code of a row. Normalised within a sample (groups of channels), so
    that samples are independent of each other. Raises ModelError for text and for sides not divisible by 4.

    Source: Radford et al. 2016, "Unsupervised Representation Learning with DCGAN", section 3.
    """
    given = NOISE + num_classes
    if _modality(columns) == "table":
        code = RowCode(columns)
        layers = [nn.Linear(given, 4 * width), nn.ReLU(), nn.Linear(4 * width, 4 * width), nn.ReLU()]
        return Generator(nn.Sequential(*layers, nn.Linear(4 * width, code.num_encoded)), code)
    channels, height, across = _divisible(columns)
    body = nn.Sequential(
        nn.Linear(given, 2 * width * height * across),
        nn.Unflatten(1, (2 * width, height, across)),
        *(nn.GroupNorm(1, 2 * width), nn.ReLU(), nn.ConvTranspose2d(2 * width, width, 4, 2, 1)),
        *(nn.GroupNorm(1, width), nn.ReLU(), nn.ConvTranspose2d(width, channels, 4, 2, 1)),
    )
    return Generator(body, ImageCode())


def discriminator(columns: Sequence[Column], *, num_classes: int, width: int = 32) -> Discriminator:
    """Images: two 4x4 convolutions of stride 2, `width` and 2 `width` channels; tables: two hidden layers.

    Leaky ReLU, no normalisation. Raises ModelError as `generator` does.
    """
    layers: list[nn.Module] = []
    if _modality(columns) == "table":
        sizes = (RowCode(columns).num_encoded, 4 * width, 4 * width)
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU(LEAK)]
        return Discriminator(nn.Sequential(*layers), sizes[-1], num_classes)
    channels, height, across = _divisible(columns)
    for before, after in itertools.pairwise((channels, width, 2 * width)):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(LEAK)]
    return Discriminator(nn.Sequential(*layers, nn.Flatten()), 2 * width * height * across, num_classes)


def _modality(columns: Sequence[Column]) -> str:
    kind = modality(columns)
    if kind == "text":
        raise ModelError(Problem("a generator of texts is not offered", "images and tables"))
    return kind


def _divisible(columns: Sequence[Column]) -> tuple[int, int, int]:
    """Channels, and a quarter of height and width."""
    channels, height, width = image_shape(columns)
    if height % 4 or width % 4:
        raise ModelError(Problem(f"images of {height} x {width} pixels", "sides divisible by 4"))
    return channels, height // 4, width // 4


register_architecture("gan_generator", _generator, resolver=from_signature(generator, without=["num_classes"]))
register_architecture(
    "gan_discriminator", _discriminator, resolver=from_signature(discriminator, without=["num_classes"])
)
