"""The check of a data set: every planted defect is in a row of its kind, and a clean set asks for nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from assay.data import load_adult
from assay.data.quality import KINDS, check_data
from assay.data.quality.columns import is_identifier
from assay.errors import DataError
from assay.values import Column, Data, Groups, Split, texts
from support import small_images, small_texts


def made_up(num=1200, seed=0):
    """Two classes that four columns tell together (each alone: 95 %, all: 99.97 %), and groups of equal size."""
    rng = np.random.default_rng(seed)
    labels, sex = rng.integers(0, 2, num), rng.integers(0, 2, num)
    inputs = rng.normal(size=(num, 4)).astype(np.float32)
    inputs += 1.7 * (2 * labels[:, None] - 1)
    columns = tuple(Column(f"x{i}", "numeric") for i in range(4))
    group = (Column("sex", "categorical", ("f", "m")),)
    splits, start = {}, 0
    for name, size in (("train", num // 2), ("validation", num // 6), ("test", num // 3)):
        part = slice(start, start + size)
        rows = np.arange(start, start + size) + 1
        splits[name] = Split(inputs[part], labels[part], Groups(sex[part, None].astype(np.int16), group), rows)
        start += size
    return Data("made up", columns, "label", group, splits, ("no", "yes"), "yes")


def change(data, name, **values):
    return replace(data, splits={**data.splits, name: replace(data.splits[name], **values)})


def one(report, kind, where):
    return next(row for row in report.of(kind) if row.where == where)


def test_a_clean_set_asks_for_nothing():
    report = check_data(made_up())
    assert [(row.kind, row.where) for row in report.concerns] == []
    assert {row.kind for row in report.rows} == set(KINDS)
    assert all(row.reason for row in report.rows if row.low is None)
    assert all(row.low <= row.share <= row.high for row in report.rows if row.low is not None)


def test_missing_cells_and_groups():
    data = made_up()
    train = data.splits["train"]
    inputs, codes = train.inputs.copy(), train.groups.codes.copy()
    inputs[[3, 5], 1], codes[7] = np.nan, -1
    data = change(data, "train", inputs=inputs, groups=replace(train.groups, codes=codes))
    report = check_data(data, labels=False, near=False)
    assert one(report, "missing values", "train: x1").rows == (4, 6)
    assert one(report, "missing values", "train: group sex").rows == (8,)
    assert ("suspected labels", "not asked for") in report.skipped


def test_repeats_conflicts_and_copies():
    data = made_up()
    train, test = data.splits["train"], data.splits["test"]
    inputs, labels = train.inputs.copy(), train.labels.copy()
    inputs[10], labels[10] = inputs[4], labels[4]  # a repeat
    inputs[11], labels[11] = inputs[5], 1 - labels[5]  # the same inputs, another label
    data = change(data, "train", inputs=inputs, labels=labels)
    known, answers = test.inputs.copy(), test.labels.copy()
    known[:5], answers[:5] = inputs[20:25], labels[20:25]
    known[5] = inputs[30] + np.float32(0.001)
    data = change(data, "test", inputs=known, labels=answers)
    report = check_data(data, labels=False)
    assert one(report, "duplicate rows", "train").rows == (11,)
    assert one(report, "conflicting labels", "train").rows == (6, 12)
    assert one(report, "copies across splits", "test in train").rows == (801, 802, 803, 804, 805)
    assert one(report, "near copies across splits", "test in train").rows == (806,)
    assert one(report, "copies across splits", "validation in train").count == 0


def test_columns_that_say_nothing_or_name_rows():
    data = made_up()
    columns = (*data.columns, Column("flat", "numeric"), Column("case", "numeric"))
    splits = {
        name: replace(split, inputs=np.column_stack([split.inputs, np.ones(len(split)), split.rows]).astype(np.float32))
        for name, split in data.splits.items()
    }
    report = check_data(replace(data, columns=columns, splits=splits), labels=False, near=False)
    assert [row.where for row in report.of("constant column")] == ["column flat"]
    assert [row.where for row in report.of("identifier-like column")] == ["column case"]


def test_a_leak_is_told_from_a_strong_column():
    strong = check_data(made_up(), labels=False, near=False).of("label leak")
    assert len(strong) == 1
    assert not strong[0].advice
    data = made_up()
    for name, split in data.splits.items():
        inputs = split.inputs.copy()
        inputs[:, 2] = 100 * split.labels + np.random.default_rng(1).normal(size=len(split))
        data = change(data, name, inputs=inputs)
    (leak,) = check_data(data, labels=False, near=False).of("label leak")
    assert leak.where == "column x2"
    assert leak.share >= 0.98  # the bin between the classes is of both
    assert leak.advice
    numbers = {name: replace(split, labels=split.inputs[:, 2] * 2) for name, split in data.splits.items()}
    target = check_data(replace(data, splits=numbers, classes=(), positive=None), near=False)
    assert [row.where for row in target.of("label leak") if row.advice] == ["column x2"]
    assert (
        "suspected labels",
        "confident learning is defined for classes, and the label is a number",
    ) in target.skipped


def test_identifiers_are_codes_or_whole_numbers_that_fill_a_range():
    rng = np.random.default_rng(0)
    number = Column("n", "numeric")
    assert is_identifier(rng.permutation(1000).astype(np.float32)[:500], number)
    assert not is_identifier(rng.normal(size=500).astype(np.float32), number)
    assert not is_identifier(rng.choice(10**6, 500, replace=False).astype(np.float32), number)
    assert not is_identifier(rng.integers(17, 90, 500).astype(np.float32), number)
    assert is_identifier(np.arange(100.0), Column("c", "categorical", tuple(map(str, range(100)))))


def test_planted_wrong_labels_are_among_the_suspects():
    data = made_up()
    train = data.splits["train"]
    wrong = np.arange(len(train)) % 10 == 0
    spoilt = change(data, "train", labels=np.where(wrong, 1 - train.labels, train.labels))
    clean, found = (one(check_data(d, near=False), "suspected labels", "train") for d in (data, spoilt))
    assert clean.count <= 2
    assert 40 <= found.count <= 70
    assert one(check_data(spoilt, near=False), "suspected labels", "test").count <= 2


def test_small_groups_and_a_declared_population():
    data = made_up()
    codes = np.where(np.arange(600) < 580, 0, 1)[:, None].astype(np.int16)
    data = change(data, "train", groups=replace(data.splits["train"].groups, codes=codes))
    data = replace(data, source={"population": {"sex": {"f": 0.5, "m": 0.5}}})
    report = check_data(data, labels=False, near=False)
    row = one(report, "group share", "train: sex=m")
    assert row.count == 20
    assert "Fewer than 30" in row.advice
    assert "50.0%" in row.advice
    assert one(report, "group share", "test: sex=m").advice == ""
    cells = [row.count for row in report.of("group and label") if row.where.startswith("train: sex=m")]
    assert sum(cells) == 20


def test_texts_report_rows_and_never_what_stands_in_them():
    data = small_texts(200)
    train = data.splits["train"]
    told = train.inputs.tolist()
    told[3], told[9], told[11] = "write to ann@example.org", "card 4111 1111 1111 1111 of ann@example.org", " "
    report = check_data(change(data, "train", inputs=texts(told)))
    assert one(report, "personal data", "train: email").rows == (int(train.rows[3]), int(train.rows[9]))
    assert one(report, "personal data", "train: card").count == 1
    assert one(report, "missing values", "train: text").rows == (int(train.rows[11]),)
    said = json.dumps(report.to_json())
    assert "ann@" not in said
    assert "4111" not in said


def test_images_and_categories_of_tables():
    data = small_images(150)
    train, test = data.splits["train"], data.splits["test"]
    pictures = test.inputs.copy()
    pictures[0], pictures[1] = train.inputs[0], np.clip(train.inputs[1].astype(int) + 9, 0, 255)
    report = check_data(
        change(data, "test", inputs=pictures, labels=np.concatenate([train.labels[:1], test.labels[1:]]))
    )
    assert one(report, "copies across splits", "test in train").count == 1
    assert int(test.rows[1]) in one(report, "near copies across splits", "test in train").rows
    assert "personal data" in dict(report.skipped)
    people = Column("mail", "categorical", ("ann@example.org", "none"))
    table = made_up()
    splits = {
        name: replace(split, inputs=np.column_stack([split.inputs, split.labels]).astype(np.float32))
        for name, split in table.splits.items()
    }
    report = check_data(replace(table, columns=(*table.columns, people), splits=splits), labels=False, near=False)
    assert one(report, "personal data", "train: email").count == int((table.splits["train"].labels == 0).sum())


def test_no_training_rows():
    data = made_up()
    with pytest.raises(DataError, match="no training rows"):
        check_data(replace(data, splits={"test": data.splits["test"]}))


def test_order_of_rows_changes_no_count():
    data = made_up()
    rng = np.random.default_rng(0)
    mixed = replace(data, splits={name: split.take(rng.permutation(len(split))) for name, split in data.splits.items()})
    first, second = check_data(data), check_data(mixed)
    assert [(row.kind, row.where, row.count) for row in first.rows] == [
        (row.kind, row.where, row.count) for row in second.rows
    ]


@pytest.mark.slow
def test_adult_agrees_with_its_card():
    data = load_adult()
    report = check_data(data)
    row = one(report, "copies across splits", "test in train")
    assert (row.count, row.of) == (data.source["duplicates"]["test_rows_also_in_train"], 16281)
    assert {row.where for row in report.of("missing values")} >= {"train: workclass", "train: occupation"}
    assert [row for row in report.of("label leak") if row.advice] == []
