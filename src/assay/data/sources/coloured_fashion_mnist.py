"""Fashion-MNIST in colour: in training a class mostly has its own colour, in test colours say nothing."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from assay.data.sources.assemble import Rows, assemble
from assay.data.sources.cache import load_files
from assay.data.sources.fashion_mnist import CLASSES, SOURCE
from assay.data.sources.images import image_column, read_idx
from assay.data.splits import TEST, TRAIN, add_validation, keyed_hash
from assay.errors import Problem, UsageError
from assay.values import Array, Column, Data, Progress, quiet

COLOURS = MappingProxyType(
    {
        "red": (255, 40, 40),
        "green": (40, 220, 60),
        "blue": (60, 90, 255),
        "yellow": (255, 235, 50),
        "magenta": (255, 60, 230),
        "cyan": (50, 230, 240),
        "orange": (255, 140, 30),
        "violet": (150, 60, 220),
        "white": (255, 255, 255),
        "brown": (160, 100, 50),
    }
)


def load_coloured_fashion_mnist(
    *,
    strength: float = 0.9,
    validation: float = 0.1,
    seed: int = 0,
    fetch: bool = False,
    progress: Progress = quiet,
) -> Data:
    """Fashion-MNIST with each picture in one of ten colours: a shortcut that training has and test lacks.

    A training or validation picture has the colour of its class with probability `strength`, else one of the nine
    others, all equally likely; a test picture has any of the ten with probability 0.1. Inputs `(N, 3, 28, 28)` uint8:
    grey times colour. Groups: colour (10), and own_colour (yes, no: whether it is the colour of the class). A model
    that reads shapes has the same accuracy on both values of own_colour; one that reads colours does not.
    Limits: a made shortcut, stronger and cleaner than those of real data.
    Source: the construction of Nam et al. 2020, Learning from Failure, section 4.1, on Xiao et al. 2017.
    Raises UsageError for a strength outside 0.1 to 1, DataError when Fashion-MNIST is not fetched.
    """
    if not 0.1 <= strength <= 1:
        raise UsageError(Problem(f"strength is {strength}", "0.1 (colour says nothing) to 1 (it says all)"))
    train, train_labels, test, test_labels = read_idx(load_files(SOURCE, fetch=fetch, progress=progress))
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    published = np.repeat([TRAIN, TEST], [len(train), len(test)])
    colours = choose_colours(labels, np.where(published == TRAIN, strength, 0.1), seed=seed)
    inputs = paint(np.concatenate([train, test]), colours)
    codes = np.stack([colours, (colours == labels).astype(np.int64)], axis=1)
    columns = (Column("colour", "categorical", tuple(COLOURS)), Column("own_colour", "categorical", ("no", "yes")))
    assigned = add_validation(published, labels, validation=validation, seed=seed)
    by = {"by": "published", "validation": validation, "seed": seed}
    card = {"title": f"Fashion-MNIST in colour, strength {strength:g}", "limits": ["the shortcut is made, not found"]}
    return assemble(
        "coloured_fashion_mnist",
        image_column(inputs),
        Rows(inputs, labels, assigned, codes, columns),
        classes=CLASSES,
        source={**SOURCE.facts(), "made": {"strength": strength, "seed": seed}, "card": card, "splits": by},
    )


def choose_colours(labels: Array, strength: Array, *, seed: int) -> Array:
    """Colour of each row `(N,)`: its class's with probability `strength (N,)`, else another, by keyed hash."""
    rows = np.arange(1, len(labels) + 1)
    chance = keyed_hash(rows, 2 * seed + 11) / 2.0**64
    step = 1 + (keyed_hash(rows, 2 * seed + 12) % np.uint64(len(COLOURS) - 1)).astype(np.int64)
    return np.where(chance < strength, labels, (labels + step) % len(COLOURS))


def paint(pictures: Array, colours: Array) -> Array:
    """Grey pictures `(N, H, W)` uint8 as `(N, 3, H, W)` uint8: the grey value times the colour, rounded down."""
    table = np.array(list(COLOURS.values()), dtype=np.uint16)
    painted = np.empty((len(pictures), 3, *pictures.shape[1:]), dtype=np.uint8)
    for channel in range(3):
        painted[:, channel] = pictures.astype(np.uint16) * table[colours, channel][:, None, None] // 255
    return painted
