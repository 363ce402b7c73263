"""Where a table's columns come from, one at a time: a frame in memory, or a Parquet file that is never whole in it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import polars as pl

_CELLS = 1 << 21  # read at a time: of a long table one column, of a wide one hundreds, as each call has its price


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

    def part(self, names: Sequence[str]) -> pl.DataFrame:
        """Some columns, read together: each read looks at the footer, which names all of them."""
        return pl.read_parquet(io.BytesIO(self.raw), columns=list(names), use_statistics=False).select(
            pl.col(name) for name in names
        )


def parts(frame: Columns, names: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The named columns in their order, a few million cells at a time.

    >>> [part.columns for part in parts(pl.DataFrame({"a": [1], "b": [2]}), ["b", "a"])]
    [['b', 'a']]
    """
    step = max(1, _CELLS // max(1, len(frame)))
    for start in range(0, len(names), step):
        some = list(names[start : start + step])
        if isinstance(frame, ParquetColumns):
            yield frame.part(some)
        else:
            yield frame[some] if isinstance(frame, pl.DataFrame) else pl.DataFrame([frame[name] for name in some])
