"""What a person declares of a table beside its label and groups: a small TOML file with the table's name and .toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

from assay.data.declare import Declaration, MissingName, Splits, TaskName
from assay.errors import DataError, Problem
from assay.storage import read_regular

_WORD, _LIST = "a word in quotes", 'a list of names: ["one", "two"]'
KEYS = {
    "task": " or ".join(repr(one) for one in get_args(TaskName)),
    "missing": " or ".join(repr(one) for one in get_args(MissingName)),
    "split": "the name of a column that holds train, validation and test",
    "positive": _WORD,
    "classes": _LIST,
    "categorical": _LIST,
    "features": _LIST,
    "leave_out": _LIST,
    "time": "the name of a column of dates or numbers: the newest rows are test rows",
    "image": "the name of a column that names a PNG or JPEG file a row",
    "size": "of pictures: [height, width]",
}
# What a problem asks for, and the line that says it; the first that fits.
_LINES = (
    ("size = [", "size = [32, 32]"),
    ("image=", 'image = "file"'),
    ("missing='median'", 'missing = "median"'),
    ("leave_out=", 'leave_out = ["one", "two"]'),
    ("categorical", 'categorical = ["one"]'),
    ("", 'task = "classification"'),
)
_LISTS = {name for name, words in KEYS.items() if words == _LIST}


def beside(name: str) -> Path:
    """Where the declaration of a data file stands: loans.csv.toml for loans.csv."""
    return Path(name + ".toml")


def declaration_of(name: str, label: str | list[str], groups: tuple[str, ...]) -> Declaration:
    """Label and groups as the command names them, and the rest as declared beside the file, where anything is.

    Raises DataError with every name that may not stand there, and every value of another kind.
    """
    told = {key: value for key, value in _read(beside(name)).items() if key not in ("image", "size")}
    splits = Splits(column=told.pop("split", None), time=told.pop("time", None))
    return Declaration(label, groups, splits=splits, **told)


def pictures_of(name: str) -> dict[str, Any]:
    """The column that names a file of a picture a row, as `image`, and their `size`; empty for any other table."""
    told = _read(beside(name))
    if "size" in told and "image" not in told:
        raise DataError(Problem(f"{beside(name)} declares a size of pictures and no column of them", 'image = "file"'))
    return {key: told[key] for key in ("image", "size") if key in told}


def of_folder(name: str) -> dict[str, Any]:
    """What is declared beside a folder of pictures, with its name and .toml. Raises DataError for anything else."""
    told = _read(beside(name.rstrip("/\\")))
    other = sorted(told.keys() - {"size", "positive"})
    if other:
        raise DataError(
            Problem(f"{beside(name)} declares {', '.join(other)} of a folder of pictures", "size, positive")
        )
    return told


def declaration_of_texts(name: str, label: str | list[str], groups: tuple[str, ...]) -> Declaration:
    """As `declaration_of`, of a file of texts, whose one feature is the text. Raises DataError for what fits none."""
    allowed = ("task", "classes", "positive", "split", "time")
    other = sorted(_read(beside(name)).keys() - {*allowed})
    if other:
        raise DataError(Problem(f"{beside(name)} declares {', '.join(other)} of a file of texts", ", ".join(allowed)))
    return declaration_of(name, label, groups)


def hinted(name: str, error: DataError) -> DataError:
    """The same, and where to declare, when one of its problems asks for a declaration."""
    if not any(
        "declare" in str(one).lower() or "Say task" in str(one) or "task='" in str(one) for one in error.problems
    ):
        return error
    said = " ".join(map(str, error.problems))
    lines = [line for asked, line in _LINES if asked and asked in said] or [_LINES[-1][1]]
    what = f"to declare more of {name} than its label and groups, write {beside(name)} beside it"
    return DataError([*error.problems, Problem(what, ", ".join(KEYS), f"A line of it: {'; '.join(lines)}")])


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        told = tomllib.loads(read_regular(path).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(Problem(f"{path} is not TOML: {error}", ", ".join(KEYS))) from error
    problems = []
    for key, value in told.items():
        if key not in KEYS:
            problems.append(Problem(f"{path}: {key!r} is not known", ", ".join(KEYS)))
        elif not (_is_words(value) if key in _LISTS else isinstance(value, list if key == "size" else str)):
            problems.append(Problem(f"{path}: {key} is {value!r}", KEYS[key]))
    if problems:
        raise DataError(problems)
    return told


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
