import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data import decode_rows, encode_groups, encode_rows, from_frame, load_adult, load_diabetes
from assay.data.declare import Declaration
from assay.errors import DataError
from assay.values import Column

COLUMNS = (
    Column("age", "numeric", low=0, high=99),
    Column("sex", "categorical", ("f", "m")),
    Column("code", "categorical", ("1", "2", "true")),
)
GOOD = {"age": 30, "sex": "m", "code": "2"}

INPUTS = st.lists(
    st.tuples(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-1, 1), st.integers(-1, 2)),
    max_size=20,
).map(lambda rows: np.array(rows, dtype=np.float32).reshape(len(rows), 3))


@settings(deadline=None, max_examples=60)
@given(INPUTS)
def test_encoding_what_was_decoded_gives_the_same_bits(inputs):
    rows = decode_rows(COLUMNS, inputs)
    assert encode_rows(COLUMNS, rows).tobytes() == inputs.tobytes()
    assert encode_rows(COLUMNS, json.loads(json.dumps(rows))).tobytes() == inputs.tobytes()
    schema = {"age": pl.Float64, "sex": pl.String, "code": pl.String}
    assert encode_rows(COLUMNS, pl.DataFrame(rows, schema=schema)).tobytes() == inputs.tobytes()


CELL = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text("fmx1", max_size=3),
    st.lists(st.integers(), max_size=1),
    st.sampled_from(["f", "m", "1", "true"]),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(st.dictionaries(st.sampled_from(["age", "sex", "code", "extra"]), CELL), max_size=4))
def test_any_rows_give_inputs_or_a_data_error(rows):
    """What encodes, decodes; and each row that encodes with others encodes alone."""
    try:
        inputs = encode_rows(COLUMNS, rows)
    except DataError:
        assert any(_is_wrong(row) for row in rows)
        return
    assert not any(_is_wrong(row) for row in rows)
    assert np.isfinite(inputs).all()
    for i, row in enumerate(rows):
        assert encode_rows(COLUMNS, [row]).tobytes() == inputs[i : i + 1].tobytes()


def _is_wrong(row):
    """The rules again, one row at a time."""
    if set(row) != {"age", "sex", "code"}:
        return True
    age = row["age"]
    if isinstance(age, bool) or not isinstance(age, int | float) or not abs(age) <= 3.4028234663852886e38:
        return True
    codes = ("1", "2", "true", 1, 2, None)
    code_ok = row["code"] is True or (not isinstance(row["code"], bool | list) and row["code"] in codes)
    return not code_ok or isinstance(row["sex"], list) or row["sex"] not in ("f", "m", None)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"extra": 1}, "unknown columns: extra. Allowed: age, sex, code"),
        ({"age": "30"}, "column 'age' is not a number but str in 1 row (2)"),
        ({"age": True}, "not a number but bool"),
        ({"age": None}, "column 'age' is null in 1 row (2)"),
        ({"age": float("nan")}, "column 'age' is not finite, or too large, in 1 row (2)"),
        ({"age": 10**400}, "not finite, or too large"),
        ({"age": 1e39}, "not finite, or too large"),
        ({"sex": "x"}, "column 'sex' has unknown values in 1 row (2): 'x'. Allowed: f, m"),
        ({"sex": ["f"]}, "column 'sex' is not text but list in 1 row (2)"),
        ({"sex": "x" * 1000}, "'" + "x" * 59 + "…"),
    ],
)
def test_each_problem(row, problem):
    with pytest.raises(DataError) as caught:
        encode_rows(COLUMNS, [GOOD, {**GOOD, **row}])
    assert problem in str(caught.value)
    assert len(caught.value.problems) == 1


def test_all_problems_at_once():
    rows = [{"age": "x", "sex": "q"}, {"sex": 3.5, "code": None, "what": 1}, {"age": 1, "sex": "f", "code": 2}]
    with pytest.raises(DataError) as caught:
        encode_rows(COLUMNS, rows)
    text = str(caught.value)
    assert [part in text for part in ("what", "'age' is not given in 1 row (2)", "'sex' has unknown values in 2 rows",
                                      "'code' is not given in 1 row (1)")] == [True] * 4  # fmt: skip


def test_rows_must_have_names():
    with pytest.raises(DataError, match=r"1 row \(2\) have no column names"):
        encode_rows(COLUMNS, [GOOD, [30, "m", "2"]])


def test_frames_of_the_wrong_type_are_refused():
    frame = pl.DataFrame({"age": ["30"], "sex": ["x"], "code": [[1]], "extra": [0]})
    with pytest.raises(DataError) as caught:
        encode_rows(COLUMNS, frame)
    assert len(caught.value.problems) == 4
    nans = pl.DataFrame({"age": [1.0, float("nan"), None], "sex": ["f"] * 3, "code": [1, 2, 2]})
    with pytest.raises(DataError) as caught:
        encode_rows(COLUMNS, nans)
    assert "null in 1 row (3)" in str(caught.value)
    assert "not finite, or too large, in 1 row (2)" in str(caught.value)


def test_unknown_categories_may_be_coded():
    assert encode_rows(COLUMNS, [{**GOOD, "sex": "x"}], unknown="code").tolist() == [[30, -1, 1]]


def test_no_rows_give_no_inputs():
    assert encode_rows(COLUMNS, []).shape == (0, 3)
    assert decode_rows(COLUMNS, np.zeros((0, 3))) == []


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        (np.zeros((2, 2)), "shape (2, 2). Allowed: (M, 3)"),
        (np.array([[0, 2, 0]]), "column 'sex' has other values in 1 row (1). Allowed: whole codes from -1 to 1"),
        (np.array([[0, 0.5, 0]]), "'sex' has other values"),
        (np.array([[0, np.nan, 0]]), "'sex' has other values"),
        (np.array([[np.inf, 0, 0]]), "column 'age' has other values in 1 row (1). Allowed: finite numbers"),
    ],
)
def test_inputs_that_are_not_of_these_columns(inputs, problem):
    with pytest.raises(DataError) as caught:
        decode_rows(COLUMNS, inputs)
    assert problem in str(caught.value)


@pytest.mark.parametrize("load", [load_adult, load_diabetes])
def test_the_test_split_of_real_data_survives_both_ways(load):
    data = load()
    inputs = data.splits["test"].inputs[:500]
    rows = decode_rows(data, inputs)
    assert np.array_equal(encode_rows(data, rows), inputs)
    groups = [{column.name: row[column.name] for column in data.group_columns} for row in rows]
    assert np.array_equal(encode_groups(data, groups).codes, data.splits["test"].groups.codes[:500])


def test_the_table_itself_encodes_as_it_was_read():
    """New rows get the codes that training got: the frame the data came from, encoded again."""
    size = 40
    frame = pl.DataFrame(
        {
            "age": [None if i == 3 else float(i) for i in range(size)],
            "member": [i % 3 == 0 for i in range(size)],
            "level": [i % 4 for i in range(size)],
            "paid": ["no", "yes"] * (size // 2),
        }
    )
    data = from_frame(frame, Declaration("paid", groups=["level"], features=["age", "member"], missing="median"))
    inputs = encode_rows(data, frame.drop("paid"))  # group columns may come along
    for split in data.splits.values():
        assert np.array_equal(inputs[split.rows - 1], split.inputs)
        assert np.array_equal(encode_groups(data, frame).codes[split.rows - 1], split.groups.codes)
    with pytest.raises(DataError, match="unknown columns: paid"):
        encode_rows(data, frame)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, assay.data; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_owner_may_say_in_plain_numbers_what_stands_for_a_missing_one(small_data):
    data = replace(small_data, source={"imputed": {"age": np.float32(30), "hours": {"median": 40, "rows": 3}, "x": {}}})
    assert data.medians == {"age": 30.0, "hours": 40.0}
    row = {column.name: 50 if column.kind == "numeric" else column.categories[0] for column in data.columns}
    assert encode_rows(data, [{**row, "age": None}]).tobytes() == encode_rows(data, [{**row, "age": 30}]).tobytes()


@pytest.mark.parametrize(
    "odd", [[1.0], "30", {"age": "30"}, {"age": True}, {"age": {"median": None}}, {"age": np.nan}, {"": 1, 7: 10**400}]
)
def test_any_other_form_of_it_is_told_at_once(small_data, odd):
    with pytest.raises(
        DataError, match=r'source\["imputed"\] has .* Allowed: {"age": {"median": 30.0, "rows": 2}}, or'
    ):
        replace(small_data, source={"imputed": odd})
