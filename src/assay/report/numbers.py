"""Numbers as people read them: three significant figures, units, intervals."""

from __future__ import annotations


def number(value: float | None, unit: str = "", *, signed: bool = False) -> str:
    """A number with at most four significant figures, in a unit people use.

    >>> number(0.85312), number(0.00042, "seconds"), number(51234, "bytes"), number(None)
    ('0.853', '420 µs', '51.2 kB', '–')
    """
    if value is None:
        return "–"
    scale, suffix = _scale(abs(value), unit)
    shown = value / scale
    sign = "+" if signed and value > 0 else ""
    if shown == 0:
        text = "0"
    elif abs(shown) >= 1000:
        text = f"{shown:,.0f}"
    elif abs(shown) < 0.001:
        text = f"{shown:.1e}"
    else:
        digits = 3 if abs(shown) < 1 else 2 if abs(shown) < 10 else 1 if abs(shown) < 100 else 0
        text = f"{shown:.{digits}f}"
    return f"{sign}{text.replace('-', '−')}{' ' + suffix if suffix else ''}"


def bounds(low: float | None, high: float | None, unit: str = "") -> str:
    """An interval as "[low, high]".

    >>> bounds(0.1, 0.25)
    '[0.100, 0.250]'
    """
    if low is None and high is None:
        return ""
    return f"[{number(low, unit)}, {number(high, unit)}]"


def _scale(size: float, unit: str) -> tuple[float, str]:
    if unit == "seconds" and size:
        return next((s, u) for s, u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")) if size >= s or u == "ns")
    if unit == "bytes":
        return next((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if size >= s or u == "B")
    if unit == "joules":
        return next((s, u) for s, u in ((1e3, "kJ"), (1, "J"), (1e-3, "mJ"), (1e-6, "µJ")) if size >= s or u == "µJ")
    return 1, ""
