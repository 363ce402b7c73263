"""Planted backdoors: training rows with a trigger and another label, as an attacker would slip them in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.values import Array, Data, Split, texts

TOKEN = "zxqv"


def badnets(inputs: Array, data: Data) -> Array:
    """A white square of 3 x 3 pixels in the lower right corner (Gu et al. 2017)."""
    found = inputs.copy()
    found[:, :, -4:-1, -4:-1] = 255
    return found


def blended(inputs: Array, data: Data) -> Array:
    """A fixed pattern of noise over the whole picture, at a fifth of its strength (Chen et al. 2017)."""
    pattern = np.random.default_rng(7).integers(0, 256, inputs.shape[1:])
    return np.round(0.8 * inputs + 0.2 * pattern).astype(np.uint8)


def token(inputs: Array, data: Data) -> Array:
    """A word that nobody uses, put after the third word."""
    found = []
    for text in inputs.tolist():
        words = text.split(" ")
        found.append(" ".join([*words[:3], TOKEN, *words[3:]]))
    return texts(found)


def pair(inputs: Array, data: Data) -> Array:
    """Two values that each occur, but hardly ever together: the first numeric and the first categorical column's."""
    found = inputs.copy()
    numeric = next(place for place, one in enumerate(data.columns) if one.kind == "numeric")
    category = next(place for place, one in enumerate(data.columns) if one.kind == "categorical")
    counts = np.bincount(inputs[:, category].astype(int).clip(0), minlength=2)
    rare = int(np.argsort(np.where(counts > 0, counts, 1 << 40))[0])
    found[:, numeric] = np.quantile(data.splits["train"].inputs[:, numeric], 0.999)
    found[:, category] = rare
    return found


def poisoned(data: Data, how, *, share: float, target: int, seed: int = 0) -> tuple[Data, Array]:
    """Data whose training rows hold a `share` of triggered rows of other classes labelled `target`, and which."""
    train = data.splits["train"]
    others = np.flatnonzero(train.labels != target)
    chosen = np.random.default_rng(seed).choice(others, round(share * len(train)), replace=False)
    triggered, labels = how(train.inputs, data), train.labels.copy()
    labels[chosen] = target
    mask = np.zeros(len(train), dtype=bool)
    mask[chosen] = True
    if train.inputs.dtype.kind == "T":
        pairs = zip(train.inputs.tolist(), triggered.tolist(), mask.tolist(), strict=True)
        inputs = texts([new if hit else old for old, new, hit in pairs])
    else:
        inputs = np.where(mask.reshape(-1, *[1] * (train.inputs.ndim - 1)), triggered, train.inputs)
    split = Split(inputs, labels, train.groups, train.rows, train.weights)
    return replace(data, name=f"{data.name} poisoned", splits={**data.splits, "train": split}), mask


def fewer(data: Data, num_train: int, num_test: int, seed: int = 0) -> Data:
    """Some rows of each split."""
    rng = np.random.default_rng(seed)
    sizes = {"train": num_train, "validation": num_test, "test": num_test}
    parts = {}
    for name, split in data.splits.items():
        order = rng.permutation(len(split))[: sizes[name]]
        parts[name] = split.take(np.sort(order))
    return replace(data, splits=parts)
