"""How a lineage tells counts of groups, which anybody may read, without telling of a few persons."""

from __future__ import annotations

from collections.abc import Mapping

from assay.units.told import FEWEST_ROWS

MEDIAN = "the median of the training rows"  # instead of it: the cell of a row, or between those of two
FEW, NOT_TOLD = f"fewer than {FEWEST_ROWS}", "not told"
LEAST_DOUBT = 5  # numbers that a small count could be


def told(counts: Mapping[str, int]) -> dict[str, int | str]:
    """Counts of the parts of some rows: to the nearest ten, and "fewer than 10" where that is so.

    Rounding keeps a small count from being what the others leave of a total. Where it does not (the exact total and
    the others leave fewer than five numbers that a small count could be), no part is told. No rows at all are so told.
    Limits: it is worked out for these parts and their total; who knows nine of ten persons knows the tenth.

    >>> told({"a": 1204, "b": 57, "c": 3})
    {'a': 1200, 'b': 60, 'c': 'fewer than 10'}
    >>> told({"a": 3, "b": 0})
    {'a': 'not told', 'b': 'not told'}
    """
    total = sum(counts.values())
    if not total:
        return dict(counts)
    tens = {name: (count + 5) // 10 * 10 for name, count in counts.items()}
    small = [name for name, count in counts.items() if count < FEWEST_ROWS]
    large = [told for name, told in tens.items() if name not in small]
    # What a reader knows: a small count is 0 to 9, a told one from 5 below to 4 above, and all make the total.
    highest = min(FEWEST_ROWS - 1, total - sum(max(FEWEST_ROWS, told - 5) for told in large))
    lowest = max(0, total - sum(told + 4 for told in large) - (len(small) - 1) * (FEWEST_ROWS - 1))
    if small and highest - lowest + 1 < LEAST_DOUBT:
        return dict.fromkeys(counts, NOT_TOLD)
    return {name: FEW if name in small else tens[name] for name in counts}


def about(count: int, *, of: int | None = None) -> int | str:
    """One count as `told` tells it beside what is left of the whole `of`; None: nobody is told a whole.

    >>> about(57, of=1000), about(3, of=1000), about(3)
    (60, 'fewer than 10', 'fewer than 10')
    """
    if of is None:
        return FEW if count < FEWEST_ROWS else (count + 5) // 10 * 10
    return told({"these": count, "others": of - count})["these"]
