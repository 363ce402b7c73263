"""A change as people say it: per cent of a time or a size, points of a share, else in its own unit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from assay.estimation.widen import FRACTIONS

RELATIVE = frozenset({"seconds", "bytes", "joules", "grams", "FLOP", "rows per second"})  # of which 0 is nothing
Spoken = Literal["percent", "points", "unit"]


def spoken(ends: Sequence[float | None], unit: str, before: float | None) -> tuple[tuple[float | None, ...], Spoken]:
    """A change and its ends, scaled, and what they then are.

    Per cent are of the value `before`, taken as exact. Limits: its noise is in the change, but not in what the change
    is divided by: the interval of a time that grew many times over is up to sqrt(2) too narrow, of one that fell too
    wide. Verdicts rest on the change itself.

    >>> spoken([-0.021, -0.034, -0.008], "fraction", 0.8)[1], spoken([-3.0], "seconds", 4.0)
    ('points', ((-75.0,), 'percent'))
    """
    if unit in FRACTIONS:
        return tuple(None if end is None else 100 * end for end in ends), "points"
    if unit in RELATIVE and before:
        return tuple(None if end is None else 100 * end / before for end in ends), "percent"
    return tuple(ends), "unit"


def signed(value: float | None) -> str:
    """Per cent or points as they are said: with a sign, and no more digits than anybody reads.

    >>> signed(-71.26), signed(2.14), signed(-0.034), signed(0.0004), signed(0.0), signed(None)
    ('−71', '+2.1', '−0.03', '+4×10⁻⁴', '0', '–')
    """
    if value is None:
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.005:
        mantissa, exponent = f"{size:.0e}".split("e")
        text = f"{mantissa}×10{str(int(exponent)).translate(_RAISED)}"
    else:
        text = f"{size:,.{0 if size >= 10 else 1 if size >= 0.95 else 2}f}"
    return ("−" if value < 0 else "+") + text


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def told(ends: Sequence[float | None], unit: str, before: float | None) -> str:
    """Value, low and high of a change in English.

    >>> told([-0.021, -0.034, -0.008], "fraction", 0.8), told([-3.0, -3.1, -2.9], "seconds", 4.0)
    ('−2.1 points [−3.4, −0.80]', '−75 % [−78, −72]')
    """
    scaled, kind = spoken(ends, unit, before)
    if kind == "unit":
        value, low, high = (_plain(end) for end in scaled)
        return f"{value} [{low}, {high}]"
    value, low, high = (signed(end) for end in scaled)
    return f"{value} {'%' if kind == 'percent' else 'points'}" + ("" if low == high else f" [{low}, {high}]")


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3g}".replace("-", "−")
