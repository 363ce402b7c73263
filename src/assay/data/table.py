"""Reading a declared table from a CSV or Parquet file."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from assay.data._columns import Columns
from assay.data._csv import parse_csv
from assay.data._parquet import parse_parquet
from assay.data._problems import Problems
from assay.data.declare import Declaration, Splits, TaskName
from assay.data.frame import build
from assay.errors import DataError, Problem
from assay.values import Data

SUFFIXES = (".csv", ".tsv", ".parquet")


def read_table(
    path: str | Path,
    *,
    label: str | Sequence[str],
    groups: Sequence[str] = (),
    features: Sequence[str] | None = None,
    task: TaskName = "auto",
    splits: Splits | None = None,
) -> Data:
    r"""A CSV (UTF-8, one header row) or Parquet file as `Data`; for more options declare and use `read_declared`.

    A list of label columns of 0 and 1 declares that several labels may apply to a row.

    `features=None` is every column but the label and the split column. `task="auto"`: text, true/false or two values
    are classes; fractions, or more than 20 whole numbers, are a target; anything between must be said.
    Everything wrong is listed at once, with rows counted from 1 without the header; see `from_frame` for what is an
    error and what is recorded in `source["problems"]`. Raises DataError.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "loans.csv"
    ...     _ = path.write_text("age,sex,paid\n" + "30,f,no\n40,m,yes\n50,f,yes\n60,m,no\n" * 5)
    ...     data = read_table(path, label="paid", groups=["sex"])
    >>> data.name, data.classes, data.splits["test"].inputs.shape
    ('loans', ('no', 'yes'), (4, 2))
    """
    return read_declared(path, Declaration(label, groups, features, task, splits or Splits()))


def read_declared(path: str | Path, declaration: Declaration) -> Data:
    """The file as `Data`, as declared. When `declaration.sha256` is given, any other file is refused unparsed.

    What is hashed is what is parsed: the file is read once. Raises DataError.
    """
    path = Path(path)
    raw = _read(path)
    found = hashlib.sha256(raw).hexdigest()
    if declaration.sha256 and not hmac.compare_digest(found, declaration.sha256.lower()):
        what = f"{path} has {len(raw)} bytes and SHA-256 {found}"
        raise DataError(Problem(what, f"SHA-256 {declaration.sha256}", "It is truncated or was changed: restore it"))
    problems = Problems()
    frame = parse_file(path, raw, declaration, problems)
    source = {"kind": "file", "address": path.name, "sha256": found, "num_bytes": len(raw), "name": path.stem}
    return build(frame, declaration, problems, source)


def parse_file(path: Path, raw: bytes, declaration: Declaration, problems: Problems) -> Columns:
    """The columns of a file that was read, by its ending. Parquet that is pinned by its digest is parsed here, and any
    other in a process of its own. Raises DataError.
    """
    if path.suffix.lower() == ".parquet":
        return parse_parquet(str(path), raw, is_trusted=bool(declaration.sha256))
    return parse_csv(str(path), raw, declaration, problems)


def _read(path: Path) -> bytes:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(Problem(f"{path} is not a known kind of table", ", ".join(SUFFIXES), "Convert it"))
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(Problem(f"{path} does not exist", next="Check the path")) from error
    except OSError as error:
        raise DataError(Problem(f"{path} cannot be read: {error.strerror}", "a readable file")) from error
    if not raw or raw.isspace():
        raise DataError(Problem(f"{path} is empty", "a header and at least a few rows"))
    return raw
