"""Numbers as people read them: three significant figures, units people use, intervals."""

from __future__ import annotations

_SMALL = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SCALES = {
    "seconds": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "joules": ((1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
    "grams": ((1e3, "kg"), (1.0, "g"), (1e-3, "mg"), (1e-6, "µg"), (1e-9, "ng")),
    "FLOP": ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1.0, "FLOP")),
}
_SUFFIXES = {
    "rows per second": "/s",
    "nats": "nat",
    "FLOP per byte": "FLOP/B",
}  # shares, correlations and the like stand bare
_COUNTS = frozenset({"slices", "count", "B", "FLOP"})


def number(value: float | None, unit: str = "", *, signed: bool = False) -> str:
    """A number with about three significant figures, in a unit people use.

    >>> number(0.85312), number(0.00042, "seconds"), number(51234, "bytes"), number(None)
    ('0.853', '420 µs', '51.2 kB', '–')
    >>> number(-0.0000424), number(1_000_000, "bytes", signed=True), number(352, "slices")
    ('−4.2×10⁻⁵', '+1.00 MB', '352')
    """
    if value is None:
        return "–"
    scale, suffix = _scale(abs(value), unit)
    sign = "+" if signed and value > 0 else ""
    text = _digits(value / scale, is_count=unit in _COUNTS or suffix in _COUNTS)
    return f"{sign}{text.replace('-', '−')}{' ' + suffix if suffix else ''}"


def _digits(shown: float, *, is_count: bool) -> str:
    size = abs(shown)
    if shown == 0:
        return "0"
    if size >= 100 or (is_count and shown == int(shown)):
        return f"{shown:,.0f}"
    if size < 1e-4:
        mantissa, exponent = f"{shown:.1e}".split("e")
        return f"{mantissa}×10{str(int(exponent)).translate(_SMALL)}"
    if size < 1e-3:
        return f"{shown:.5f}"
    digits = 3 if size < 1 else 2 if size < 10 else 1
    return f"{shown:.{digits}f}"


def bounds(low: float | None, high: float | None, unit: str = "", *, signed: bool = False) -> str:
    """An interval as "[low, high]"; empty when there is none.

    >>> bounds(0.1, 0.25), bounds(-0.1, None, signed=True)
    ('[0.100, 0.250]', '[−0.100, –]')
    """
    if low is None and high is None:
        return ""
    return f"[{number(low, unit, signed=signed)}, {number(high, unit, signed=signed)}]"


def limit(bound: str, unit: str = "") -> str:
    """A rule's bound as a person writes it: all digits that were given, in a unit people use.

    >>> limit("at_most 100000000.0", "bytes"), limit("at_least 0.05"), limit("at_most 0.05", "seconds")
    ('≤ 100 MB', '≥ 0.05', '≤ 50 ms')
    """
    kind, _, text = bound.partition(" ")
    sign = {"at_most": "≤", "at_least": "≥"}.get(kind)
    if sign is None or not text:
        return bound
    value = float(text)
    scale, suffix = _scale(abs(value), unit)
    return f"{sign} {f'{value / scale:.10g}'.replace('-', '−')}{' ' + suffix if suffix else ''}"


def scale(size: float, unit: str) -> tuple[float, str]:
    """What numbers of about this size are divided by, and the unit they then have; 1 and nothing where it stays.

    >>> scale(0.00024, "seconds"), scale(0.3, "fraction")
    ((1e-06, 'µs'), (1.0, ''))
    """
    return _scale(abs(size), unit)


def _scale(size: float, unit: str) -> tuple[float, str]:
    scales = _SCALES.get(unit)
    if scales is None:
        return 1.0, _SUFFIXES.get(unit, "")
    if not size:
        return next((one for one in scales if one[0] == 1.0), scales[-1])
    return next((one for one in scales if size >= one[0]), scales[-1])
