"""Every way in which a table can be wrong, and what is said about it."""

import csv
import hashlib
import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data import (
    Declaration,
    Splits,
    _columns,
    _parquet,
    decode_rows,
    encode_rows,
    from_arrays,
    from_frame,
    read_declared,
    read_table,
)
from assay.errors import DataError

ROWS = [(20 + i, "fm"[i % 2], 1000.5 * (i * 7 % 11), "no" if i % 3 else "yes") for i in range(60)]
HEADER = "age,sex,income,paid"


def text(rows=ROWS, header=HEADER):
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def changed(cells):
    """The rows with some cells replaced: {(row from 1, column): value}."""
    rows = [list(row) for row in ROWS]
    for (row, column), value in cells.items():
        rows[row - 1][column] = value
    return rows


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="loans.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def message(call):
    with pytest.raises(DataError) as caught:
        call()
    assert caught.value.code == "data"
    return str(caught.value)


def frame_of(rows=ROWS):
    return pl.DataFrame(rows, schema=HEADER.split(","), orient="row")


# ------------------------------------------------------------------ what is read


def test_csv_is_read_as_declared(write):
    content = text()
    data = read_table(write(content), label="paid", groups=["sex"])
    assert data.name == "loans"
    assert [(c.name, c.kind) for c in data.columns] == [
        ("age", "numeric"), ("sex", "categorical"), ("income", "numeric"),
    ]  # fmt: skip
    assert data.classes == ("no", "yes")
    assert data.positive == "yes"
    assert data.source["sha256"] == hashlib.sha256(content.encode()).hexdigest()
    assert [len(split) for split in data.splits.values()] == [43, 5, 12]
    for split in data.splits.values():
        assert split.inputs.dtype == np.float32
        assert split.labels.dtype == split.rows.dtype == np.int64
        for i, row in enumerate(split.rows):
            age, sex, income, paid = ROWS[row - 1]
            assert split.inputs[i].tolist() == [age, "fm".index(sex), np.float32(income)]
            assert (split.labels[i], split.groups.codes[i, 0]) == (paid == "yes", "fm".index(sex))


def test_formats_agree(write):
    """Comma, semicolon, tab, CRLF, byte-order mark, quotes, spaces, Parquet and a frame hold the same data."""
    buffer = io.BytesIO()
    frame_of().write_parquet(buffer)
    quoted = "\r\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text().splitlines())
    files = [
        write(text(), "a.csv"),
        write(text().replace(",", ";"), "b.csv"),
        write(text().replace(",", "\t"), "c.tsv"),
        write("\ufeff" + text().replace("\n", "\r\n"), "d.csv"),
        write(quoted, "e.csv"),
        write(text().replace(",", " , ") + "\n\n", "f.csv"),
        write(buffer.getvalue(), "g.parquet"),
    ]
    declaration = Declaration("paid", groups=["sex"], name="loans")
    digests = {read_declared(path, declaration).digest for path in files}
    assert digests == {from_frame(frame_of(), declaration).digest}


def test_frame_and_arrays_agree():
    columns = {name: [row[i] for row in ROWS] for i, name in enumerate(HEADER.split(",")[:3])}
    labels = [row[3] for row in ROWS]
    by_name = from_arrays(columns, labels, groups={"sex": columns["sex"]})
    by_frame = from_frame(frame_of(), Declaration("paid", groups=["sex"], name="table"))
    matrix = np.array([row[:3] for row in ROWS], dtype=object)
    by_matrix = from_arrays(matrix, np.array(labels), groups={"sex": columns["sex"]}, names=["age", "sex", "income"])
    assert by_matrix.digest == by_name.digest
    for name, split in by_frame.splits.items():
        assert by_name.splits[name].digest == split.digest


def test_category_lists_and_ranges_come_from_train_only():
    split = ["train"] * 40 + ["test"] * 20
    rows = changed({(50, 0): 900, (51, 1): "x"})
    frame = frame_of(rows).with_columns(pl.Series("split", split))
    data = from_frame(frame, Declaration("paid", groups=["sex"], splits=Splits(column="split")))
    age, sex, _ = data.columns
    assert (age.high, sex.categories) == (59, ("f", "m"))
    test = data.splits["test"]
    assert test.inputs[10, 1] == -1
    assert test.inputs[9, 0] == 900
    assert data.group_columns[0].categories == ("f", "m", "x")  # a group that only test has does not vanish
    assert test.groups.codes[10, 0] == 2
    notes = "\n".join(data.source["problems"])
    assert "'sex' has values that no training row has, in 1 row (51): x" in notes
    assert "'sex': no rows of x in the train split" in notes


def test_a_column_of_numbers_may_be_declared_categorical(write):
    rows = [(i % 3, *row[1:]) for i, row in enumerate(ROWS)]
    data = read_declared(write(text(rows)), Declaration("paid", categorical=["age"]))
    assert data.columns[0].categories == ("0", "1", "2")


def test_numbers_sort_as_numbers():
    data = from_frame(frame_of([(i % 12, *row[1:]) for i, row in enumerate(ROWS)]), Declaration("paid", groups=["age"]))
    assert data.group_columns[0].categories == tuple(str(i) for i in range(12))


def test_missing_numbers_may_be_filled_with_the_training_median(write):
    path = write(text(changed({(3, 0): "", (5, 0): "NA", (7, 2): "?"})))
    declaration = Declaration("paid", missing="median")
    data = read_declared(path, declaration)
    train = data.splits["train"]
    observed = [ROWS[row - 1][0] for row in train.rows if row not in (3, 5)]
    assert data.source["imputed"]["age"] == {"median": np.median(observed), "rows": 2}
    assert data.source["missing"] == {"age": 2, "income": 1}
    where = np.concatenate([split.rows for split in data.splits.values()]) == 3
    assert np.concatenate([split.inputs[:, 0] for split in data.splits.values()])[where] == np.median(observed)


def test_a_declared_median_is_for_later_rows_too(write):
    """Of a column that had every number when it was read, a later row without one was refused."""
    data = read_declared(write(text()), Declaration("paid", missing="median"))
    ages = data.splits["train"].inputs[:, 0]
    assert data.source["missing"] == {}
    assert data.source["imputed"]["age"] == {"median": np.median(ages), "rows": 0}
    (row,) = decode_rows(data, data.splits["test"].inputs[:1])
    assert encode_rows(data, [{**row, "age": None}])[0, 0] == np.median(ages)
    plain = read_declared(write(text()), Declaration("paid"))
    assert plain.digest == data.digest
    with pytest.raises(DataError, match="'age' is null"):
        encode_rows(plain, [{**row, "age": None}])


def test_only_declared_columns_are_looked_at(write):
    """A column that is not declared may hold anything; a group column need not be a feature."""
    path = write(text(changed({(4, 2): "oops"})))
    data = read_table(path, label="paid", groups=["sex"], features=["age"])
    assert [column.name for column in data.columns] == ["age"]
    assert data.group_columns[0].categories == ("f", "m")
    assert data.source["problems"] == []


def test_regression_and_auto(write):
    path = write(text())
    data = read_table(path, label="age")
    assert data.classes == ()
    assert data.splits["train"].labels.dtype == np.float32
    assert read_table(path, label="income", task="classification").positive is None
    few = write(text([(i % 5, *row[1:]) for i, row in enumerate(ROWS)]), "few.csv")
    assert "5 different whole numbers" in message(lambda: read_table(few, label="age"))
    assert read_table(few, label="age", task="classification").classes == ("0", "1", "2", "3", "4")
    assert read_table(few, label="age", task="regression").classes == ()


def test_declared_classes_set_order_and_positive():
    data = from_frame(frame_of(), Declaration("paid", classes=["yes", "no"], positive="yes"))
    assert (data.classes, data.positive) == (("yes", "no"), "yes")
    assert sum(int((split.labels == 0).sum()) for split in data.splits.values()) == 20


def test_a_table_without_groups_has_empty_codes():
    data = from_frame(frame_of(), Declaration("paid"))
    assert data.splits["test"].groups.codes.shape == (12, 0)


@pytest.mark.parametrize("size", [1, 2])
def test_tiny_groups_survive(size):
    rows = changed({(i + 1, 1): "x" for i in range(size)})
    data = from_frame(frame_of(rows), Declaration("paid", groups=["sex"]))
    assert data.group_columns[0].categories == ("f", "m", "x")
    assert sum(int((split.groups.codes == 2).sum()) for split in data.splits.values()) == size
    assert any("no rows of x" in note for note in data.source["problems"])


# ------------------------------------------------------------------ recorded, not refused


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([(7, *row[1:]) for row in ROWS], "'age' is 7 in every training row"),
        ([(row[0], "f", *row[2:]) for row in ROWS], "'sex' is 'f' in every training row"),
        (changed({(4, 1): None}), "'sex' is missing in 1 row (4): coded -1"),
        ([(2**24 + 1 + 2 * i, *row[1:]) for i, row in enumerate(ROWS)], "are rounded, as 32 bits"),
        ([(i % 2, "f", 1.5 * (i % 2), row[3]) for i, row in enumerate(ROWS)], "100.0% of the test rows have the same"),
    ],
)
def test_notes(rows, note):
    data = from_frame(frame_of(rows), Declaration("paid"))
    assert any(note in problem for problem in data.source["problems"]), data.source["problems"]


def test_group_notes():
    rows = [(row[0], None if i == 4 else "f", *row[2:]) for i, row in enumerate(ROWS)]
    notes = "\n".join(from_frame(frame_of(rows), Declaration("paid", groups=["sex"])).source["problems"])
    assert "group column 'sex' is missing in 1 row (5)" in notes
    assert "there is nothing to compare" in notes


def test_an_identifier_is_noted():
    rows = [(f"id-{i}", "f" if i % 2 else "m", i * 1.5, "no" if i % 3 else "yes") for i in range(300)]
    data = from_frame(frame_of(rows), Declaration("paid"))
    assert any("looks like an identifier" in note for note in data.source["problems"])


def test_a_clean_table_has_no_notes():
    assert from_frame(frame_of(), Declaration("paid", groups=["sex"])).source["problems"] == []


# ------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("content", "name", "problem"),
    [
        (b"", "a.csv", "is empty"),
        (b"\n\n", "a.csv", "is empty"),
        (HEADER, "a.csv", "has a header but no rows"),
        ("paid\nyes\nno\n", "a.csv", "has one column"),
        (text() + "1,2\n", "a.csv", "the header has 4 cells, but 1 row (61) have 2"),
        (text() + "1,f,2,yes,9\n", "a.csv", "1 row (61) have 5"),
        (text().replace("\n21", "\n\n21"), "a.csv", "1 row (2) have 1"),
        (text() + '1,"f,2,yes\n', "a.csv", "a quote is opened and never closed"),
        (text() + '1,5" pipe,2,"yes"\n', "a.csv", "a quote inside an unquoted cell in 1 row (61)"),
        (text().encode() + b"1,\xff,2,yes\n", "a.csv", "is not UTF-8 text: byte"),
        (text().encode("utf-16"), "a.csv", "is not UTF-8 text"),
        (text().encode() + b"1,\0,2,yes\n", "a.csv", "zero bytes"),
        (text(header="age,age,income,paid"), "a.csv", "several columns named age"),
        (text(header="age,,income,paid"), "a.csv", "a column without a name"),
        (b"PK", "a.xlsx", "not a known kind of table. Allowed: .csv, .tsv, .parquet"),
        (b"PAR1 and then nothing", "a.parquet", "does not start and end as a Parquet file"),
        (b"PAR1 garbage PAR1", "a.parquet", "is damaged"),
    ],
)
def test_files_that_cannot_be_parsed(write, content, name, problem):
    path = write(content, name)
    found = message(lambda: read_table(path, label="paid"))
    assert problem in found
    assert name in found


def test_files_that_cannot_be_read(tmp_path):
    assert "does not exist" in message(lambda: read_table(tmp_path / "none.csv", label="paid"))
    (tmp_path / "folder.csv").mkdir()
    assert "cannot be read" in message(lambda: read_table(tmp_path / "folder.csv", label="paid"))


def test_another_digest_is_refused_before_parsing(write):
    path = write("not, a\ntable")
    assert "Allowed: SHA-256 00ff" in message(lambda: read_declared(path, Declaration("paid", sha256="00ff")))
    good = write(text())
    digest = hashlib.sha256(text().encode()).hexdigest()
    assert read_declared(good, Declaration("paid", sha256=digest.upper())).source["sha256"] == digest


def parquet_bytes():
    buffer = io.BytesIO()
    frame_of().write_parquet(buffer)
    return buffer.getvalue()


def edited(raw, seed):
    changed_bytes = bytearray(raw)
    rng = np.random.default_rng(seed)
    for at in rng.integers(4, len(raw) - 4, size=3):
        changed_bytes[at] = rng.integers(256)
    return bytes(changed_bytes)


def test_a_parquet_file_cut_anywhere_is_refused(write):
    raw = parquet_bytes()
    for cut in range(1, len(raw), 97):
        found = message(lambda cut=cut: read_table(write(raw[:cut], "cut.parquet"), label="paid"))
        assert "cut.parquet" in found, found


def test_a_footer_that_lies_is_refused(write):
    raw = parquet_bytes()
    found = message(lambda: read_table(write(raw[:-300] + raw[-299:], "lie.parquet"), label="paid"))
    assert "is damaged" in found


@pytest.mark.slow
def test_an_edited_parquet_file_never_ends_the_process(write):
    """An edit is refused, or read as a table; among these are some on which the native parser aborts."""
    raw, found = parquet_bytes(), []
    for seed in range(25):
        try:
            read_table(write(edited(raw, seed), "edited.parquet"), label="paid")
        except DataError as error:
            found.append(str(error))
    assert len(found) > 8


def test_a_parser_that_hangs_is_a_damaged_file(write, monkeypatch):
    monkeypatch.setattr(_parquet, "_TRIAL", "import time; time.sleep(60)")
    monkeypatch.setattr(_parquet, "_MAX_SECONDS", 0.2)
    assert "not read in 0.2 seconds" in message(lambda: read_table(write(parquet_bytes(), "a.parquet"), label="paid"))


def test_a_parser_that_dies_is_a_damaged_file(write, monkeypatch):
    monkeypatch.setattr(_parquet, "_TRIAL", "import os; os.abort()")
    path = write(parquet_bytes(), "a.parquet")
    assert "the parser died of signal 6" in message(lambda: read_table(path, label="paid"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_declared(path, Declaration("paid", sha256=digest)).source["sha256"] == digest  # no child needed


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({(4, 0): "", (9, 0): "NA"}, "feature 'age' has no number in 2 rows (4, 9)"),
        ({(4, 0): "inf"}, "feature 'age' is infinite or above 3.4e38 in 1 row (4)"),
        ({(4, 0): "1e39"}, "feature 'age' is infinite or above 3.4e38 in 1 row (4)"),
        ({(4, 0): "abc", (6, 0): "1,5"}, "the header has 4 cells"),
        ({(4, 0): "abc", (6, 0): "1.5.1"}, "'age' is of numbers, but not in 2 rows (4, 6): '1.5.1', 'abc'"),
        ({(4, 3): ""}, "label 'paid' is missing in 1 row (4)"),
        ({(4, 3): "perhaps"}, "class 'perhaps' is never in the training split, but in 1 row (4)"),
    ],
)
def test_cells_that_cannot_be_used(write, cells, problem):
    splits = Splits(test=0.9, validation=0) if "never in" in problem else None
    assert problem in message(lambda: read_table(write(text(changed(cells))), label="paid", splits=splits))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"label": "pay"}, "there is no label column 'pay'. Allowed: age, sex, income, paid"),
        ({"groups": ["race"]}, "there is no group column 'race'"),
        ({"features": ["age", "height"]}, "there is no feature column 'height'"),
        ({"features": []}, "there is no feature column. Allowed: at least one"),
        ({"features": ["age", "paid"]}, "the label 'paid' is declared a feature"),
        ({"groups": ["paid"]}, "the label 'paid' is declared a group"),
        ({"splits": Splits(column="fold")}, "there is no split column 'fold'"),
        ({"splits": Splits(column="paid")}, "declared both label and split column"),
        ({"splits": Splits(column="sex"), "groups": ["sex"]}, "the split column 'sex' is declared a group"),
        ({"categorical": ["height"]}, "there is no column 'height', which is declared categorical"),
        ({"group_values": {"age": ["1"]}}, "group_values names 'age', which is not a group column"),
        ({"groups": ["sex"], "group_values": {"sex": ["f"]}}, "undeclared values in 30 rows (2, 4, 6, 8, 10, …): m"),
        ({"groups": ["sex"], "group_values": {"sex": ["f", "m", "x"]}}, "no rows with the declared x"),
        ({"classes": ["no", "maybe"]}, "not declared classes in 20 rows (1, 4, 7, 10, 13, …): yes"),
        ({"classes": ["no", "yes", "maybe"]}, "the declared class 'maybe' has no rows"),
        ({"positive": "sure"}, "the positive class 'sure' is not among the labels"),
        ({"label": "sex", "task": "regression"}, "is text, so it is not a number"),
    ],
)
def test_declarations_that_do_not_fit_the_table(options, problem):
    assert problem in message(lambda: from_frame(frame_of(), Declaration(**{"label": "paid", **options})))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"task": "ranking"}, "task is 'ranking'. Allowed: auto, classification, regression"),
        ({"missing": "drop"}, "missing is 'drop'"),
        ({"groups": "sex"}, "groups is the text 'sex'"),
        ({"features": ["a", "b", "a"]}, "features names a more than once"),
        ({"classes": ["a"]}, "only one class is declared"),
        ({"classes": ["a", "b"], "positive": "c"}, "'c' is not a class"),
        ({"task": "regression", "positive": "c"}, "declared for a regression"),
    ],
)
def test_declarations_that_never_fit(options, problem):
    assert problem in message(lambda: Declaration("paid", **options))


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("paid", ["no"] * 60, "label 'paid' is 'no' in every row"),
        ("paid", [None] * 60, "label 'paid' is missing in every row"),
        ("paid", [f"c{i}" for i in range(60)], "has 60 classes in 60 rows"),
        ("paid", [[1]] * 60, "label 'paid' is of type List"),
        ("paid", [0.5] * 60, "label 'paid' is '0.5' in every row"),
        ("sex", [[1]] * 60, "feature 'sex' is of type List"),
        ("sex", [None] * 60, "feature 'sex' has no value in the training split"),
        ("age", [None] * 60, "feature 'age' has no number in the training split"),
        ("income", ["a" if row[3] == "yes" else "b" for row in ROWS], "'income' says the label exactly, in all 60"),
        ("age", [5 if row[3] == "yes" else -2 for row in ROWS], "feature 'age' says the label exactly"),
    ],
)
def test_columns_that_cannot_be_used(column, values, problem):
    frame = frame_of().with_columns(pl.Series(column, values))
    groups = ["sex"] if column == "sex" else []
    assert problem in message(lambda: from_frame(frame, Declaration("paid", groups=groups)))


def test_group_columns_that_cannot_be_used():
    frame = frame_of().with_columns(pl.Series("age", [i * 0.5 for i in range(60)] * 1))
    frame = pl.concat([frame, frame.with_columns(pl.col("age") + 100)])
    found = message(lambda: from_frame(frame, Declaration("paid", groups=["age"])))
    assert "group column 'age' has 120 different values. Allowed: 1 to 100. Make bands" in found


def test_regression_problems():
    frame = frame_of().with_columns(twice=pl.col("age") * -2.0 + 1, still=pl.lit(2.5))
    assert "feature 'twice' says the label exactly" in message(
        lambda: from_frame(frame, Declaration("age", task="regression"))
    )
    assert "the same in every training row" in message(
        lambda: from_frame(frame, Declaration("still", task="regression"))
    )
    wild = frame.with_columns(still=pl.Series([float("inf"), None, *range(58)]))
    found = message(lambda: from_frame(wild, Declaration("still", task="regression")))
    assert "infinite or above 3.4e38 in 1 row (1)" in found
    assert "label 'still' is missing in 1 row (2)" in found


def test_a_positive_class_needs_two_classes():
    frame = frame_of().with_columns(paid=pl.Series(["a", "b", "c"] * 20))
    assert "for 3 classes" in message(lambda: from_frame(frame, Declaration("paid", positive="a")))


def test_every_problem_is_listed_at_once(write):
    path = write(text(changed({(4, 0): "inf", (5, 0): "", (6, 2): "x", (7, 3): ""})))
    with pytest.raises(DataError) as caught:
        read_declared(path, Declaration("paid", groups=["race"], group_values={"race": ["a"]}))
    assert len(caught.value.problems) == 6  # the group column that is not there is told once
    for part in ("'race'", "row (4)", "row (5)", "row (6)", "row (7)"):
        assert part in str(caught.value)


def test_empty_frames():
    assert "no rows" in message(lambda: from_frame(frame_of().clear(), Declaration("paid")))
    assert "no label column" in message(lambda: from_frame(pl.DataFrame(), Declaration("paid")))


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: from_arrays(np.zeros(4), [0, 1, 0, 1]), r"shape \(4,\)"),
        (lambda: from_arrays(np.zeros((4, 2)), [0, 1, 0]), "differ in length"),
        (lambda: from_arrays(np.zeros((4, 2)), [0, 1, 0, 1], names=["a"]), "1 names for 2 columns"),
        (lambda: from_arrays({"a": [1, 2]}, [0, 1], names=["a"]), "columns that have names"),
        (lambda: from_arrays({"a": [1, 2]}, [0, 1], groups={"a": [1, 3]}), "differs from the feature"),
        (lambda: from_arrays({"a": [1, "x"]}, [0, 1]), "cannot be read as a column"),
    ],
)
def test_arrays_that_do_not_fit(call, problem):
    with pytest.raises(DataError, match=problem):
        call()


NUMBER = st.one_of(st.integers(-5, 5).map(str), st.floats(width=32).map(str), st.sampled_from(["", "NA", "1e40"]))
WORD = st.sampled_from(["a", "b", "a", "b", "a", "b", '"', "x,y", "\n", "é", "", "0"])
LABEL = st.one_of(st.sampled_from(["yes", "no"]), st.integers(0, 1).map(str), WORD)
SAFE = [(str(i), "ab"[i % 2], "yn"[i // 2 % 2]) for i in range(12)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(NUMBER, WORD, LABEL), max_size=6).flatmap(
        lambda odd: st.sampled_from([odd, [*SAFE, *odd], [*SAFE, *odd[:1]]])
    ),
    st.sampled_from([("auto", "error"), ("classification", "median"), ("regression", "median")]),
    st.booleans(),
)
def test_any_small_csv_gives_data_or_a_data_error(tmp_path_factory, rows, options, is_quoted):
    """Whatever the cells: `Data` with every row in one split, or DataError; nothing else."""
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    quote = (lambda cell: '"' + cell.replace('"', '""') + '"') if is_quoted else str
    path.write_text("\n".join(",".join(map(quote, row)) for row in [("a", "b", "c"), *rows]), encoding="utf-8")
    task, missing = options
    label = "a" if task == "regression" else "c"
    try:
        data = read_declared(path, Declaration(label, groups=["b"], task=task, missing=missing))
    except DataError:
        return
    num_rows = len(list(csv.reader(io.StringIO(path.read_text("utf-8"), newline="")))) - 1  # quotes may join rows
    found = np.concatenate([split.rows for split in data.splits.values()])
    assert np.array_equal(np.sort(found), np.arange(1, num_rows + 1))
    for split in data.splits.values():
        assert np.isfinite(split.inputs).all()
        assert np.isfinite(split.labels).all()
        assert split.labels.min(initial=0) >= (0 if data.classes else -np.inf)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_read_together_are_columns_read_alone(tmp_path, monkeypatch, suffix):
    rng = np.random.default_rng(0)
    cells = {f"n{place}": rng.normal(size=60).round(3).astype(str) for place in range(20)}
    cells |= {f"w{place}": rng.integers(0, 3, 60).astype(str) for place in range(20)}
    cells |= {"gap": [" 1.5", "", *["2"] * 58], "name": [*"ab"] * 30, "same": ["7"] * 60, "big": ["16777217.5"] * 60}
    cells |= {"nan": ["NaN", *["3"] * 59], "text": ["x", *["1"] * 59], "paid": ["yes", "no", "no"] * 20}
    frame = pl.DataFrame(cells)
    if suffix == "parquet":
        path = tmp_path / "wide.parquet"
        frame.with_columns(
            pl.all().exclude("name", "text", "paid").str.strip_chars().cast(pl.Float64, strict=False)
        ).write_parquet(path)
    else:
        path = tmp_path / "wide.csv"
        frame.write_csv(path)
    declared = Declaration("paid", categorical=["text", "w3"], missing="median")
    together = read_declared(path, declared)
    monkeypatch.setattr(_columns, "_CELLS", 1)
    alone = read_declared(path, declared)
    assert together.digest == alone.digest
    assert together.source == alone.source
    assert together.columns == alone.columns
    assert list(together.source["missing"]) == ["gap", "nan"]
    assert "feature 'same' is 7 in every training row." in together.source["problems"]
    assert any("'big'" in note and "rounded" in note for note in together.source["problems"])
