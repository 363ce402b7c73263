"""Collecting everything that is wrong with a table before saying so."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from assay.errors import DataError, Problem
from assay.values import Array

NUM_SHOWN = 5  # rows
NAME_SHOWN = 60  # letters


@dataclass
class Problems:
    """`errors` stop the reader, all together; `notes` are kept in `source["problems"]`."""

    errors: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def error(self, what: str, allowed: str = "", next: str = "") -> None:
        """Record something that makes the table unusable as declared."""
        self.errors.append(Problem(what, allowed, next))

    def note(self, what: str, next: str = "") -> None:
        """Record something that a reader of results must know."""
        self.notes.append(Problem(what, next=next))

    def stop_if_any(self) -> None:
        """Raise DataError with every error found so far."""
        if self.errors:
            raise DataError(self.errors)


def rows_text(mask: Array) -> str:
    """The rows of a mask `(N,)` in words, counted from 1.

    >>> rows_text(np.array([False, True, True]))
    '2 rows (2, 3)'
    """
    rows = np.flatnonzero(mask) + 1
    shown = ", ".join(str(row) for row in rows[:NUM_SHOWN])
    more = ", …" if len(rows) > NUM_SHOWN else ""
    return f"{len(rows)} {'row' if len(rows) == 1 else 'rows'} ({shown}{more})"


def names_text(names: list[str], limit: int = 12) -> str:
    """A few names, each cut short (a file or a request chose them), and how many more there are."""
    shown = ", ".join(name if len(name) <= NAME_SHOWN else name[:NAME_SHOWN] + "…" for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
