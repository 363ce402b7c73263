"""The vectorised scan of quotes, cells and rows against Python's own csv module."""

import csv
import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data import Declaration, _csv, from_frame, read_declared
from assay.data._csv import scan

CELLS = st.text(st.sampled_from('ab",;\n\r é'), max_size=6)
TABLES = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=8)
)


def written(rows, quoting=csv.QUOTE_ALL):
    buffer = io.StringIO()
    csv.writer(buffer, quoting=quoting, lineterminator="\n").writerows(rows)
    return buffer.getvalue().removesuffix("\n").encode()


@settings(deadline=None, max_examples=60)
@given(TABLES, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]), st.sampled_from([1, 3, 1 << 24]))
def test_a_written_table_is_a_rectangle_whatever_the_chunk(rows, quoting, chunk):
    raw = written(rows, quoting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_csv, "_CHUNK", chunk)
        widths, is_closed, stray = scan(raw, ord(","))
    assert is_closed
    assert not stray.any()
    assert widths.tolist() == [len(row) for row in rows]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(CELLS, min_size=1, max_size=5), min_size=1, max_size=8))
def test_ragged_rows_are_found_where_they_are(rows):
    assert scan(written(rows), ord(","))[0].tolist() == [len(row) for row in rows]


@pytest.mark.parametrize(
    ("raw", "closed", "stray"),
    [
        (b'a,b\n"x"y,1', True, [False, True]),
        (b'a,b\nx"y",1', True, [False, True]),
        (b'a,b\n"x""y",1\n2,"3"', True, [False, False, False]),
        (b'a,b\n""x,1', True, [False, True]),
        (b'"a,b\n1,2', False, [False]),
        (b'"a",b\r\n1,"2"\r\n', True, [False, False, False]),
    ],
)
def test_quotes(raw, closed, stray):
    _, is_closed, found = scan(raw, ord(","))
    assert (is_closed, found.tolist()) == (closed, stray)


NAMES = st.text(st.sampled_from('xyz",; é'), min_size=1, max_size=4).map(lambda name: name.strip() or "w")


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(-9, 9), NAMES, st.booleans()), min_size=20, max_size=60))
def test_reading_a_written_table_gives_the_frame_back(tmp_path_factory, rows):
    """Numbers, names with quotes and separators, and labels survive the file: same digest as without it."""
    rows = [*rows, (10, "end", True), (11, "end", False)] * 5
    table = [(number + 0.5, "n" + name, "yes" if label else "no") for number, name, label in rows]
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes(written([("a", "b", "c"), *table]))
    frame = pl.DataFrame(table, schema=["a", "b", "c"], orient="row")
    declaration = Declaration("c", groups=["b"], name="t")
    data = read_declared(path, declaration)
    assert data.digest == from_frame(frame, declaration).digest
    assert sum(len(split) for split in data.splits.values()) == len(rows)
    assert np.isfinite(data.splits["train"].inputs).all()
