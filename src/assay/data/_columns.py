"""Where a table's columns come from, one at a time: a frame in memory, or a Parquet file that is never whole in it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import polars as pl


class Columns(Protocol):
    """Named columns of one length. A polars frame is one."""

    @property
    def columns(self) -> list[str]:
        """The names, in order."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def __getitem__(self, name: str) -> pl.Series:
        """One column, in file order."""
        ...


@dataclass(frozen=True)
class ParquetColumns:
    """The columns of a Parquet file held as bytes: each is read when asked for, and kept by nobody here.

    A frame of ten million rows would be several times its file; one column of it is not.
    """

    raw: bytes

    @cached_property
    def columns(self) -> list[str]:
        """The names, from the file's footer."""
        return list(pl.read_parquet_schema(io.BytesIO(self.raw)))

    @cached_property
    def _num_rows(self) -> int:
        return int(pl.scan_parquet(io.BytesIO(self.raw)).select(pl.len()).collect().item())

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, name: str) -> pl.Series:
        return pl.read_parquet(io.BytesIO(self.raw), columns=[name], use_statistics=False).to_series()
