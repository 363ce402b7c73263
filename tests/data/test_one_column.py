"""Texts in a column and pictures in a file of tensors: the rows as they were written, or everything wrong at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from assay.data.one_column import read_images, read_texts
from assay.errors import DataError

REVIEWS = "said,mood,about,odd\n" + "".join(
    f'"{word}, {place}",{mood},{about},{place if place else "x"}\n'
    for place in range(30)
    for word, mood, about in ((" so dull", "bad", "film"), ("so good ", "good", "book"))
)


def problems(reader: Any, *words: Any, **more: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        reader(*words, **more)
    return [str(one) for one in caught.value.problems]


def reviews(folder: Path, text: str = REVIEWS) -> Path:
    (folder / "reviews.csv").write_text(text)
    return folder / "reviews.csv"


def test_texts_come_with_their_labels_groups_and_row_numbers(tmp_path: Path) -> None:
    data = read_texts(reviews(tmp_path), text="said", label="mood", groups=["about"])
    assert (data.modality, data.columns[0].language, data.classes, data.positive) == (
        "text",
        "en",
        ("bad", "good"),
        "good",
    )
    seen = {}
    for split in data.splits.values():
        for text, label, group, row in zip(
            split.inputs, split.labels, split.groups.codes[:, 0], split.rows, strict=True
        ):
            seen[int(row)] = (text, data.classes[label], data.group_columns[0].categories[group])
    lines = pl.read_csv(reviews(tmp_path))
    assert [seen[row] for row in range(1, 61)] == [
        (said.strip(), mood, about) for said, mood, about in lines.select("said", "mood", "about").iter_rows()
    ]
    frame = lines.with_columns(pl.col("said").str.strip_chars())
    frame.write_parquet(tmp_path / "reviews.parquet")
    same = read_texts(tmp_path / "reviews.parquet", text="said", label="mood", groups=["about"])
    assert [split.digest for split in same.splits.values()] == [split.digest for split in data.splits.values()]


def test_the_language_is_found_or_told(tmp_path: Path) -> None:
    chinese = "said,mood\n" + "很好看,good\n太差了,bad\n" * 10
    assert read_texts(reviews(tmp_path, chinese), text="said", label="mood").columns[0].language == "zh"
    told = read_texts(reviews(tmp_path, chinese), text="said", label="mood", language="en")
    assert told.columns[0].language == "en"
    assert problems(read_texts, "t.csv", text="a", label="b", language="fr") == [
        "there is no language 'fr'. Allowed: en, zh."
    ]


def test_equal_texts_on_both_sides_are_counted(tmp_path: Path) -> None:
    data = read_texts(reviews(tmp_path, "said,mood\n" + "dull,bad\ngood,good\n" * 20), text="said", label="mood")
    num_test = len(data.splits["test"])
    assert data.source["duplicates"] == {"test_rows_also_in_train": num_test, "test_rows": num_test}


def test_everything_wrong_with_texts_is_told_at_once(tmp_path: Path) -> None:
    named = problems(read_texts, reviews(tmp_path), text="sayd", label="mod", groups=["abot"])
    assert len(named) == 3
    assert all("Allowed: said, mood, about, odd. Check the spelling." in one for one in named)
    lines = REVIEWS.splitlines()
    lines[2], lines[3], lines[5] = ",bad,film,2", "   ,good,book,3", "fine,,film,5"
    cells = problems(read_texts, reviews(tmp_path, "\n".join(lines)), text="said", label="mood", groups=["about"])
    assert cells[0] == "text 'said' is missing in 2 rows (2, 3). Allowed: a text in each row."
    assert cells[1].startswith("label 'mood' is missing in 1 row (5).")
    assert len(cells) == 2


def test_columns_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    assert read_texts(reviews(tmp_path), text="said", label="mood").source["problems"] == []  # "odd" is odd in row 1


def test_a_label_is_no_text(tmp_path: Path) -> None:
    found = problems(read_texts, reviews(tmp_path), text="mood", label="mood")
    assert found == ["the label 'mood' is declared a feature. Leave it out of the features."]


# ------------------------------------------------------------------ pictures


def pictures(path: Path, about: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """Forty pictures of noise in colour, with a light, and what is to be different."""
    rng = np.random.default_rng(0)
    usual: dict[str, Any] = {
        "images": rng.integers(0, 256, (40, 3, 4, 5), dtype=np.uint8),
        "labels": np.arange(40) % 2,
        "group.light": (np.arange(40) // 2 % 2).astype(np.uint8),
        "split": np.repeat([0, 0, 1, 2], 10).astype(np.int8),
    }
    told = {"classes": ["cat", "dog"], "group.light": ["dark", "bright"]} if about is None else about
    metadata = {name: one if isinstance(one, str) else json.dumps(one) for name, one in told.items()}
    save_file({name: one for name, one in (usual | tensors).items() if one is not None}, path, metadata=metadata)
    return path


def test_pictures_come_as_they_are(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 5), dtype=np.uint8)
    about = {"classes": ["cat", "dog"], "positive": "cat", "label": "animal", "licence": "CC0-1.0"}
    data = read_images(pictures(tmp_path / "p.safetensors", about))
    column = data.columns[0]
    assert (data.modality, column.shape, column.low, column.high) == ("image", (3, 4, 5), 0, 255)
    assert (data.classes, data.positive, data.label, data.source["licence"]) == (
        ("cat", "dog"),
        "cat",
        "animal",
        "CC0-1.0",
    )
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 20, "validation": 10, "test": 10}
    for split in data.splits.values():
        assert np.array_equal(split.inputs, raw[split.rows - 1])
        assert np.array_equal(split.labels, (split.rows - 1) % 2)
        assert data.group_columns[0].categories == ("0", "1")  # without names the numbers are the names
        assert np.array_equal(split.groups.codes[:, 0], (split.rows - 1) // 2 % 2)


def test_grey_pictures_a_target_and_no_split(tmp_path: Path) -> None:
    grey = np.arange(40 * 16, dtype=np.uint16).reshape(40, 4, 4).astype(np.uint8)
    target = np.linspace(-1, 1, 40, dtype=np.float32)
    data = read_images(pictures(tmp_path / "p.safetensors", {}, images=grey, labels=target, split=None))
    assert (data.columns[0].shape, data.classes) == ((1, 4, 4), ())
    for split in data.splits.values():
        assert np.array_equal(split.labels, target[split.rows - 1])
    assert data.source["splits"] == {"by": "seed", "seed": 0}


WRONG = {
    "float pictures": ({"images": np.zeros((40, 4, 4), np.float32)}, None, ["images are float32 (40, 4, 4)"]),
    "flat pictures": ({"images": np.zeros((40, 16), np.uint8)}, None, ["images are uint8 (40, 16)"]),
    "one pixel": ({"images": np.zeros((40, 1, 1), np.uint8)}, None, ["images are uint8 (40, 1, 1)"]),
    "too few labels, and floats": (
        {"images": np.zeros((40, 4, 4), np.float32), "labels": np.zeros(39, np.int64)},
        None,
        ["images are float32", "one row a picture"],
    ),
    "a wide group": ({"group.light": np.zeros((40, 2), np.int64)}, None, ["one row a picture"]),
    "classes, group and split at once": (
        {"labels": np.arange(40) % 3, "group.light": np.zeros(40, np.float32), "split": np.full(40, 7)},
        None,
        ["labels are outside of 0..1 in 13 rows (3, 6, 9, 12, 15, …)", "group.light are float32", "0..2 in 40 rows"],
    ),
    "unknown and missing tensors": ({"labels": None, "extra": np.zeros(40)}, None, ["extra", "no tensor 'labels'"]),
    "names that are no list": ({}, {"classes": '{"cat": 1}'}, ["metadata 'classes' is no list of names"]),
    "names that are numbers": ({}, {"classes": "[1, 2]"}, ["metadata 'classes' is no list of names"]),
    "names that are no JSON": ({}, {"classes": "cat dog"}, ["cannot be read"]),
    "a positive class that is none": ({}, {"classes": ["cat", "dog"], "positive": "cow"}, ["'cow' is not a class"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_everything_wrong_with_pictures_is_told_at_once(tmp_path: Path, name: str) -> None:
    tensors, about, parts = WRONG[name]
    found = problems(read_images, pictures(tmp_path / "p.safetensors", about, **tensors))
    assert len(found) == len(parts), found
    assert all(part in one for part, one in zip(parts, found, strict=True)), found
    assert all("Allowed: " in one for one in found), found


@pytest.mark.parametrize("harm", ["cut", "gone", "pickle", "a byte less in the header"])
def test_a_file_that_is_none_is_one_sentence(tmp_path: Path, harm: str) -> None:
    path = pictures(tmp_path / "p.safetensors")
    raw = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": raw[:-1], "pickle": b"\x80\x04K\x01."}.get(harm, raw[:20] + raw[21:]))
    found = problems(read_images, path)
    assert len(found) == 1
    assert "cannot be read" in found[0]
    assert str(path) in found[0]
