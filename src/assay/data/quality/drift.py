"""Two sets of rows compared: column by column, and all columns together."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2_contingency, fisher_exact, ks_2samp

from assay.units.text import words
from assay.values import Array, Column, modality

NUM_BINS = 10  # of a numeric column, by quantiles of the reference
NUM_HASHED = 256  # dimensions that the words of a text are counted in
MOST = 1000  # rows of each side in the joint test
NUM_PERMUTATIONS = 499
LEAST_EXPECTED = 5.0  # rows a cell of a chi-square test should expect; rarer categories are put together


@dataclass(frozen=True)
class Feature:
    """One column of both sides: values of numbers, codes of categories from 0 (missing = the last)."""

    name: str
    numeric: bool
    reference: Array  # (M,)
    current: Array  # (N,)


def features(columns: Sequence[Column], reference: Array, current: Array) -> list[Feature]:
    """What is compared column by column; of pictures brightness and contrast, of texts how many words and letters.

    >>> one = features([Column("age", "numeric")], np.array([[1.0]]), np.array([[2.0]]))[0]
    >>> one.name, one.numeric, one.current.tolist()
    ('age', True, [2.0])
    """
    kind = modality(columns)
    if kind == "table":
        return [
            Feature(one.name, one.kind == "numeric", *(_column(one, rows[:, place]) for rows in (reference, current)))
            for place, one in enumerate(columns)
        ]
    told = [_described(rows, columns[0]) for rows in (reference, current)]
    names = ("brightness", "contrast") if kind == "image" else ("num_words", "num_letters")
    return [Feature(name, True, told[0][:, place], told[1][:, place]) for place, name in enumerate(names)]


def _column(column: Column, values: Array) -> Array:
    if column.kind == "numeric":
        return values
    num = len(column.categories)
    codes: Array = np.where((values >= 0) & (values < num), values, num).astype(np.int64)
    return codes


def _described(rows: Array, column: Column) -> Array:
    if rows.dtype.kind == "T":
        found = [(len(words(text, column.language)), len(text)) for text in rows.tolist()]
        return np.array(found, dtype=np.float64).reshape(-1, 2)
    flat = rows.reshape(len(rows), -1)
    return np.stack([flat.mean(axis=1, dtype=np.float64), flat.std(axis=1, dtype=np.float64)], axis=1)


def column_p_value(feature: Feature) -> tuple[float, float | None]:
    """(p, distance): Kolmogorov-Smirnov for numbers, with the distance; chi-square for categories, without one.

    Numbers that are missing are left out, and missing itself is compared when either side has any (the smaller p,
    doubled). (1, None) where a side has no rows.
    """
    if not len(feature.reference) or not len(feature.current):
        return 1.0, None
    if not feature.numeric:
        return _chi_square(feature.reference, feature.current), None
    seen = [side[np.isfinite(side)] for side in (feature.reference, feature.current)]
    missing = [np.isnan(side).astype(np.int64) for side in (feature.reference, feature.current)]
    gaps = _chi_square(*missing) if any(side.any() for side in missing) else None
    if not all(len(side) for side in seen):
        return (1.0 if gaps is None else gaps), None
    found = ks_2samp(*seen, method="asymp")
    p = float(found.pvalue)
    return (p if gaps is None else min(1.0, 2 * min(p, gaps))), float(found.statistic)


def _chi_square(reference: Array, current: Array) -> float:
    num = int(max(reference.max(initial=0), current.max(initial=0))) + 1
    return chi_square_of(
        np.stack([np.bincount(side, minlength=num) for side in (reference, current)]).astype(np.float64)
    )


def chi_square_of(table: Array, *, fewest: float = LEAST_EXPECTED) -> float:
    """P-value of counts `(2, C)`: whether both sides have the same shares.

    Rare cells are put together until the smaller side should have `fewest` rows in each. Far out in its tail the
    approximation calls too much with few rows a cell: then ask for more of them, and two cells are tested exactly.
    """
    table = table[:, np.argsort(table.sum(axis=0))]
    least = table.sum(axis=1).min() / table.sum()  # the smaller side's share of a cell
    while table.shape[1] > 2 and table[:, 0].sum() * least < fewest:
        table = np.concatenate([table[:, :1] + table[:, 1:2], table[:, 2:]], axis=1)
        table = table[:, np.argsort(table.sum(axis=0))]
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2:
        return 1.0
    if fewest > LEAST_EXPECTED and table.shape[1] == 2:
        return float(fisher_exact(np.round(table).astype(np.int64)).pvalue)
    return float(chi2_contingency(table, correction=table.shape[1] == 2).pvalue)


def bins(feature: Feature) -> tuple[Array, Array, int]:
    """Cell of each row of both sides, and how many cells: deciles of the reference, or categories; missing last."""
    if not feature.numeric:
        num = int(max(feature.reference.max(initial=0), feature.current.max(initial=0))) + 1
        return feature.reference, feature.current, num
    seen = feature.reference[np.isfinite(feature.reference)]
    edges = np.unique(np.quantile(seen, np.arange(1, NUM_BINS) / NUM_BINS)) if len(seen) else np.empty(0)
    sides = [
        np.where(np.isnan(side), len(edges) + 1, np.searchsorted(edges, side, side="left"))
        for side in (feature.reference, feature.current)
    ]
    return sides[0], sides[1], len(edges) + 2


def stability_index(reference: Array, current: Array) -> Array:
    """Population stability index: sum over cells of (q - p) ln(q / p), half a row added to every cell.

    Counts of the reference `(C,)` and of the other side `(..., C)`, over cells that either side has rows in.

    >>> round(float(stability_index(np.array([500.0, 500.0]), np.array([300.0, 700.0]))), 3)
    0.169
    """
    used = (reference > 0) | (current.reshape(-1, current.shape[-1])[0] > 0)
    p, q = reference[used] + 0.5, current[..., used] + 0.5
    p, q = p / p.sum(), q / q.sum(axis=-1, keepdims=True)
    found: Array = ((q - p) * np.log(q / p)).sum(axis=-1)
    return found


def coordinates(columns: Sequence[Column], reference: Array, current: Array) -> tuple[Array, Array]:
    """Rows of both sides as points: numbers in standard deviations, categories one by one, pixels, hashed words."""
    kind = modality(columns)
    if kind == "image":
        return tuple(rows.reshape(len(rows), -1).astype(np.float32) / 255 for rows in (reference, current))  # type: ignore[return-value]
    if kind == "text":
        return _hashed(reference, columns[0].language), _hashed(current, columns[0].language)
    parts: list[tuple[Array, Array]] = []
    for one in features(columns, reference, current):
        if one.numeric:
            middle, spread = np.nan_to_num([np.nanmean(one.reference), np.nanstd(one.reference)])
            scaled = [np.nan_to_num((side - middle) / (spread or 1.0)) for side in (one.reference, one.current)]
            parts.append((scaled[0][:, None], scaled[1][:, None]))
        else:
            num = int(max(one.reference.max(initial=0), one.current.max(initial=0))) + 1
            parts.append((np.eye(num)[one.reference] / np.sqrt(2), np.eye(num)[one.current] / np.sqrt(2)))
    first, second = (np.concatenate([part[side] for part in parts], axis=1).astype(np.float32) for side in (0, 1))
    return first, second


def _hashed(rows: Array, language: str) -> Array:
    found = np.zeros((len(rows), NUM_HASHED), dtype=np.float32)
    for row, text in enumerate(rows.tolist()):
        for word in words(text.lower(), language):
            found[row, zlib.crc32(word.strip().encode()) % NUM_HASHED] += 1
    scaled: Array = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)
    return scaled


def mean_discrepancy(reference: Array, current: Array, rng: np.random.Generator) -> tuple[float, float]:
    """(MMD squared, p): the unbiased maximum mean discrepancy `(M, D)` against `(N, D)`, and its permutation p-value.

    Gaussian kernel of the median distance (Gretton et al. 2012, section 8); p = (1 + #{permuted >= seen}) / 500.
    """
    points = np.concatenate([reference, current]).astype(np.float32)
    squares, kernel = np.square(points).sum(axis=1), 2 * points @ points.T
    np.subtract(squares[:, None] + squares, kernel, out=kernel)  # squared distances; in place, for they are many
    np.maximum(kernel, 0, out=kernel)
    median = float(np.median(kernel[:-1:4, 1::4]))  # pairs of two different rows: a sixteenth of them is plenty
    np.divide(np.negative(kernel, out=kernel), median or 1.0, out=kernel)
    np.exp(kernel, out=kernel)
    np.fill_diagonal(kernel, 0)
    first = np.zeros((NUM_PERMUTATIONS + 1, len(points)), dtype=np.float32)
    first[0, : len(reference)] = 1
    for row in first[1:]:
        row[rng.permutation(len(points))[: len(reference)]] = 1
    one, two = float(len(reference)), float(len(current))
    within = np.einsum("pn,pn->p", first @ kernel, first, dtype=np.float64)
    total = float(kernel.sum(dtype=np.float64))
    across = first.astype(np.float64) @ kernel.sum(axis=1, dtype=np.float64) - within
    other = total - within - 2 * across
    found = within / (one * (one - 1)) + other / (two * (two - 1)) - 2 * across / (one * two)
    return float(found[0]), float(np.mean(found >= found[0]))


def holm(p_values: Array) -> Array:
    """P-values corrected so that any false alarm among all has at most the stated chance (Holm 1979).

    >>> holm(np.array([0.01, 0.04, 0.03])).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    scaled = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    found = np.empty(len(p_values))
    found[order] = np.minimum(scaled, 1)
    return found
