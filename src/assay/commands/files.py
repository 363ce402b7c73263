"""Data files: tables, texts in a column of a table, pictures in a file of tensors; and where results may go."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.errors import DataError, Problem, UsageError
from assay.values import Data

PICTURES = ".safetensors"


def open_file(name: str, label: str, groups: Sequence[str], text: str) -> tuple[Data, Mapping[str, Any]]:
    """The data in a file, and what it takes to open them again. Raises DataError, or UsageError for missing options."""
    how = {"file": str(Path(name).resolve()), "label": label, "groups": list(groups), "text": text}
    if Path(name).suffix.lower() == PICTURES:
        if label or groups or text:
            what = f"{name} names its own labels and groups"
            raise UsageError(Problem(what, "--label, --groups and --text only with a table"))
        from assay.data.one_column import read_images

        return read_images(name), how
    if Path(name).is_dir():
        return _folder(name, (label, groups, text)), how
    if not label:
        raise UsageError(Problem(f"{name} is a file, and its label column is not named", "--label COLUMN"))
    several = [one.strip() for one in label.split(",")]
    named: str | list[str] = several if len(several) > 1 else label
    from assay.commands.declared import declaration_of, declaration_of_texts, hinted, pictures_of

    try:
        if text:
            from assay.data.one_column import read_declared_texts

            return read_declared_texts(name, declaration_of_texts(name, named, tuple(groups)), text=text), how
        if pictures := pictures_of(name):
            from assay.data.picture_files import read_picture_table

            return read_picture_table(name, declaration_of(name, named, tuple(groups)), **pictures), how
        from assay.data.table import read_declared

        return read_declared(name, declaration_of(name, named, tuple(groups))), how
    except DataError as error:
        raise hinted(name, error) from error


def _folder(name: str, told: tuple[object, ...]) -> Data:
    from assay.commands.declared import hinted, of_folder
    from assay.data.picture_files import read_picture_folder

    if any(told):
        what = f"{name} is a folder, whose folders are the classes"
        raise UsageError(Problem(what, "--label, --groups and --text only with a table", "A table may name the files"))
    try:
        return read_picture_folder(name, **of_folder(name))
    except DataError as error:
        raise hinted(name.rstrip("/\\"), error) from error


def notes_of(data: Data, most: int = 8) -> list[str]:
    """What was noted while the data were read, and a person should know before trusting what is made of them."""
    notes = [str(note) for note in data.source.get("problems", ())]
    more = len(notes) - most
    return notes if more <= 0 else [*notes[:most], f"{more} notes more: assay data check shows what is in the data"]


def require_folder(out: Path, *, marks: Sequence[str], option: str = "--out") -> None:
    """Raises UsageError, before any work, when a result cannot be put there: a file, or a folder of something else.

    `marks`: names one of which a former result of the same kind has; an empty folder, or none, is always fine.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(Problem(f"{option} {out} is not a folder", "a folder, or a name not in use"))
    inside = next((one for one in (out, *out.parents) if one.exists()), out)
    if not inside.is_dir():
        raise UsageError(Problem(f"{option} {out} lies in {inside}, which is a file", "a folder, or a name not in use"))
    if not os.access(inside, os.W_OK):
        what = f"{option} {out} cannot be written: {inside} is read-only"
        raise UsageError(Problem(what, "a folder that may be written to"))
    if out.is_dir() and marks and any(out.iterdir()) and not any((out / mark).exists() for mark in marks):
        what = f"{option} {out} holds something else, which would be replaced"
        raise UsageError(Problem(what, "a new or empty folder, or one with a former result"))


def require_file(out: Path | None) -> None:
    """Raises UsageError, before any work, when a file cannot be written there because a folder has the name."""
    if out is not None and out.is_dir():
        raise UsageError(Problem(f"--out {out} is a folder", "the name of a file", f"Write {out / 'report.html'}"))
