"""Golden counts come from the published files: adult.names of UCI says 32,561 and 16,281 rows, 24.08 % positive."""

import hashlib
import json
from importlib import resources
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assay.data import adult, load_adult
from assay.errors import DataError

FILES = Path(str(resources.files("assay.data"))) / "files"
DIGEST = "e4fa20975f6eed78dcaaf4694ecb7d884d5b442e458bcff03d9f792a5ccd0ee8"


@pytest.fixture(scope="module")
def data():
    return load_adult()


@pytest.fixture(scope="module")
def whole():
    return load_adult(validation=0)


def test_sizes_and_shares_are_the_published_ones(whole):
    train, validation, test = (whole.splits[name] for name in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (32_561, 0, 16_281)
    assert whole.classes == ("<=50K", ">50K")
    assert whole.positive == ">50K"
    assert np.bincount(train.labels).tolist() == [24_720, 7_841]
    assert np.bincount(test.labels).tolist() == [12_435, 3_846]
    assert round(100 * train.labels.mean(), 2) == 24.08
    sex, race = whole.group_columns
    assert sex.categories == ("Female", "Male")
    assert np.bincount(train.groups.codes[:, 0]).tolist() == [10_771, 21_790]
    assert dict(zip(race.categories, np.bincount(train.groups.codes[:, 1]).tolist(), strict=True)) == {
        "Amer-Indian-Eskimo": 311, "Asian-Pac-Islander": 1_039, "Black": 3_124, "Other": 271, "White": 27_816,
    }  # fmt: skip


def test_columns_are_the_raw_ones_without_the_survey_weight(whole):
    names = [column.name for column in whole.columns]
    assert len(names) == 13
    assert {"sex", "race", "education", "education-num"} < set(names)
    assert not {"fnlwgt", "income", "split"} & set(names)
    sizes = {column.name: len(column.categories) for column in whole.columns if column.kind == "categorical"}
    assert sizes == {
        "workclass": 8, "education": 16, "marital-status": 7, "occupation": 14, "relationship": 6, "race": 5,
        "sex": 2, "native-country": 41,
    }  # fmt: skip
    age = whole.columns[names.index("age")]
    assert (age.low, age.high) == (17, 90)


def test_question_marks_are_missing(whole):
    column = [column.name for column in whole.columns].index("workclass")
    assert sum((split.inputs[:, column] == -1).sum() for split in whole.splits.values()) == 2_799
    assert whole.source["missing"] == {"workclass": 2_799, "occupation": 2_809, "native-country": 857}


def test_first_rows_agree_with_the_raw_text(whole):
    """adult.data, row 1: 39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, ..., 2174, 0, 40, <=50K."""
    first = dict(zip((column.name for column in whole.columns), whole.splits["train"].inputs[0], strict=True))
    assert [first[name] for name in ("age", "education-num", "capital-gain", "hours-per-week")] == [39, 13, 2174, 40]
    columns = {column.name: column for column in whole.columns}
    assert columns["occupation"].categories[int(first["occupation"])] == "Adm-clerical"
    assert columns["native-country"].categories[int(first["native-country"])] == "United-States"
    assert whole.splits["train"].rows[0] == 1
    assert whole.splits["test"].rows[0] == 32_562


def test_coding_agrees_with_the_file_cell_by_cell(data):
    frame = pl.read_parquet(FILES / "adult.parquet")
    test = data.splits["test"]
    rows = frame[test.rows - 1]
    assert (rows["split"] == "test").all()
    for i, column in enumerate(data.columns):
        if column.kind == "numeric":
            np.testing.assert_array_equal(test.inputs[:, i], rows[column.name].to_numpy())
        else:
            names = np.array([*column.categories, None], dtype=object)
            assert names[test.inputs[:, i].astype(int)].tolist() == rows[column.name].to_list()
    assert np.array(data.classes)[test.labels].tolist() == rows["income"].to_list()


def test_same_seed_same_digest_and_another_seed_only_moves_validation(data):
    assert data.digest == DIGEST == load_adult().digest
    other = load_adult(seed=1)
    assert other.digest != data.digest
    assert other.splits["test"].digest == data.splits["test"].digest
    assert not np.array_equal(other.splits["validation"].rows, data.splits["validation"].rows)


def test_validation_is_a_stratified_part_of_train(data):
    train, validation = data.splits["train"], data.splits["validation"]
    assert len(validation) == 3_256
    assert abs(validation.labels.mean() - train.labels.mean()) < 1e-4
    rows = np.concatenate([split.rows for split in data.splits.values()])
    assert np.array_equal(np.sort(rows), np.arange(1, 48_843))


def test_shared_rows_are_reported_not_removed(data):
    frame = pl.read_parquet(FILES / "adult.parquet")
    features = [column.name for column in data.columns]
    keys = {
        name: [tuple(row) for row in frame[split.rows - 1].select(*features, "income").iter_rows()]
        for name, split in data.splits.items()
    }
    known = set(keys["train"])
    assert data.source["duplicates"]["test_rows_also_in_train"] == sum(key in known for key in keys["test"]) == 2_449
    assert any("15.0%" in problem for problem in data.source["problems"])
    assert data.source["card"]["duplicates"]["all_15_columns"]["test_rows_also_in_train"] == 23


def test_card_describes_the_file():
    card = json.loads((FILES / "adult.json").read_text("utf-8"))
    raw = (FILES / "adult.parquet").read_bytes()
    assert card["sha256"] == hashlib.sha256(raw).hexdigest()
    assert len(raw) == card["num_bytes"] <= 700_000
    assert card["licence"] == "CC-BY-4.0"
    assert card["doi"] == "10.24432/C5XW20"
    frame = pl.read_parquet(FILES / "adult.parquet")
    assert set(card["columns"]) == set(frame.columns)
    assert card["num_rows"]["total"] == len(frame) == 48_842
    women = frame.filter((pl.col("split") == "test") & (pl.col("sex") == "Female"))
    cell = card["groups"]["sex"]["test"]["Female"]
    assert cell["rows"] == len(women)
    assert cell["positive_share"] == round((women["income"] == ">50K").mean(), 4)


@pytest.mark.parametrize("damage", ["cut", "edit", "empty"])
def test_a_damaged_file_is_refused_before_it_is_parsed(monkeypatch, damage):
    raw = (FILES / "adult.parquet").read_bytes()
    bad = {"cut": raw[:-1], "edit": raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:], "empty": b""}[damage]
    parsed = []
    monkeypatch.setattr(adult, "_read", lambda: bad)
    monkeypatch.setattr(adult.pl, "read_parquet", lambda *_: parsed.append(1))
    adult._frame.cache_clear()
    try:
        with pytest.raises(DataError, match="SHA-256"):
            load_adult()
    finally:
        adult._frame.cache_clear()
    assert not parsed


def test_validation_share_is_bounded():
    with pytest.raises(DataError, match="validation is 1"):
        load_adult(validation=1.0)


def test_the_written_card_agrees_with_the_file(whole):
    text = (Path(__file__).parents[2] / "docs" / "data-card-adult.md").read_text("utf-8")
    card = whole.source["card"]
    assert card["sha256"] in text
    assert f"{card['num_bytes']:,} bytes" in text
    for groups in card["groups"].values():
        for value in groups["train"]:
            cells = [value]
            for split in ("train", "test"):
                cell = groups[split][value]
                cells += [f"{cell['rows']:,} ({100 * cell['share']:.1f} %)", f"{100 * cell['positive_share']:.1f} %"]
            assert f"| {' | '.join(cells)} |" in text
    for column in card["columns"].values():
        assert not column["num_missing"] or f"| {column['num_missing']:,} |" in text
    for count in card["duplicates"]["all_15_columns"].values():
        assert f" {count} " in text
    assert f"{card['duplicates']['features_and_label']['test_rows_also_in_train']:,} test rows (15.9 %)" in text
