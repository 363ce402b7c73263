"""Grams of carbon dioxide equivalent for a kilowatt-hour, and for making the machine."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Yearly averages of 2023, gCO2e/kWh, by ISO 3166 code: Our World in Data (Ember; Energy Institute), as CodeCarbon
# ships them. Location-based, without offsets; an hour can be half or twice its year.
GRAMS_PER_KWH: Mapping[str, float] = MappingProxyType(
    {
        "NOR": 30.0,
        "SWE": 41.0,
        "FRA": 56.0,
        "GBR": 238.0,
        "USA": 369.0,
        "DEU": 381.0,
        "CHN": 582.0,
        "POL": 662.0,
        "IND": 713.0,
    }
)
WORLD = 475.0  # where no place is declared: the world average that CodeCarbon falls back to
JOULES_PER_KWH = 3.6e6
# Of a rack server with one processor: Cloud Carbon Footprint, "Embodied emissions" (Teads' data), four years of life.
SERVER_GRAMS, SERVER_SECONDS = 1.0e6, 4 * 365.25 * 86400
SERVER_ERROR = 0.5  # life-cycle analyses of servers differ by about a factor of two either way
SERVER_CORES = 64  # of which a system on one core reserves one


def intensity(declared: object) -> tuple[float, float, float, str]:
    """(value, low, high, how) in g/kWh: a declared number, a declared country, or the world and the range of the table.

    >>> intensity("FRA")[:3], intensity(120)[:3], intensity(None)[:3]
    ((56.0, 56.0, 56.0), (120.0, 120.0, 120.0), (475.0, 30.0, 713.0))
    """
    if isinstance(declared, (int, float)) and not isinstance(declared, bool) and declared >= 0:
        return float(declared), float(declared), float(declared), "declared intensity"
    if isinstance(declared, str) and declared in GRAMS_PER_KWH:
        return (GRAMS_PER_KWH[declared],) * 3 + (f"yearly average of {declared}",)
    values = GRAMS_PER_KWH.values()
    return WORLD, min(values), max(values), "world average, place not declared"
