"""CSV text to typed columns, strictly: every row as wide as the header, every cell a number or the column is text."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import numpy as np
import polars as pl

from assay.data._columns import parts
from assay.data._problems import Problems, names_text, rows_text
from assay.data._times import LOOKS_LIKE
from assay.data.declare import Declaration
from assay.errors import DataError, Problem
from assay.values import Array

_BOM = b"\xef\xbb\xbf"
_QUOTE, _NEWLINE, _RETURN = 34, 10, 13
_COMMAS = r"^[+-]?\d+(,\d+)*(\.\d+)?$"
_MARK = r"(?:[$€£¥￥₹%]|元|美元|USD|EUR|GBP|CNY|RMB|US\$)"
_MARKED = rf"^[+(-]?(?:{_MARK}\s*[+-]?\d[\d,. ]*(?:{_MARK})?|\d[\d,. ]*{_MARK})\)?$"
_MOSTLY = 0.9  # of the cells: the rest may be a word such as "unknown"
_FIRST = 16  # cells that tell most columns of text
MOST_CODES = 20  # different values: fewer may be codes such as 1,2
_CHUNK = 1 << 24  # bytes scanned at a time: bounds the memory of the scan


def parse_csv(path: str, raw: bytes, declaration: Declaration, problems: Problems) -> pl.DataFrame:
    """The declared columns, typed. Shape problems raise at once, as cells cannot be told apart; others are collected.

    RFC 4180: quotes around a cell, doubled within. The separator is the one of comma, semicolon, tab and | that the
    header has most of. A column is numeric when every cell is; when more than half are, the rest are errors.
    """
    raw = raw.removeprefix(_BOM).rstrip(b"\r\n")
    _require_text(path, raw)
    header = raw[: 1 << 20].partition(b"\n")[0]
    separator = max(b",;\t|", key=header.count)
    _require_rectangle(path, raw, separator)
    try:
        frame = pl.read_csv(
            io.BytesIO(raw),
            has_header=False,  # names are read as a row: the reader would rename repeated ones in silence
            infer_schema=False,
            separator=chr(separator),
        ).fill_null("")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = (str(error).splitlines() or ["unknown"])[0]
        raise DataError(Problem(f"{path} is not a CSV file: {reason}", "RFC 4180")) from error
    names = [name.strip() for name in frame.row(0)]
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice or "" in names:
        wrong = f"several columns named {names_text(twice)}" if twice else "a column without a name"
        raise DataError(Problem(f"{path} has {wrong}", "different names"))
    frame = frame.slice(1)
    frame.columns = names
    wanted = {*names} - ({*declaration.leave_out} - {*declaration.label_columns, *declaration.groups})
    if declaration.features is not None:
        wanted = {*declaration.label_columns, *declaration.groups, *declaration.features}
        wanted |= declaration.kept_back
        if wanted <= {*names}:  # else all stay, as text: a wrong name is answered with the names there are
            frame = frame.select(name for name in names if name in wanted)
    text = {declaration.splits.column, *declaration.groups, *declaration.categorical}
    text |= {*declaration.label_columns} if declaration.classes else set()
    typed = {one.name: one for one in frame.get_columns()}
    for some in parts(frame, [name for name in frame.columns if name in wanted]):
        typed |= {one.name: one for one in _typed(some, declaration, problems, text=text)}
    return pl.DataFrame(list(typed.values()))


def _typed(
    frame: pl.DataFrame, declaration: Declaration, problems: Problems, *, text: AbstractSet[str | None]
) -> Iterator[pl.Series]:
    """Missing marks to null, spaces around cells off; whole numbers, numbers, or text. All columns at once."""
    marks = list(declaration.missing_text)
    quick = _of_numbers(frame, marks, text)
    left = [name for name in frame.columns if name not in quick]
    others = _marked(frame[left], declaration, problems, text) if left else iter(())
    for name in frame.columns:  # in their order, in which problems are told
        yield quick[name] if name in quick else next(others)


def _of_numbers(frame: pl.DataFrame, marks: list[str], text: AbstractSet[str | None]) -> dict[str, pl.Series]:
    """Columns whose cells are all numbers as they are: without a gap, a mark for missing or a space."""
    as_numbers = pl.Series(marks, dtype=pl.String).str.strip_chars().cast(pl.Float64, strict=False).fill_nan(None)
    if as_numbers.null_count() < len(marks):  # a mark such as -9 is a number, too
        return {}
    first = _cast(frame.head(_FIRST), [name for name in frame.columns if name not in text], pl.Float64)
    whole = _cast(frame, [one.name for one in first.get_columns() if not one.null_count()], pl.Int64)
    found = {one.name: one for one in whole.get_columns() if not one.null_count()}
    numbers = _cast(frame, [name for name in whole.columns if name not in found], pl.Float64)
    return found | {one.name: one for one in numbers.get_columns() if not one.null_count() and not one.is_nan().any()}


def _marked(
    frame: pl.DataFrame, declaration: Declaration, problems: Problems, text: AbstractSet[str | None]
) -> Iterator[pl.Series]:
    every, marks = pl.all(), list(declaration.missing_text)
    frame = frame.select(every.str.strip_chars())
    frame = frame.select(pl.when(every.is_in(marks).not_()).then(every)) if marks else frame
    gaps = frame.null_count().row(0, named=True)
    whole = _cast(frame, [name for name in frame.columns if name not in text and gaps[name] < len(frame)], pl.Int64)
    lost = whole.null_count().row(0, named=True) if whole.width else {}
    numbers = _cast(frame, [name for name in whole.columns if lost[name] > gaps[name]], pl.Float64)
    missed = numbers.null_count().row(0, named=True) if numbers.width else {}
    for name in frame.columns:
        if name not in lost:
            yield frame[name]
        elif name not in missed:
            yield whole[name]
        elif missed[name] == gaps[name]:
            yield numbers[name]
        else:
            yield _mixed(frame[name], numbers[name], declaration, problems)


def _cast(frame: pl.DataFrame, names: list[str], dtype: type[pl.DataType]) -> pl.DataFrame:
    """Some columns as numbers, null where a cell is none."""
    return frame[names].select(pl.all().cast(dtype, strict=False)) if names else pl.DataFrame()


def _mixed(present: pl.Series, numbers: pl.Series, declaration: Declaration, problems: Problems) -> pl.Series:
    """A column of which some cells are no numbers: text where that is half of them or more, else an error."""
    wrong = (numbers.is_null() & present.is_not_null()).to_numpy()
    if wrong.sum() * 2 >= len(present) - present.null_count():
        if present.name not in declaration.kept_back:
            _refuse_disguised(present, problems)
        return present
    found = names_text([repr(value) for value in present.filter(pl.Series(wrong)).unique().sort().to_list()], 5)
    problems.error(
        f"column {present.name!r} is of numbers, but not in {rows_text(wrong)}: {found}",
        "numbers with a decimal point, or a mark for missing",
        "Correct these cells, or declare the column categorical",
    )
    return numbers


def _refuse_disguised(present: pl.Series, problems: Problems) -> None:
    """Numbers such as 50,31 or ¥1,045 would be taken for so many categories, each with weights of its own; and a
    system that knows days by name could not be asked about tomorrow.
    """
    values = present.drop_nulls()
    if values.n_unique() <= MOST_CODES:
        return
    shown = names_text([repr(value) for value in values.unique(maintain_order=True).head(3).to_list()])
    if values.str.contains(_COMMAS).all() and values.str.contains(",").any():
        what = f"column {present.name!r} holds numbers with commas: {shown}"
        next_step = "Write a decimal point and nothing between thousands, or declare the column categorical"
        problems.error(what, "numbers such as 1045.5", next_step)
    elif values.str.contains(_MARKED).sum() >= _MOSTLY * len(values):
        what = f"column {present.name!r} holds numbers with marks: {shown}"
        next_step = "Take currency, percent and thousands marks off, or declare the column categorical"
        problems.error(what, "numbers such as 1045.5", next_step)
    elif values.str.to_lowercase().str.contains(r"\.(png|jpe?g)$").sum() >= _MOSTLY * len(values):
        what = f"column {present.name!r} holds names of pictures: {shown}"
        next_step = f"Declare image={present.name!r}: the pictures are read then"
        problems.error(what, "numbers or categories", next_step)
    elif values.str.contains(LOOKS_LIKE).sum() >= _MOSTLY * len(values):
        what = (
            f"column {present.name!r} holds dates: {shown}. Each would be a category, and a later date is none of them"
        )
        next_step = (
            f"Turn it into a number (days, months), or declare leave_out=[{present.name!r}] or time={present.name!r}"
        )
        problems.error(what, "numbers or categories", next_step)


def _require_text(path: str, raw: bytes) -> None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"{path} is not UTF-8 text: byte {error.start + 1}, in line {line}, is 0x{raw[error.start]:02x}"
        raise DataError(Problem(what, "UTF-8", "Save it again as UTF-8")) from error
    if b"\0" in raw:
        raise DataError(Problem(f"{path} holds zero bytes, so it is not text", "UTF-8 text"))


def _require_rectangle(path: str, raw: bytes, separator: int) -> None:
    """Every row as many cells as the header: the reader itself would fill short rows with missing cells in silence."""
    widths, is_closed, stray = scan(raw, separator)
    problems = []
    if not is_closed:
        problems.append(Problem(f"{path}: a quote is opened and never closed", "quotes in pairs"))
    wrong = widths[1:] != widths[0]
    if stray.any():
        where = "the header" if stray[0] else rows_text(stray[1:])
        problems.append(Problem(f"{path}: a quote inside an unquoted cell in {where}", 'cells such as "5"" pipe"'))
    elif wrong.any() and is_closed:
        found = ", ".join(str(width) for width in np.unique(widths[1:][wrong])[:5])
        what = f"{path}: the header has {widths[0]} cells, but {rows_text(wrong)} have {found}"
        problems.append(Problem(what, f"{widths[0]} cells in every row", "Quote cells that hold the separator"))
    if widths[0] < 2:
        problems.append(Problem(f"{path} has one column", "a label and at least one feature", "Separate by commas"))
    if len(widths) < 2:
        problems.append(Problem(f"{path} has a header but no rows", "at least a few rows"))
    if problems:
        raise DataError(problems)


def scan(raw: bytes, separator: int) -> tuple[Array, bool, Array]:
    r"""Cells of each record `(R,)`, whether all quotes are closed, and which records `(R,)` have a stray quote.

    A byte is quoted when an odd number of quotes came before it (doubled quotes cancel out), so quoting is a running
    parity: one vectorised pass, in bounded memory but for the result.

    >>> scan(b'a,b\n"x,y\n",2\n3', ord(","))
    (array([2, 2, 1]), True, array([False, False, False]))
    """
    data = np.frombuffer(raw, dtype=np.uint8)
    is_open = False
    breaks, cells, strays = [], [], []
    for start in range(0, len(data), _CHUNK):
        chunk = data[start : start + _CHUNK]
        quotes = np.flatnonzero(chunk == _QUOTE)
        parity = np.zeros(len(chunk) + 1, dtype=bool)
        parity[0] = is_open
        parity[quotes + 1] = True
        inside = np.logical_xor.accumulate(parity)[1:] if len(quotes) else np.full(len(chunk), is_open)
        breaks.append(np.flatnonzero((chunk == _NEWLINE) & ~inside) + start)
        cells.append(np.flatnonzero((chunk == separator) & ~inside) + start)
        strays.append(_stray(data, quotes + start, inside[quotes], separator))
        is_open = bool(inside[-1])
    ends = np.concatenate([*breaks, [len(data)]]).astype(np.int64)
    before = np.searchsorted(np.concatenate([*cells, []]), ends)
    has_stray = np.zeros(len(ends), dtype=bool)
    has_stray[np.searchsorted(ends, np.concatenate([*strays, []]))] = True
    return np.diff(before, prepend=0) + 1, not is_open, has_stray


def _stray(data: Array, quotes: Array, opens: Array, separator: int) -> Array:
    """Positions of quotes that do not open a cell at its start, close one at its end, or stand doubled."""
    edges = [_QUOTE, _NEWLINE, separator]
    previous = np.where(quotes > 0, data[np.maximum(quotes - 1, 0)], _NEWLINE)
    following = np.where(quotes + 1 < len(data), data[np.minimum(quotes + 1, len(data) - 1)], _NEWLINE)
    good = np.where(opens, np.isin(previous, edges), np.isin(following, [*edges, _RETURN]))
    stray: Array = quotes[~good]
    return stray
