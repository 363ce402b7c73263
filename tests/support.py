"""Shared pieces: a small table with known structure, and a model whose every output is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from assay.digests import digest_of
from assay.models import Architecture, FitsEncoding, build
from assay.models.adapters.module import ModuleModel
from assay.tasks import Argmax, task_of
from assay.units import Columns, Ground
from assay.values import Array, Column, Data, Fitted, Groups, Split, System, texts

COLUMNS = (
    Column("age", "numeric", low=17, high=90),
    Column("hours", "numeric", low=1, high=99),
    Column("job", "categorical", ("a", "b", "c")),
    Column("sex", "categorical", ("Female", "Male")),
)
GROUP_COLUMNS = (Column("sex", "categorical", ("Female", "Male")), Column("race", "categorical", ("x", "y", "z")))


def make_split(num_rows: int, seed: int, first_row: int) -> Split:
    """Rows whose label follows age and hours, with noise; race z is rare."""
    rng = np.random.default_rng(seed)
    sex, race = rng.integers(0, 2, num_rows), rng.choice(3, num_rows, p=[0.6, 0.35, 0.05])
    age, hours, job = rng.uniform(17, 90, num_rows), rng.uniform(1, 99, num_rows), rng.integers(0, 3, num_rows)
    signal = 0.05 * (age - 50) + 0.04 * (hours - 50) + 0.6 * (sex - 0.5) + rng.logistic(0, 1, num_rows)
    inputs = np.stack([age, hours, job, sex], axis=1).astype(np.float32)
    groups = Groups(np.stack([sex, race], axis=1).astype(np.int16), GROUP_COLUMNS)
    rows = np.arange(first_row, first_row + num_rows)
    return Split(inputs, (signal > 0).astype(np.int64), groups, rows)


class KnownModel:
    """Logistic in age and hours; counts the rows it was asked for."""

    offers = frozenset({"query", "meter"})
    outputs_are = "logits"
    num_bytes = 24

    def __init__(self, slope: float = 0.05) -> None:
        self.slope = slope
        self.num_rows = 0
        self.digest = digest_of(["known", slope])

    def outputs(self, inputs: Array) -> Array:
        self.num_rows += len(inputs)
        score = self.slope * (inputs[:, 0] - 50) + 0.04 * (inputs[:, 1] - 50)
        return np.stack([-score / 2, score / 2], axis=1).astype(np.float32)


class Remembers:
    """A recipe that keeps every split and seed it was given, and trains nothing."""

    digest = "remembers"

    def __init__(self) -> None:
        self.seen: list[Split] = []
        self.seeds: list[int] = []

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        self.seen.append(split)
        self.seeds.append(seed)
        return Fitted(KnownModel(0.06), {"steps": 1})


def remembering(data: Data, *, seed: int = 7) -> System:
    """A system of a known model whose recipe remembers what it is trained on."""
    return System("known", KnownModel(), data, task_of(data), Argmax(), Remembers(), seed=seed)


def untrained(data: Data, name: str, params: dict[str, Any]) -> System:
    """A system of an architecture with the weights it starts from, and a fitted encoding."""
    torch.manual_seed(0)
    module = build(name, columns=data.columns, num_outputs=2, params=params)
    if isinstance(module, FitsEncoding):
        module.fit_encoding(data.splits["train"])
    model = ModuleModel(module.eval(), architecture=Architecture(name, params))
    return System(name, model, data, task_of(data), Argmax())


def columns_over(background: Array) -> Ground:
    """Background rows of a table `(b, F)`, with its columns as units."""
    return Ground(background, Columns(tuple(f"column {place}" for place in range(background.shape[1]))))


def _three_splits(inputs: Array, labels: Array, codes: Array, columns: tuple[Column, ...], about: tuple) -> Data:
    name, group, classes = about
    whole = Split(
        inputs,
        labels.astype(np.int64),
        Groups(codes[:, None].astype(np.int16), (group,)),
        np.arange(1, len(labels) + 1),
    )
    ends = [0, len(labels) * 6 // 10, len(labels) * 7 // 10, len(labels)]
    parts = {
        split: whole.take(np.arange(start, end))
        for split, start, end in zip(("train", "validation", "test"), ends[:-1], ends[1:], strict=True)
    }
    return Data(name, columns, "label", (group,), parts, classes, classes[1] if len(classes) == 2 else None)


def several(data: Data) -> Data:
    """The same rows with three labels of which any may apply: the class, the group (one row in ten wrongly), a coin."""
    rng, names, splits = np.random.default_rng(5), ("first", "second", "coin"), {}
    for name, split in data.splits.items():
        second = split.groups.codes[:, 0] ^ (rng.random(len(split)) < 0.1)
        columns = [split.labels > 0, second, rng.random(len(split)) < 0.3]
        splits[name] = replace(split, labels=np.stack(columns, axis=1).astype(np.int64))
    return replace(data, label=", ".join(names), label_names=names, classes=(), positive=None, splits=splits)


def small_images(
    num_rows: int = 400, *, size: int = 12, channels: int = 1, num_classes: int = 3, seed: int = 0
) -> Data:
    """Pictures of a bright bar whose place is the class; the group is whether the picture is dark or bright."""
    rng = np.random.default_rng(seed)
    labels, bright = rng.integers(0, num_classes, num_rows), rng.integers(0, 2, num_rows)
    pictures = rng.normal(60 + 40 * bright[:, None, None, None], 20, (num_rows, channels, size, size))
    width = size // num_classes
    for row, label in enumerate(labels):
        pictures[row, :, :, label * width : (label + 1) * width] += 70
    column = Column("image", "image", low=0, high=255, shape=(channels, size, size))
    group = Column("light", "categorical", ("dark", "bright"))
    classes = tuple(f"bar {place}" for place in range(num_classes))
    inputs = np.clip(pictures, 0, 255).astype(np.uint8)
    return _three_splits(inputs, labels, bright, (column,), ("bars", group, classes))


def small_texts(num_rows: int = 400, *, language: str = "en", seed: int = 0) -> Data:
    """Short reviews whose good and bad words tell the class, one time in ten wrongly; the group is what is reviewed."""
    rng = np.random.default_rng(seed)
    english = (
        ["good", "great", "lovely", "fine"],
        ["bad", "awful", "dull", "poor"],
        ["film", "book"],
        ["the", "a", "was", "it", "so"],
    )
    chinese = (
        ["好", "棒", "喜欢", "不错"],
        ["差", "烂", "讨厌", "无聊"],
        ["电影", "书"],
        ["这", "很", "是", "的", "了"],
    )
    good, bad, about, filler = chinese if language == "zh" else english
    labels, topic = rng.integers(0, 2, num_rows), rng.integers(0, 2, num_rows)
    told = []
    for label, which in zip(labels, topic, strict=True):
        mood = (good if label ^ (rng.random() < 0.1) else bad)[rng.integers(4)]
        others = [filler[place] for place in rng.integers(0, 5, rng.integers(2, 9))]
        told.append(("" if language == "zh" else " ").join([about[which], *others, mood]))
    group = Column("topic", "categorical", ("film", "book"))
    column = Column("text", "text", language=language)
    return _three_splits(texts(told), labels, topic, (column,), ("reviews", group, ("bad", "good")))
