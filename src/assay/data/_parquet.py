"""Parquet bytes to a frame, so that a damaged file cannot take the process down.

The native parser can abort the whole process on a file with a few edited bytes (seen with polars 2.1: an allocation
whose size comes from the file). So bytes that nobody vouched for are first parsed by a child process.
"""

from __future__ import annotations

import subprocess
import sys

import polars as pl

from assay.data._columns import ParquetColumns
from assay.errors import DataError, Problem

# A few million cells at a time: the child, too, must hold a file that is larger than memory when unpacked.
_TRIAL = """
import io, sys, polars
raw = sys.stdin.buffer.read()
names = list(polars.read_parquet_schema(io.BytesIO(raw)))
rows = polars.scan_parquet(io.BytesIO(raw)).select(polars.len()).collect().item()
step = max(1, 2**21 // max(1, rows))
for start in range(0, len(names), step):
    polars.read_parquet(io.BytesIO(raw), columns=names[start : start + step])
"""
_MAX_SECONDS = 600


def parse_parquet(path: str, raw: bytes, *, is_trusted: bool) -> ParquetColumns:
    """The columns in `raw`; `is_trusted` when its digest was known beforehand: then no child is needed.

    Limits: a column of a small file may unpack to more rows than memory holds. Raises DataError.
    """
    if not (raw.startswith(b"PAR1") and raw.endswith(b"PAR1")):
        what = f"{path} does not start and end as a Parquet file ({len(raw)} bytes)"
        raise DataError(Problem(what, "a whole Parquet file", "It is truncated or another format: copy it again"))
    if not is_trusted:
        _try_in_child(path, raw)
    try:
        found = ParquetColumns(raw)
        len(found)
        if is_trusted and found.columns:
            found[found.columns[0]]  # a damaged file is refused here, where its name is known
        return found
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def _try_in_child(path: str, raw: bytes) -> None:
    command = [sys.executable, "-I", "-c", _TRIAL]
    try:
        trial = subprocess.run(command, input=raw, capture_output=True, timeout=_MAX_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _damaged(path, f"not read in {_MAX_SECONDS} seconds") from error
    if trial.returncode < 0:
        raise _damaged(path, f"the parser died of signal {-trial.returncode}")
    if trial.returncode:
        lines = trial.stderr.decode(errors="replace").strip().splitlines()
        raise _damaged(path, lines[-1] if lines else "no reason given")


def _damaged(path: str, reason: str) -> DataError:
    short = (reason.splitlines() or ["unknown"])[0][:200]
    return DataError(Problem(f"{path} is damaged: {short}", "a whole Parquet file", "Copy or write it again"))
