"""What a newcomer's first file runs into: whole-number classes, missing cells, decimal commas, few rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assay.commands.files import notes_of, open_file, require_folder
from assay.commands.sources import open_system
from assay.commands.train import label_in_words
from assay.errors import DataError, UsageError
from assay.train.system import train_system
from cli_kit import Run, runner

ROWS = [f"{20 + i},{'fm'[i % 2]},{i * 0.37:.2f},{'train' if i % 4 else 'test'},{i % 3}" for i in range(60)]


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def table(folder: Path, rows: list[str], declared: str = "") -> str:
    path = folder / "loans.csv"
    path.write_text("age,sex,sum,fold,rating\n" + "\n".join(rows) + "\n")
    if declared:
        (folder / "loans.csv.toml").write_text(declared)
    return str(path)


def problems(name: str) -> str:
    with pytest.raises(DataError) as caught:
        open_file(name, "rating", ["sex"], "")
    return str(caught.value)


def test_what_must_be_declared_is_told_with_the_place_to_do_it(tmp_path: Path) -> None:
    told = problems(table(tmp_path, ROWS))
    assert "3 different whole numbers" in told
    assert "loans.csv.toml beside it. Allowed: task, missing, split" in told
    assert told.endswith('A line of it: task = "classification".')


def test_a_declaration_beside_the_file_holds_when_the_system_is_opened_again(assay: Run, tmp_path: Path) -> None:
    rows = [ROWS[0].replace("20,", ",", 1), *ROWS[1:]]  # one age is missing
    told = 'task = "classification"\nmissing = "median"\nsplit = "fold"\nfeatures = ["age", "sum"]\n'
    table(tmp_path, rows, told)
    ran = assay("train", "loans.csv", "--label", "rating", "--set", "epochs=1", "--out", "s")
    assert (ran.code, ran.err) == (0, "")
    assert "note:   feature 'age': 1 row (1) without a number got the training median" in ran.out
    system, _ = open_system(str(tmp_path / "s"), ("", "", "", ""))
    assert (system.data.classes, [one.name for one in system.data.columns]) == (("0", "1", "2"), ["age", "sum"])
    assert len(system.data.splits["test"]) == 15
    (tmp_path / "loans.csv.toml").write_text(told.replace('"age", "sum"', '"sum", "sex"'))
    assert "defect" not in (again := assay("audit", "s", "--probes", "accuracy", "--out", "d")).err
    assert again.code == 2  # other columns than it was trained on are told, not measured


def test_stars_of_texts_can_be_declared_classes(tmp_path: Path) -> None:
    rows = "".join(f"{word} {i},{1 + i % 5}\n" for i in range(40) for word in ("dull", "good"))
    name = str(tmp_path / "reviews.csv")
    Path(name).write_text("review,stars\n" + rows)
    with pytest.raises(DataError, match=r"reviews\.csv\.toml beside it"):
        open_file(name, "stars", [], "review")
    Path(name + ".toml").write_text('task = "classification"\n')
    data, _ = open_file(name, "stars", [], "review")
    assert (data.modality, data.classes) == ("text", ("1", "2", "3", "4", "5"))
    Path(name + ".toml").write_text('task = "classification"\nmissing = "median"\n')
    with pytest.raises(DataError, match="declares missing of a file of texts"):
        open_file(name, "stars", [], "review")


def test_texts_are_divided_by_time_and_have_a_positive_class(tmp_path: Path) -> None:
    said = {"dull": "no", "good": "yes"}
    rows = "".join(f"{word} {i},{said[word]},2024-1-{1 + i % 20}\n" for i in range(40) for word in said)
    name = str(tmp_path / "reviews.csv")
    Path(name).write_text("review,liked,day\n" + rows)
    Path(name + ".toml").write_text('time = "day"\npositive = "no"\n')
    data, _ = open_file(name, "liked", [], "review")
    assert (data.positive, data.source["splits"]["by"], len(data.columns)) == ("no", "day", 1)
    days = {part: {(row - 1) // 2 % 20 + 1 for row in split.rows.tolist()} for part, split in data.splits.items()}
    assert days["test"] == {17, 18, 19, 20}
    assert max(days["train"]) < min(days["validation"]) <= max(days["validation"]) < 17


def test_a_wrong_declaration_is_told_whole(tmp_path: Path) -> None:
    told = problems(table(tmp_path, ROWS, 'missing = 3\ncategorial = ["age"]\nfeatures = "age"\n'))
    assert all(one in told for one in ("missing is 3", "'categorial' is not known", "features is 'age'"))
    assert "is not TOML" in problems(table(tmp_path, ROWS, "task classification"))


@pytest.mark.parametrize("cells", [[f'"{i},{i % 90 + 10}"' for i in range(60)], [f'"{i + 1},045"' for i in range(60)]])
def test_numbers_with_commas_are_no_categories(tmp_path: Path, cells: list[str]) -> None:
    rows = [f"{20 + i},f,{cell},test,{i % 3}" for i, cell in enumerate(cells)]
    told = problems(table(tmp_path, rows, 'task = "classification"'))
    assert "column 'sum' holds numbers with commas" in told
    data, _ = open_file(table(tmp_path, rows, 'task = "classification"\ncategorical = ["sum"]'), "rating", ["sex"], "")
    assert any("looks like an identifier" in one for one in notes_of(data)) or len(data.columns[2].categories) > 20


def test_a_system_trained_without_validation_rows_can_be_saved(assay: Run, tmp_path: Path) -> None:
    rows = [f"{20 + i},f,{i},x,{'ny'[i % 2]}" for i in range(5)]
    table(tmp_path, rows)
    ran = assay("train", "loans.csv", "--label", "rating", "--set", "epochs=1", "--out", "s")
    assert (ran.code, ran.err) == (0, "")
    assert "note:   the validation split has no rows" in ran.out
    data, _ = open_file("loans.csv", "rating", [], "")
    facts = train_system(data).facts
    assert facts["validation_loss"] is None
    assert {point["validation_metric"] for point in facts["curve"]} == {None}


def test_notes_do_not_fill_the_screen(tmp_path: Path) -> None:
    rows = [f"{i % 7},f,1,1,{'ny'[i % 2]}" for i in range(60)]
    data, _ = open_file(table(tmp_path, rows), "rating", [], "")
    assert len(data.source["problems"]) >= 3
    assert notes_of(data, most=1)[1:] == [
        f"{len(data.source['problems']) - 1} notes more: assay data check shows what is in the data"
    ]


def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="is read-only"):
        require_folder(tmp_path / "new", marks=[])


def test_a_mistyped_setting_is_answered_with_the_settings(assay: Run, tmp_path: Path) -> None:
    table(tmp_path, ROWS, 'task = "classification"')
    ran = assay("train", "loans.csv", "--label", "rating", "--set", "epoch=1", "--out", "s")
    assert (ran.code, "epochs" in ran.err) == (2, True)


def test_a_comparison_with_nothing_is_told(assay: Run, tmp_path: Path) -> None:
    table(tmp_path, ROWS, 'task = "classification"')
    assay("train", "loans.csv", "--label", "rating", "--set", "epochs=1", "--out", "s")
    ran = assay("compare", "s", "--out", "c")
    assert (ran.code, "no treatment is named" in ran.err) == (2, True)
    assert not (tmp_path / "c").exists()


def test_a_bound_has_the_unit_of_what_it_bounds(assay: Run, tmp_path: Path) -> None:
    table(tmp_path, ROWS, 'task = "classification"')
    assay("train", "loans.csv", "--label", "rating", "--set", "epochs=1", "--out", "s")
    ran = assay("audit", "s", "--probes", "model_bytes", "--out", "d")
    assert "≤ 100 MB" in ran.out
    assert "100000000" not in ran.out


def test_what_cannot_be_stored_is_not_treated_first(
    assay: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text(
        "import numpy as np\nimport assay\nfrom assay.data import from_arrays\n\n\ndef make():\n"
        "    sexes = ['f', 'm', 'm', 'f'] * 10\n"
        "    data = from_arrays(np.arange(80.0).reshape(40, 2) % 7, ['a', 'b'] * 20, groups={'sex': sexes})\n"
        "    return assay.system_of(assay.CallableModel(lambda rows: rows, name='odds', outputs_are='logits'), data)\n"
    )
    monkeypatch.setattr("assay.story.treat", lambda *_, **__: pytest.fail("treated before it was told"))
    ran = assay("treat", "elsewhere:make", "--with", "group_thresholds", "--out", "t")
    assert (ran.code, "cannot be stored" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([f'"¥{i + 1},045.50"' for i in range(60)], "holds numbers with marks: '¥1,045.50'"),
        ([f"{i}.5 %" if i else "unknown" for i in range(60)], "holds numbers with marks"),
        ([f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(60)], "holds dates: '2024-01-01'"),
        ([f"{1 + i % 28}/{1 + i // 28}/2024" for i in range(60)], "holds dates: '1/1/2024'"),
    ],
)
def test_money_shares_and_dates_are_no_categories(tmp_path: Path, cells: list[str], said: str) -> None:
    rows = [f"{20 + i},f,{cell},test,{'ny'[i % 2]}" for i, cell in enumerate(cells)]
    told = problems(table(tmp_path, rows))
    assert said in told
    assert "a category" in told if "dates" in said else "currency" in told
    data, _ = open_file(table(tmp_path, rows, 'leave_out = ["sum", "fold"]'), "rating", ["sex"], "")
    assert [one.name for one in data.columns] == ["age", "sex"]


def test_a_group_left_out_of_the_features_is_a_group_still(tmp_path: Path) -> None:
    name = table(tmp_path, ROWS, 'task = "classification"\nleave_out = ["sex", "fold"]')
    data, _ = open_file(name, "rating", ["sex"], "")
    assert [one.name for one in data.columns] == ["age", "sum"]
    assert [one.name for one in data.group_columns] == ["sex"]
    wrong = problems(table(tmp_path, ROWS, 'leave_out = ["sx", "rating"]\nfeatures = ["age"]'))
    assert "one of them: what is in, or what is out" in wrong
    wrong = problems(table(tmp_path, ROWS, 'task = "classification"\nleave_out = ["sx", "rating"]'))
    assert "no left-out column 'sx'" in wrong
    assert "'rating' is left out and also the label" in wrong


def test_the_newest_rows_are_the_test_rows(tmp_path: Path) -> None:
    rows = [f"{20 + i},f,{i},2024/{1 + i % 12}/{1 + i // 12},{'ny'[i // 12 % 2]}" for i in range(60)]
    name = table(tmp_path, rows, 'time = "fold"')
    data, _ = open_file(name, "rating", ["sex"], "")
    assert [one.name for one in data.columns] == ["age", "sex", "sum"]
    months = {part: {(row - 1) % 12 for row in split.rows.tolist()} for part, split in data.splits.items()}
    assert max(months["train"]) <= min(months["validation"]) < max(months["validation"]) <= min(months["test"])
    assert [len(data.splits[part]) for part in ("train", "validation", "test")] == [43, 5, 12]
    assert data.source["splits"]["by"] == "fold"
    rows[3] = rows[3].replace("2024/4/1", "soon")
    told = problems(table(tmp_path, rows, 'time = "fold"'))
    assert "holds no time in 1 row (4): soon" in told
    assert "split by 'a' and by the time 'b'" in problems(table(tmp_path, rows, 'split = "a"\ntime = "b"'))
    assert "there is no time column 'day'" in problems(table(tmp_path, rows, 'time = "day"'))


def test_a_column_that_no_dossier_may_hold_is_told_before_the_audit(
    assay: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{20 + i % 9},{'fm'[i % 2]},{i % 5},c{i},{'ny'[i // 2 % 2]}" for i in range(200)]
    table(tmp_path, rows)
    ran = assay("train", "loans.csv", "--label", "rating", "--set", "epochs=1", "--out", "s")
    assert "which no dossier may hold" in ran.out
    monkeypatch.setattr("assay.engine.audit", lambda *_, **__: pytest.fail("audited before it was told"))
    for verb in (["audit", "s"], ["compare", "s", "--treatments", "quantize_int8"], ["slim", "s"]):
        ran = assay(*verb, "--out", "d")
        assert (ran.code, "name persons in the open part" in ran.err) == (2, True)


def test_the_line_that_is_advised_is_the_one_that_helps(tmp_path: Path) -> None:
    told = problems(table(tmp_path, [",f,1,x,n", *(f"{i},m,2,x,{'ny'[i % 2]}" for i in range(30))]))
    assert told.endswith('A line of it: missing = "median".')


def test_training_says_how_rows_are_divided_and_which_class_is_positive(assay: Run, tmp_path: Path) -> None:
    rows = [f"{20 + i},{'fm'[i // 2 % 2]},{i % 9},x,{'default' if i % 10 == 0 else 'repaid'}" for i in range(200)]
    table(tmp_path, rows)
    ran = assay("train", "loans.csv", "--label", "rating", "--set", "epochs=1", "--out", "s")
    assert "data:   144 train, 16 validation, 40 test rows of loans" in ran.out
    assert "label rating: default 9.7 %, repaid 90.3 % of training rows; positive is repaid" in ran.out
    table(tmp_path, rows, 'positive = "default"')
    ran = assay("train", "loans.csv", "--label", "rating", "--set", "epochs=1", "--out", "s")
    assert "positive is default" in ran.out
    data, _ = open_file("loans.csv", "age", [], "")
    assert label_in_words(data).startswith("label age: a number, 2")
    (tmp_path / "loans.csv.toml").unlink()
    table(tmp_path, [f"{i % 9},f,{i},x,c{i % 8}" for i in range(160)])
    assert "label rating: 8 classes of 12.5 to 12.5 %" in label_in_words(open_file("loans.csv", "rating", [], "")[0])
