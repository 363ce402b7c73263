"""Yeast: 2,417 genes, and which of 14 functional classes each belongs to: several labels a row."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import polars as pl

from assay.data._problems import Problems
from assay.data.declare import Declaration, Splits
from assay.data.frame import build
from assay.data.sources.cache import load_files
from assay.data.sources.source import Kept, Package, Source
from assay.errors import DataError, Problem
from assay.values import Array, Data, Progress, quiet

NUM_LABELS, NUM_FEATURES, NUM_ROWS = 14, 103, 2_417
_OFFSET, _SIZE = 913_450, 1_494_613  # of the task's data among the package's R objects
_LARGEST = 8 << 20  # bytes of it, unpacked
_TABLE = struct.pack(">II", 0x313, NUM_LABELS + NUM_FEATURES)  # a list with a class: a data frame, of 117 columns
_KINDS = {10: ">i4", 14: ">f8"}  # R's logical and numeric vectors
SOURCE = Source(
    "yeast",
    Package(
        "debian",
        "r-cran-mlr",
        "2.19.1+dfsg-1",
        "r-cran-mlr_2.19.1+dfsg-1_amd64.deb",
        "59aa58ce5e4e74244a2c2eb28b25757a7aa1707de02e9442d49f5927e05a1916",
        4_932_448,
    ),
    (
        Kept(
            "Rdata.rdb",
            "!usr/lib/R/site-library/mlr/data/Rdata.rdb",
            "e440394b870f038bc68ae7c024f84bd0057f1ece96039da4b5708e9f5833b210",
            2_408_455,
        ),
    ),
    address="https://archive.ics.uci.edu/dataset/110/yeast",
    licence="not stated for the data; the package is BSD-2-Clause",
    citation="Elisseeff and Weston 2001: A kernel method for multi-labelled classification, NIPS 14",
    without_mirror="install the Debian package r-cran-mlr, or copy its archive to the cache",
)
LIMITS = (
    "labels have numbers, not names: they are groups of the yeast genome's functional catalogue of 2001",
    "features are standardised expression values of micro-arrays; which is which is not told",
    "a gene has 4.2 labels on average, and label14 applies to 34 of 2,417",
)


def load_yeast(*, splits: Splits | None = None, fetch: bool = False, progress: Progress = quiet) -> Data:
    """2,417 genes with 103 expression values; any of the labels label1 to label14 may apply. No groups.

    Split by seed, by the rarest label of a row. Limits: in `source["card"]`.
    Source: Elisseeff and Weston 2001, as shipped with the R package mlr. Raises DataError when not fetched.
    """
    columns = _columns(load_files(SOURCE, fetch=fetch, progress=progress)["Rdata.rdb"])
    labels = [f"label{number}" for number in range(1, NUM_LABELS + 1)]
    names = labels + [f"Att{number}" for number in range(1, NUM_FEATURES + 1)]
    frame = pl.DataFrame(dict(zip(names, columns, strict=True)))
    declaration = Declaration(labels, splits=splits or Splits(), name="yeast")
    card = {"title": "Yeast gene function, 14 labels", "limits": list(LIMITS)}
    return build(frame, declaration, Problems(), {**SOURCE.facts(), "card": card})


def _columns(raw: bytes) -> list[Array]:
    """The columns of the one data frame, in order. R's serialised vectors are a type, a length and the numbers."""
    found = zlib.decompressobj()
    table = found.decompress(raw[_OFFSET + 4 : _OFFSET + _SIZE], _LARGEST)  # after four bytes that tell its length
    at = table.find(_TABLE) + len(_TABLE)
    columns: list[Array] = []
    while at >= len(_TABLE) and len(columns) < NUM_LABELS + NUM_FEATURES and at + 8 <= len(table):
        kind, size = struct.unpack(">II", table[at : at + 8])
        if kind not in _KINDS or size != NUM_ROWS or at + 8 + size * np.dtype(_KINDS[kind]).itemsize > len(table):
            break
        values = np.frombuffer(table, dtype=_KINDS[kind], count=size, offset=at + 8)
        columns.append(values.astype(np.int64 if kind == 10 else np.float64))
        at += 8 + values.nbytes
    if len(columns) != NUM_LABELS + NUM_FEATURES:
        what = f"the file of yeast has {len(columns)} columns that can be read"
        raise DataError(Problem(what, f"{NUM_LABELS + NUM_FEATURES} of {NUM_ROWS:,} rows"))
    return columns
