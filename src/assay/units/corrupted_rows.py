"""Five ways in which a table goes wrong, at five severities: noise, drift, wrong units, empty cells, wrong categories.

Every function takes rows `(N, F)`, a severity from 1 to 5, the columns and a stream of random numbers. Values may leave
the plausible range: a wrong unit does.
Source: kinds as in Breck et al. 2019, Data validation for machine learning, section 3, and Schelter et al. 2018,
Automating large-scale data quality verification, table 1; the sizes are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from assay.values import Array, Column

NOISE = (0.1, 0.2, 0.3, 0.5, 1.0)  # standard deviations
SHIFT = (0.1, 0.25, 0.5, 1.0, 2.0)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)  # of the rows, or of the cells

Corruption = Callable[[Array, int, Sequence[Column], np.random.Generator], Array]


def corrupted(name: str, inputs: Array, severity: int, columns: Sequence[Column], rng: np.random.Generator) -> Array:
    """Rows `(N, F)` float32, corrupted.

    >>> rows = np.array([[20.0], [30.0]], dtype=np.float32)
    >>> corrupted("missing_cells", rows, 5, [Column("age", "numeric")], np.random.default_rng(1)).tolist()
    [[20.0], [30.0]]
    """
    return CORRUPTIONS[name](inputs, severity, columns, rng).astype(np.float32)


def kinds(columns: Sequence[Column]) -> tuple[str, ...]:
    """The corruptions that these columns can suffer.

    >>> kinds([Column("job", "categorical", ("a", "b"))])
    ('missing_cells', 'category_swap')
    """
    numeric = any(column.kind == "numeric" for column in columns)
    categorical = any(column.kind == "categorical" for column in columns)
    needs = {"missing_cells": True, "category_swap": categorical}
    return tuple(name for name in CORRUPTIONS if needs.get(name, numeric))


def _numeric(columns: Sequence[Column]) -> Array:
    return np.array([column.kind == "numeric" for column in columns], dtype=bool)


def _spread(inputs: Array) -> Array:
    finite = np.where(np.isfinite(inputs), inputs, np.nan).astype(np.float64)
    counts = np.maximum(np.isfinite(finite).sum(axis=0), 1)
    mean = np.nansum(finite, axis=0) / counts
    found: Array = np.sqrt(np.nansum((finite - mean) ** 2, axis=0) / counts)
    return found


def _whole(inputs: Array, moved: Array) -> Array:
    """Columns of whole numbers stay whole."""
    whole = ((inputs == np.round(inputs)) | ~np.isfinite(inputs)).all(axis=0)
    return np.where(whole, np.round(moved), moved)


def noise(inputs: Array, severity: int, columns: Sequence[Column], rng: np.random.Generator) -> Array:
    """Normal noise of s standard deviations on every number."""
    spread = np.where(_numeric(columns), _spread(inputs), 0.0)
    return _whole(inputs, inputs + NOISE[severity - 1] * spread * rng.standard_normal(inputs.shape))


def shift(inputs: Array, severity: int, columns: Sequence[Column], rng: np.random.Generator) -> Array:
    """Every number moved by the same s sd: drift, or a sensor set wrongly. Which way each column goes is drawn by row.

    The mean over rows is then one over directions, and their draw is in its interval: drawn once for all rows, the
    direction moved accuracy by three of its standard errors.
    """
    signs = rng.integers(0, 2, inputs.shape) * 2 - 1
    return _whole(inputs, inputs + SHIFT[severity - 1] * signs * np.where(_numeric(columns), _spread(inputs), 0.0))


def unit_error(inputs: Array, severity: int, columns: Sequence[Column], rng: np.random.Generator) -> Array:
    """In a share of the rows, one number times 10 or times 100: another unit, or a slipped point."""
    places = np.flatnonzero(_numeric(columns))
    hit = rng.random(len(inputs)) < SHARES[severity - 1]
    column, factor = places[rng.integers(0, len(places), len(inputs))], rng.choice([10.0, 100.0], len(inputs))
    found = np.array(inputs, dtype=np.float64)
    rows = np.flatnonzero(hit)
    found[rows, column[rows]] *= factor[rows]
    return found


def missing_cells(inputs: Array, severity: int, columns: Sequence[Column], rng: np.random.Generator) -> Array:
    """A share of the cells empty: NaN for a number, -1 for a category."""
    empty = rng.random(inputs.shape) < SHARES[severity - 1]
    return np.where(empty, np.where(_numeric(columns), np.nan, -1.0), inputs)


def category_swap(inputs: Array, severity: int, columns: Sequence[Column], rng: np.random.Generator) -> Array:
    """A share of the categories replaced by those of random rows."""
    donors = np.take_along_axis(inputs, rng.integers(0, max(len(inputs), 1), inputs.shape), axis=0)
    swapped = (rng.random(inputs.shape) < SHARES[severity - 1]) & ~_numeric(columns)
    return np.where(swapped, donors, inputs)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "noise": noise,
        "shift": shift,
        "unit_error": unit_error,
        "missing_cells": missing_cells,
        "category_swap": category_swap,
    }
)
