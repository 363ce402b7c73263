"""Memory that was freed and is still held by the allocator."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Hand freed memory back to the system (`malloc_trim` of the GNU C library; elsewhere nothing happens).

    Arrays under 32 MiB are kept by the allocator after use: of a table that was read column by column, as much again
    as the table. Costs milliseconds, so it belongs at the end of a step, not into a loop.

    >>> give_back()
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return
    trim(0)
