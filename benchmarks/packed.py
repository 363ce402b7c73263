"""Data sets as plain files, for machines where only Python, NumPy and torch are at hand; and fewer rows of them.

    python benchmarks/packed.py FOLDER     writes adult, fashion_mnist, mnist and sentiment (about 20 MB)

Arrays go into an .npz without pickles, the declaration and texts into JSON. `load` reads the folder, or the source
itself where no folder is given.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.values import Array, Column, Data, Groups, Split, plain, texts

MOST = {  # rows of training and of test
    "adult": (40_000, 20_000),
    "fashion_mnist": (14_000, 10_000),
    "mnist": (14_000, 10_000),
    "sentiment": (40_000, 20_000),
}
INK = Column("ink", "categorical", ("little", "some", "much"))  # thirds of the mean brightness of training pictures


def load(name: str, folder: Path | None = None) -> Data:
    """A data set by name, with the rows of MOST at most. Pictures get a group: how much of them is bright."""
    if folder is not None:
        return unpack(folder / name)
    from assay.data import load_adult, load_sentiment
    from assay.data.sources.fashion_mnist import load_fashion_mnist
    from assay.data.sources.mnist import load_mnist

    sources: dict[str, Any] = {"adult": load_adult, "sentiment": load_sentiment}
    sources |= {"fashion_mnist": load_fashion_mnist, "mnist": load_mnist}
    data = fewer(sources[name](), *MOST[name])
    return with_ink(data) if data.modality == "image" else data


def fewer(data: Data, num_train: int, num_test: int) -> Data:
    """The same data with so many rows at most, chosen by a fixed seed; validation keeps its share of training."""
    whole = len(data.splits["train"])
    most = {
        "train": num_train,
        "test": num_test,
        "validation": max(256, num_train * len(data.splits["validation"]) // max(whole, 1)),
    }
    rng, splits = np.random.default_rng(0), {}
    for split, rows in data.splits.items():
        order = rng.permutation(len(rows))[: most.get(split, len(rows))]
        splits[split] = rows.take(np.sort(order))
    return replace(data, splits=splits)


def with_ink(data: Data) -> Data:
    """Pictures in three groups by their mean brightness; the borders are those of the training rows."""
    light = {name: split.inputs.reshape(len(split), -1).mean(axis=1) for name, split in data.splits.items()}
    borders = np.quantile(light["train"], [1 / 3, 2 / 3])
    splits = {
        name: replace(split, groups=Groups(np.searchsorted(borders, light[name])[:, None].astype(np.int64), (INK,)))
        for name, split in data.splits.items()
    }
    return replace(data, group_columns=(INK,), splits=splits)


def pack(data: Data, path: Path) -> None:
    """Write `path.npz` and `path.json`."""
    arrays: dict[str, Array] = {}
    told: dict[str, list[str]] = {}
    for name, split in data.splits.items():
        arrays |= {f"{name}.labels": split.labels, f"{name}.codes": split.groups.codes, f"{name}.rows": split.rows}
        if data.modality == "text":
            told[name] = split.inputs.tolist()
        else:
            arrays[f"{name}.inputs"] = split.inputs
    np.savez_compressed(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    facts = {"columns": plain(data.columns), "groups": plain(data.group_columns), "texts": told, "label": data.label}
    facts |= {"name": data.name, "classes": data.classes, "positive": data.positive}
    path.with_suffix(".json").write_text(json.dumps(facts), "utf-8")


def unpack(path: Path) -> Data:
    """Read what `pack` wrote."""
    facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
    arrays = dict(np.load(path.with_suffix(".npz"), allow_pickle=False))
    columns, groups = (tuple(_column(one) for one in facts[kind]) for kind in ("columns", "groups"))
    splits = {}
    for name in {key.partition(".")[0] for key in arrays}:
        own = {key: arrays.get(f"{name}.{key}") for key in ("inputs", "labels", "codes", "rows")}
        inputs: Any = texts(facts["texts"][name]) if own["inputs"] is None else own["inputs"]
        labels, codes, rows = (np.asarray(own[key]) for key in ("labels", "codes", "rows"))
        splits[name] = Split(inputs, labels, Groups(codes, groups), rows)
    classes = tuple(facts["classes"])
    return Data(facts["name"], columns, facts["label"], groups, splits, classes, facts["positive"])


def _column(one: dict[str, Any]) -> Column:
    return Column(**{**one, "categories": tuple(one["categories"]), "shape": tuple(one["shape"])})


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for given in MOST:
        pack(load(given), target / given)
    print(", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in sorted(target.iterdir())))
