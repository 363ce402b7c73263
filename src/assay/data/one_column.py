"""Files of texts and of pictures as `Data`: one feature column, beside a label, groups and splits."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from assay.data._columns import Columns
from assay.data._features import Table
from assay.data._groups import code_groups
from assay.data._labels import check_label_coverage, code_labels
from assay.data._problems import Problems, names_text, rows_text
from assay.data.coding import text_of
from assay.data.declare import SPLIT_NAMES, Declaration, Splits, TaskName
from assay.data.frame import _assign, _resolve, declared
from assay.data.table import _read, parse_file
from assay.errors import AssayError, DataError, Problem
from assay.evidence.strict_json import loads
from assay.values import Array, Column, Data, Split, texts

MIN_SIDE = 2  # pixels
_HAN = ("\u3400", "\u9fff")


def read_texts(
    path: str | Path,
    *,
    text: str,
    label: str | Sequence[str],
    groups: Sequence[str] = (),
    language: str = "",
    task: TaskName = "auto",
) -> Data:
    r"""One column of texts of a CSV or Parquet file as `Data`; the other columns but label and groups are not read.

    `language` is "en" or "zh"; empty: "zh" where more than a third of the letters are Chinese characters. White space
    around a text is taken off. Rows are split by seed, stratified by class; equal texts may fall on both sides, and how
    many do is in `source["duplicates"]`. Raises DataError with everything wrong at once, an empty text included.
    `task` as in `read_table`: five stars may be classes or an amount.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "reviews.csv"
    ...     _ = path.write_text("said,mood\n" + "so dull,bad\nso good,good\n" * 10)
    ...     data = read_texts(path, text="said", label="mood")
    >>> data.columns[0].kind, data.columns[0].language, data.splits["test"].inputs[0]
    ('text', 'en', 'so good')
    """
    return read_declared_texts(path, Declaration(label, groups, task=task), text=text, language=language)


def read_declared_texts(path: str | Path, declaration: Declaration, *, text: str, language: str = "") -> Data:
    """As `read_texts`, with label, groups, classes and splits as declared; what is declared of other features is not
    looked at. Raises DataError.
    """
    if language not in ("", "en", "zh"):
        raise DataError(Problem(f"there is no language {language!r}", "en, zh"))
    declaration = replace(declaration, features=[text], categorical=[text], leave_out=())
    path, problems = Path(path), Problems()
    raw = _read(path)
    frame = parse_file(path, raw, replace(declaration, sha256=""), problems)  # nobody compared its digest
    _resolve(frame, declaration, problems)
    if text not in frame.columns:
        problems.stop_if_any()
    said = text_of(frame[text])
    empty = said.fill_null("").str.strip_chars() == ""
    if empty.any():
        problems.error(f"text {text!r} is missing in {rows_text(empty.to_numpy())}", "a text in each row")
    inputs = texts(said.fill_null("").str.strip_chars().to_list())
    column = Column("text", "text", language=language or language_of(inputs))
    return _assemble(frame, declaration, (column, inputs), problems, _source(path, raw) | {"text_column": text})


def language_of(inputs: Array) -> str:
    """Chinese ("zh") where more than a third of the letters of the first 1,000 texts are its characters, else "en".

    >>> language_of(texts(["很好 ok"])), language_of(texts(["quite good"]))
    ('zh', 'en')
    """
    letters = [letter for letter in "".join(inputs[:1000].tolist()) if letter.isalpha()]
    num_han = sum(_HAN[0] <= letter <= _HAN[1] for letter in letters)
    return "zh" if num_han * 3 > len(letters) else "en"


def read_images(path: str | Path) -> Data:
    """Pictures from a safetensors file as `Data`. A file of tensors cannot run code, and needs no decoder.

    Tensors: `images` uint8 `(N, H, W)` or `(N, C, H, W)`; `labels (N,)`: whole numbers are classes, fractions a target;
    or `labels (N, L)` of 0 and 1, of which several may apply (`classes` names them); any number of `group.NAME (N,)`
    whole numbers; `split (N,)` 0 train, 1 validation, 2 test, without which rows are split by seed, stratified by
    class. Metadata, each optional: `classes` and `group.NAME` (a JSON list of names, in the order of the numbers),
    `positive` (one of two classes), `label`, `licence`. Raises DataError.
    """
    path = Path(path)
    raw = _raw(path)
    arrays, about = _tensors(path, raw)
    problems = Problems()
    pictures = arrays["images"]
    if pictures.dtype != np.uint8 or pictures.ndim not in (3, 4) or min(pictures.shape[-2:], default=0) < MIN_SIDE:
        what = f"images are {pictures.dtype} {pictures.shape}"
        problems.error(what, "uint8 (N, H, W) or (N, C, H, W)", "Round to 0..255")
    wide = {"images", "labels"} if arrays["labels"].ndim == 2 else {"images"}
    sizes = {name: len(array) for name, array in arrays.items() if name in wide or array.ndim == 1}
    if len(sizes) < len(arrays) or len(set(sizes.values())) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        problems.error(f"the tensors do not have one row a picture: {shapes[:300]}", "(N,) beside the images")
    problems.stop_if_any()
    pictures = pictures[:, None] if pictures.ndim == 3 else pictures
    frame, declaration = _frame(arrays, about, problems)
    column = Column("image", "image", low=0, high=255, shape=tuple(pictures.shape[1:]))
    source = _source(path, raw) | {name: about[name] for name in ("licence",) if name in about}
    return _assemble(frame, declaration, (column, pictures), problems, source)


def _raw(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(Problem(f"{path} cannot be read: {error.strerror}", "a safetensors file")) from error


def _tensors(path: Path, raw: bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays, and the metadata with its JSON lists read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from assay.models.adapters.refuse import check_safetensors

    try:
        header = check_safetensors(io.BytesIO(raw), len(raw), name=str(path))
        arrays = load(raw)
        told = header.get("__metadata__", {})
        lists = {name: loads(text.encode()) for name, text in told.items() if name == "classes" or "group." in name}
    except (AssayError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(Problem(f"{path} cannot be read: {str(error)[:200]}", "a safetensors file")) from error
    wrong = [name for name, one in lists.items() if not isinstance(one, list) or not all(type(x) is str for x in one)]
    allowed = "images, labels, split, group.NAME"
    odd = [name for name in arrays if name not in ("images", "labels", "split") and not name.startswith("group.")]
    problems = [Problem(f"{path}: metadata {name!r} is no list of names", 'JSON: ["cat", "dog"]') for name in wrong]
    problems += [Problem(f"{path} has unknown tensors: {names_text(odd)}", allowed)] if odd else []
    problems += [
        Problem(f"{path} has no tensor {name!r}", allowed) for name in ("images", "labels") if name not in arrays
    ]
    if problems:
        raise DataError(problems)
    return arrays, {**told, **lists}


def _frame(
    arrays: Mapping[str, Array], about: Mapping[str, Any], problems: Problems
) -> tuple[pl.DataFrame, Declaration]:
    """Label, groups and split as columns of text, and their declaration."""
    classes, label = tuple(about.get("classes", ())), str(about.get("label", "label"))
    is_target = arrays["labels"].dtype.kind == "f"
    groups = [name for name in arrays if name.startswith("group.")]
    columns: dict[str, Any] = {label: arrays["labels"]}
    several = arrays["labels"].ndim == 2
    if several:
        columns = _several(arrays["labels"], classes, problems)
    elif not is_target:
        columns[label] = _named(arrays["labels"], classes, "labels", problems)
    for name in groups:
        columns[name.removeprefix("group.")] = _named(arrays[name], about.get(name, ()), name, problems)
    if "split" in arrays:
        columns["split"] = _named(arrays["split"], SPLIT_NAMES, "split", problems)
    problems.stop_if_any()
    declaration = Declaration(
        list(columns)[: arrays["labels"].shape[1]] if several else label,
        [name.removeprefix("group.") for name in groups],
        task="auto" if several else "regression" if is_target else "classification",
        classes=() if several else classes,
        positive=about.get("positive"),
        splits=Splits(column="split") if "split" in arrays else Splits(),
    )
    return pl.DataFrame(columns), declaration


def _several(labels: Array, names: Sequence[str], problems: Problems) -> dict[str, Any]:
    """One column for each of several labels, by name."""
    names = tuple(names) or tuple(f"label_{place + 1}" for place in range(labels.shape[1]))
    if len(names) != labels.shape[1] or len(set(names)) < len(names):
        problems.error(f"{len(names)} names for {labels.shape[1]} columns of labels", "one different name each")
    return dict(zip(names, labels.T, strict=False))


def _named(codes: Array, names: Sequence[str], what: str, problems: Problems) -> list[str]:
    """Whole numbers as the names they stand for; without names, as text."""
    if codes.dtype.kind not in "iub":
        problems.error(f"{what} are {codes.dtype}", "whole numbers")
        return []
    if not names:
        return [str(int(code)) for code in codes]
    outside = (codes < 0) | (codes >= len(names))
    if outside.any():
        problems.error(f"{what} are outside of 0..{len(names) - 1} in {rows_text(outside)}", names_text(list(names)))
        return []
    return [names[int(code)] for code in codes]


def _source(path: Path, raw: bytes) -> dict[str, Any]:
    found = hashlib.sha256(raw).hexdigest()
    return {"kind": "file", "address": path.name, "sha256": found, "num_bytes": len(raw), "name": path.stem}


def _assemble(
    frame: Columns,
    declaration: Declaration,
    feature: tuple[Column, Array],
    problems: Problems,
    source: Mapping[str, Any],
) -> Data:
    column, inputs = feature
    labels = code_labels(frame, declaration, problems)
    assigned = _assign(frame, declaration, labels, problems)
    groups = code_groups(Table(frame, [], declaration, assigned), problems)
    if labels is not None:
        check_label_coverage(labels, assigned, problems)
    problems.stop_if_any()
    if labels is None:
        raise DataError("the label cannot be read")
    rows = np.arange(1, len(inputs) + 1, dtype=np.int64)
    whole = Split(inputs, labels.values, groups, rows)
    parts = {name: whole.take(np.flatnonzero(assigned == code)) for code, name in enumerate(SPLIT_NAMES)}
    train = {_key(one) for one in parts["train"].inputs}
    shared = sum(_key(one) in train for one in parts["test"].inputs)
    if shared:
        problems.note(f"{shared} of {len(parts['test'])} test rows equal a training row")
    facts = {
        **source,
        "num_rows": len(inputs),
        "num_train": len(parts["train"]),
        "splits": {
            "by": declaration.splits.column or declaration.splits.time or "seed",
            **({"newest": True} if declaration.splits.time else {}),
            "seed": declaration.splits.seed,
        },
        "duplicates": {"test_rows_also_in_train": shared, "test_rows": len(parts["test"])},
        "problems": [str(note) for note in problems.notes],
    }
    name = str(source["name"])
    return declared(name, (column,), groups.columns, parts, labels, facts)


def _key(one: Any) -> bytes:
    return one.encode("utf-8", "surrogatepass") if isinstance(one, str) else one.tobytes()
