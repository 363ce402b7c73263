"""Emoji of one designer, told apart by category; people come in five skin tones of the very same picture."""

from __future__ import annotations

import io
import json
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np

from assay.data.sources.archives import unpack
from assay.data.sources.assemble import Rows, assemble
from assay.data.sources.cache import load_files
from assay.data.sources.images import image_column
from assay.data.sources.near import assign_clusters, joined
from assay.data.sources.registry_mirror import same_file
from assay.data.sources.source import Kept, Package, Source
from assay.errors import DataError, MissingExtraError, Problem
from assay.values import Array, Column, Data, Progress, quiet

SIZE = 32  # pixels a side, from 64 by means of four
TONES = MappingProxyType(
    {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
)
GROUPS = ("no tone", *TONES.values(), "several")
CLASSES = (
    "Activities",
    "Animals & Nature",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
_PACKAGE = Package(
    "npm",
    "emoji-datasource-twitter",
    "16.0.0",
    "emoji-datasource-twitter-16.0.0.tgz",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    61_683_754,
)
_KEPT = (
    Kept(
        "emoji.json",
        "!package/emoji.json",
        "1d602e65be88772bf8cc368ce16b855d719eeddbafe128d471b80203f494d29f",
        1_313_457,
    ),
    Kept(
        "pictures",
        "!package/img/twitter/64/*.png",
        "b46846b1d9613db166e46439b917feb6f58f2c1c57a30fe9e64bdad03134d897",
        10_522_278,
    ),
)
SOURCE = Source(
    "emoji",
    _PACKAGE,
    _KEPT,
    address="https://github.com/iamcal/emoji-data",
    licence="CC-BY-4.0 (pictures: Twemoji); MIT (table)",
    citation="Twemoji by Twitter and contributors; emoji-data by Cal Henderson, version 16.0",
    mirrors=(same_file(_PACKAGE, _KEPT, path="emoji-datasource-twitter/-/emoji-datasource-twitter-16.0.0.tgz"),),
)
_PEOPLE = ("1F468", "1F469", "1F9D1")  # man, woman, person
_MARKS = ("2640", "2642", "27A1", "1F9B0", "1F9B1", "1F9B2", "1F9B3")  # female, male, facing right, hair
_COUPLES = MappingProxyType(
    {  # code points that show the same as a sequence
        "1F46B": "person.1F91D.person",
        "1F46C": "person.1F91D.person",
        "1F46D": "person.1F91D.person",
        "1F48F": "person.2764.1F48B.person",
        "1F491": "person.2764.person",
    }
)
LIMITS = (
    "drawings, not photographs: a gap between tones here says nothing about people in photographs",
    "60 % are of the class People & Body, and only these have tones",
    "one designer",
)


def load_emoji(*, validation: float = 0.1, seed: int = 0, fetch: bool = False, progress: Progress = quiet) -> Data:
    """3,781 emoji in nine categories; inputs `(N, 3, 32, 32)` uint8, on white. Group: skin_tone.

    Pictures of one person or thing in several tones, sexes and hair, and equal pictures, are on one side of the split,
    which is by seed and stratified by class. Left out: the five swatches of the category Component. `skin_tone`: the
    five of Unicode, "no tone" (yellow, or not a person), "several" (two people of different tones).
    `counterfactual_pairs` gives the rows that differ in the tone alone. Limits: in `source["card"]`.
    Source: Twemoji 16.0. Raises MissingExtraError without Pillow, DataError when not fetched.
    """
    files = load_files(SOURCE, fetch=fetch, progress=progress)
    table = [row for row in _table(files["emoji.json"]) if row["category"] in CLASSES]
    pictures = unpack(files["pictures"])
    missing = [row["image"] for row in table if row["image"] not in pictures]
    if missing:
        raise DataError(Problem(f"{len(missing)} pictures are not in the package: {', '.join(missing[:5])}"))
    inputs = np.stack([shrink(_pixels(pictures[row["image"]])) for row in table])
    labels = np.array([CLASSES.index(row["category"]) for row in table])
    equal: dict[bytes, int] = {}
    same = np.array([equal.setdefault(picture.tobytes(), row) for row, picture in enumerate(inputs)])
    keys = [row["key"] if row["category"] == "People & Body" else "" for row in table]
    assigned = assign_clusters(joined(same, keys), labels, test=0.2, validation=validation, seed=seed)
    families: dict[str, list[int]] = {}
    for number, row in enumerate(table, start=1):
        if row["tone"] in TONES.values():
            families.setdefault(row["base"], []).append(number)
    by = {"by": "seed", "test": 0.2, "validation": validation, "seed": seed}
    facts: dict[str, Any] = {
        **SOURCE.facts(),
        "card": {"title": "Emoji (Twemoji 16.0)", "limits": list(LIMITS)},
        "dropped": {"category Component": 5},
        "splits": by,
        "counterfactuals": {"skin_tone": [rows for rows in families.values() if len(rows) > 1]},
    }
    codes = np.array([[GROUPS.index(row["tone"])] for row in table])
    columns = (Column("skin_tone", "categorical", GROUPS),)
    rows = Rows(inputs, labels, assigned, codes, columns)
    return assemble("emoji", image_column(inputs), rows, classes=CLASSES, source=facts)


def counterfactual_pairs(data: Data, *, split: str = "test") -> Array:
    """Places in a split `(P, 2)` of rows that are the same picture in two skin tones, lighter first.

    Of a picture in five tones, all ten pairs. Raises DataError for data that do not say which rows belong together.
    """
    families = data.source.get("counterfactuals", {}).get("skin_tone")
    if families is None:
        raise DataError(Problem(f"{data.name} does not say which rows differ in one thing alone", "emoji"))
    place = {int(number): at for at, number in enumerate(data.splits[split].rows)}
    pairs = [(place[one], place[other]) for rows in families for one, other in combinations(rows, 2) if one in place]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def shrink(picture: Array) -> Array:
    """A picture `(H, W, 4)` on white, as `(3, H/2, W/2)` uint8: means of four pixels, rounded to nearest."""
    alpha = picture[..., 3:].astype(np.float64) / 255
    solid = picture[..., :3] * alpha + 255 * (1 - alpha)
    height, width, _ = solid.shape
    means = solid.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    shrunk: Array = np.floor(means + 0.5).astype(np.uint8).transpose(2, 0, 1)
    return shrunk


def one_of(unified: str) -> str:
    """What a sequence of code points shows, whatever sex, hair or direction it has: such pictures are nearly equal.

    >>> one_of("1F469-200D-1F692"), one_of("1F3C3-200D-2640-FE0F")
    ('person.1F692', '1F3C3')
    """
    parts = [part.removesuffix("-FE0F") for part in unified.split("-200D-")]
    shown = ["person" if part in _PEOPLE else part for part in parts if part not in _MARKS]
    return _COUPLES.get(".".join(shown), ".".join(shown))


def _table(raw: bytes) -> list[dict[str, str]]:
    """One row for each picture: image, category, tone, base (the picture without tone), key (the person or thing)."""
    found = []
    for one in json.loads(raw):
        base = {"category": one["category"], "base": one["unified"], "key": one_of(one["unified"])}
        found.append({**base, "image": one["image"], "tone": "no tone"})
        for tones, other in one.get("skin_variations", {}).items():
            names = {TONES[tone] for tone in tones.split("-")}
            found.append({**base, "image": other["image"], "tone": names.pop() if len(names) == 1 else "several"})
    return found


def _pixels(raw: bytes) -> Array:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("Pillow", "images") from error
    with Image.open(io.BytesIO(raw), formats=["PNG"]) as picture:
        if picture.size != (2 * SIZE, 2 * SIZE):
            raise DataError(Problem(f"a picture has {picture.size} pixels", f"{(2 * SIZE, 2 * SIZE)}"))
        return np.asarray(picture.convert("RGBA"), dtype=np.uint8)
