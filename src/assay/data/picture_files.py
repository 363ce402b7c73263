"""Pictures in files: a folder with a folder a class, or a table whose rows name a file each."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from assay.data._columns import Columns
from assay.data._problems import Problems, names_text, rows_text
from assay.data.coding import text_of
from assay.data.declare import SPLIT_NAMES, Declaration, Splits
from assay.data.frame import _resolve
from assay.data.one_column import MIN_SIDE, _assemble
from assay.data.table import _read, parse_file
from assay.errors import AssayError, MissingExtraError
from assay.storage import read_regular
from assay.values import Array, Column, Data

ENDINGS = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # of content, whatever the name says
_LAYOUT = "CLASS/picture.png, or train/CLASS/picture.png beside test/CLASS/picture.png"
_SPLITS = {**{name: name for name in SPLIT_NAMES}, "val": "validation", "valid": "validation"}
MOST_PIXELS = 89_000_000  # of one picture, before it is scaled: Pillow warns of more, and refuses twice as many
_DAMAGED = (struct.error, EOFError, LookupError, TypeError, ArithmeticError, AttributeError)  # of Pillow, for damage
_LIKE_SPLITS = {*_SPLITS, "dev", "training", "testing", "unlabeled", "unlabelled", "holdout"}
_SHARE = 4  # of the machine's memory one part in so many may be pixels: they are copied while they are put together


@dataclass(frozen=True)
class _Read:
    """One picture `(H, W)` or `(H, W, 3)` uint8, and the SHA-256 of its file."""

    pixels: Array
    sha256: str


def read_picture_folder(folder: str | Path, *, size: Sequence[int] = (), positive: str | None = None) -> Data:
    """A folder of PNG and JPEG files, one folder a class, as `Data`; the names of the folders are the classes.

    Where the folders are train, test and, if you have it, validation (or val), each with a folder a class, these are
    the splits; else rows are split by seed, stratified by class. `size` as in `read_picture_table`. What has another
    ending is left out, and how many such files there are is noted. Raises DataError, also for a folder that is named
    as a split and holds folders where the others are no splits; MissingExtraError without Pillow.
    """
    folder = Path(folder)
    inside = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    named, problems = {_SPLITS.get(one.name.lower(), "") for one in inside}, Problems()
    is_split = "" not in named and {"train", "test"} <= named
    alike = [] if is_split else [one.name for one in inside if one.name.lower() in _LIKE_SPLITS and _has_folders(one)]
    if alike:  # each would be a class, and a system would learn which split a picture is of
        what = f"{folder} holds {names_text(alike)}, named as splits are, among {names_text([x.name for x in inside])}"
        problems.error(what, f"train and test (and validation) alone: {_LAYOUT}", "Rename or move folders")
        problems.stop_if_any()
    rows = list(_listed(inside, is_split=is_split))
    if not rows:
        problems.error(f"{folder} has no pictures in folders of classes ({', '.join(ENDINGS)})", _LAYOUT)
        problems.stop_if_any()
    frame = pl.DataFrame({"label": [one[1] for one in rows], "split": [one[0] for one in rows]})
    splits = Splits(column="split") if is_split else Splits()
    declaration = Declaration("label", task="classification", positive=positive, splits=splits)
    others = sum(1 for one in folder.rglob("*") if one.is_file()) - len(rows)
    if others:
        problems.note(f"{others} files of {folder.name} were left out: they are no {', '.join(ENDINGS)} in a class")
    return _data(folder, [one[2] for one in rows], (frame, declaration), size, problems)


def read_picture_table(path: str | Path, declaration: Declaration, *, image: str, size: Sequence[int] = ()) -> Data:
    """A CSV or Parquet file whose column `image` names a PNG or JPEG file a row, seen from the table's folder.

    Label, groups and splits are as declared; no other column is read. `size` is (height, width): pictures of another
    size are scaled to it (bilinear); without it all must have one. They are of one channel where every file is grey,
    else of three. A turn that a camera noted is made. Raises DataError with everything wrong at once;
    MissingExtraError without Pillow.
    """
    path, problems = Path(path), Problems()
    declaration = replace(declaration, features=[image], categorical=[image], leave_out=())
    raw = _read(path)
    frame = parse_file(path, raw, replace(declaration, sha256=""), problems)  # nobody compared its digest
    _resolve(frame, declaration, problems)
    problems.stop_if_any()
    named = text_of(frame[image])
    if named.null_count():
        problems.error(f"column {image!r} names no picture in {rows_text(named.is_null().to_numpy())}", "a file a row")
        problems.stop_if_any()
    return _data(path, [path.parent / name for name in named.to_list()], (frame, declaration), size, problems)


def _listed(inside: Sequence[Path], *, is_split: bool) -> Iterator[tuple[str, str, Path]]:
    """(split, class, file) of each picture, in order of the names."""
    for outer in inside:
        for folder in sorted(outer.iterdir()) if is_split else [outer]:
            if folder.is_dir() and not folder.name.startswith("."):
                for file in sorted(folder.rglob("*")):
                    if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file():
                        yield _SPLITS.get(outer.name.lower(), ""), folder.name, file


def _has_folders(folder: Path) -> bool:
    return any(one.is_dir() and not one.name.startswith(".") for one in folder.iterdir())


def _data(
    path: Path, files: Sequence[Path], table: tuple[Columns, Declaration], size: Sequence[int], problems: Problems
) -> Data:
    frame, declaration = table
    if size and not (len(size) == 2 and all(type(one) is int and one >= MIN_SIDE for one in size)):
        problems.error(f"size is {list(size)}", f"[height, width], each from {MIN_SIDE}")
        problems.stop_if_any()
    found, shapes = _all_decoded(files, size, problems)
    wrong = np.array([isinstance(one, str) for one in found], dtype=bool)
    if wrong.any():
        told = names_text([f"{files[row].name}: {found[row]}" for row in np.flatnonzero(wrong).tolist()], 3)
        problems.error(f"pictures cannot be read in {rows_text(wrong)}: {told}", f"{' and '.join(FORMATS)} files")
        problems.stop_if_any()
    pictures = [one for one in found if isinstance(one, _Read)]
    if len(shapes) > 1 or min(shapes[0]) < MIN_SIDE:
        shown = names_text([f"{height} × {width}" for height, width in shapes], 4)
        following = "Cut or scale them, or declare size = [height, width]"
        problems.error(f"pictures are of {len(shapes)} sizes: {shown}", f"one size, from {MIN_SIDE} pixels", following)
        problems.stop_if_any()
    is_grey = all(one.pixels.ndim == 2 for one in pictures)
    images = np.stack([one.pixels[None] if is_grey else _coloured(one.pixels) for one in pictures])
    column = Column("image", "image", low=0, high=255, shape=tuple(images.shape[1:]))
    whole = hashlib.sha256("".join(one.sha256 for one in pictures).encode()).hexdigest()
    source = {"kind": "pictures", "address": path.name, "sha256_of_files": whole, "name": path.stem}
    return _assemble(frame, declaration, (column, images), problems, source)


def _coloured(pixels: Array) -> Array:
    """`(3, H, W)` of one picture."""
    return np.repeat(pixels[None], 3, axis=0) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _all_decoded(
    files: Sequence[Path], size: Sequence[int], problems: Problems
) -> tuple[list[_Read | str], list[tuple[int, ...]]]:
    """Each picture, or why there is none; and which shapes there are: of several, no pixels are kept."""
    found: list[_Read | str] = []
    shapes: set[tuple[int, ...]] = set()
    most, num_bytes, num = _most_bytes(), 0, 0
    for file in files:
        one = _decoded(file, size)
        if isinstance(one, _Read):
            shapes.add(one.pixels.shape[:2])
            num, num_bytes = num + 1, num_bytes + one.pixels.nbytes
            if len(shapes) > 1:
                one = replace(one, pixels=one.pixels[:0])
            elif num_bytes // num * len(files) > most:
                height, width = one.pixels.shape[:2]
                what = f"{len(files):,} pictures of {height} × {width} take {num_bytes / num * len(files) / 1e9:.1f} GB"
                problems.error(what, f"{most / 1e9:.1f} GB, a {_SHARE}th of memory", "Declare size = [height, width]")
                problems.stop_if_any()
        found.append(one)
    return found, sorted(shapes)


def _most_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _SHARE


def _decoded(file: Path, size: Sequence[int]) -> _Read | str:
    """The picture, or why there is none."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("Pillow", "images") from error
    try:
        raw = read_regular(file)
    except AssayError as error:
        return "there is no such file" if isinstance(error.__cause__, FileNotFoundError) else "no regular file"
    except ValueError:  # a zero byte
        return "no name of a file"
    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return f"more than {MOST_PIXELS:,} pixels"
            picture = ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits: Pillow would cut them off, not scale
                return "more than 8 bits a channel"
            is_grey = picture.mode in ("1", "L", "LA")
            picture = picture.convert("L" if is_grey else "RGB")
            if size and picture.size != (size[1], size[0]):
                picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return _Read(np.asarray(picture, dtype=np.uint8), hashlib.sha256(raw).hexdigest())
    except Image.DecompressionBombError:
        return f"more than {MOST_PIXELS:,} pixels"
    except (OSError, ValueError, SyntaxError, *_DAMAGED):
        return f"no whole {' or '.join(FORMATS)}" if raw else "an empty file"
