"""Whether the test rows come from where the training rows came from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from assay import stats
from assay.access.handles import Query
from assay.data.quality.drift import (
    MOST,
    NUM_PERMUTATIONS,
    Feature,
    bins,
    column_p_value,
    coordinates,
    features,
    holm,
    mean_discrepancy,
    stability_index,
)
from assay.registry import EVERY_TASK, Sizes, probe
from assay.stats import Draws, Estimate
from assay.units.table import MOST_COLUMNS
from assay.values import Array, Measurement

SIGNIFICANT = 0.05
LONGEST = 3  # columns named in a reason
NUM_TOLD = 100  # columns of a wide table that are told one by one


def _no_rows(sizes: Sizes) -> dict[str, int]:
    """It compares rows and asks the model nothing."""
    return {}


@probe("data", tasks=EVERY_TASK, cost=_no_rows)
def data_drift(query: Query, draws: Draws) -> list[Measurement]:
    r"""Distance of the test rows from the training rows, by column and of all columns together.

    Definition: the reference is the split named "reference" where the data have one, else the training rows. By column:
        ks_distance = $\sup_t$ |F(t) - G(t)| of numbers; population_stability_index = $\sum_b (q_b - p_b) \ln(q_b/p_b)$
        over deciles of the reference, or categories. Together: mean_discrepancy = unbiased MMD squared, Gaussian kernel
        of the median distance, at most 1,000 rows a side; joint_drift_p_value from 499 permutations. drift_p_value =
        the smallest of all p-values (Kolmogorov-Smirnov, chi-square; joint), doubled, those of columns after Holm's
        correction; drifted_columns = #{columns whose corrected p <= 0.05}. Pictures are compared by brightness,
        contrast and pixels, texts by length and hashed words. Of over 256 columns 100, with the smallest p, are told.
    Shapes: the raw inputs of test (N, ...) and of the reference (M, ...), through the query handle; runs no row.
    Direction: p-values higher, all others lower is better; units p, share, nats, and counts.
    Limits: a small p says that rows differ, not that it matters: with many rows anything is found. The joint test sees
        1,000 rows a side, and what a Gaussian kernel sees. Labels are not compared. Rows are taken as independent.
        The stability index is high by about (bins - 1)(1/N + 1/M) where nothing moved.
    Source: Gretton et al. 2012, A kernel two-sample test, JMLR 13, lemma 6 and section 8; Holm 1979; interval of the
        distance: Dvoretzky, Kiefer and Wolfowitz 1956 with Massart's constant, both sides.

    >>> from assay.data.quality.drift import holm
    >>> holm(np.array([0.5, 0.001])).tolist()
    [0.5, 0.002]
    """
    data = query.system.data
    split = data.splits["reference"] if "reference" in data.splits else data.splits["train"]
    reference, current = split.inputs, query.inputs
    told = features(data.columns, reference, current)
    joint = _joint(query, reference, current)
    found = [column_p_value(one) for one in told]
    raw = np.array([p for p, _ in found])
    p_values = np.minimum(2 * holm(raw), 1)  # half the chance for columns, half for all
    smallest = float(min(p_values.min(), 2 * joint[1], 1.0))
    shown = _told(raw)
    moved = [one.name for one, p in zip(told, p_values, strict=True) if p <= SIGNIFICANT]
    about: dict[str, Any] = {"attempted": len(current)}
    measured = [
        stats.measured(_exact(smallest, draws), "drift_p_value", unit="p", better="higher", **about),
        stats.measured(
            _count(moved, draws, shown, len(told)), "drifted_columns", unit="count", better="lower", **about
        ),
        *_of_all(joint, len(current), draws),
    ]
    for one, (_, distance), p in ((told[at], found[at], p_values[at]) for at in shown):
        where = f"feature={one.name}"
        if distance is not None:
            band = _band(distance, one, p, draws.level)
            measured.append(stats.measured(band, "ks_distance", unit="share", better="lower", slice=where, **about))
        index, metric = _stability(one, query, draws), "population_stability_index"
        measured.append(stats.measured(index, metric, unit="nats", better="lower", slice=where, **about))
    return measured


def _told(p_values: Array) -> Array:
    """Places of the columns that are told by column: all, but of a wide table those with the smallest p."""
    few = NUM_TOLD if len(p_values) > MOST_COLUMNS else len(p_values)
    return np.sort(np.argsort(p_values, kind="stable")[:few])


def _joint(query: Query, reference: Array, current: Array) -> tuple[float, float]:
    rng = query.rng("drift")
    picked = [rows[np.sort(rng.permutation(len(rows))[:MOST])] for rows in (reference, current)]
    if min(len(rows) for rows in picked) < 2:
        return math.nan, 1.0
    return mean_discrepancy(*coordinates(query.columns, *picked), rng)


def _exact(value: float, draws: Draws) -> Estimate:
    return Estimate(value, None, None, "Holm", None, "a p-value has no interval", draws.level)


def _count(moved: list[str], draws: Draws, shown: Array, of: int) -> Estimate:
    value = float(len(moved))
    more = f" and {len(moved) - LONGEST} more" if len(moved) > LONGEST else ""
    reason = f"these moved: {', '.join(moved[:LONGEST])}{more}" if moved else ""
    if len(shown) < of:
        few = f"told by column: the {len(shown)} of {of} with the smallest p-values"
        reason = "; ".join(filter(None, (reason, few)))
    return Estimate(value, value, value, "exact count", None, reason, draws.level)


def _of_all(joint: tuple[float, float], num: int, draws: Draws) -> list[Measurement]:
    if math.isnan(joint[0]):
        none = Estimate(None, None, None, "none", None, "fewer than two rows on a side", draws.level)
        return [stats.measured(none, "mean_discrepancy", unit="share", better="lower", attempted=num)]
    hits = round(joint[1] * (NUM_PERMUTATIONS + 1))
    p = stats.exact_rate(hits, NUM_PERMUTATIONS + 1, level=draws.level)
    distance = Estimate(joint[0], None, None, "unbiased", None, "no interval: judge by its p-value", draws.level)
    return [
        stats.measured(distance, "mean_discrepancy", unit="share", better="lower", attempted=num),
        stats.measured(p, "joint_drift_p_value", unit="p", better="higher", attempted=num),
    ]


def _band(distance: float, feature: Feature, p: float, level: float) -> Estimate:
    sizes = [int(np.isfinite(side).sum()) for side in (feature.reference, feature.current)]
    reach = sum(math.sqrt(math.log(4 / (1 - level)) / (2 * num)) for num in sizes)
    low, high = max(0.0, distance - reach), min(1.0, distance + reach)
    return Estimate(distance, low, high, "DKW band", None, f"corrected p = {p:.2g}", level)


def _stability(feature: Feature, query: Query, draws: Draws) -> Estimate:
    """Of the same columns under every system: drawn by itself, as a row bootstrap of cells is a multinomial draw."""
    reference, current, num = bins(feature)
    seen = np.bincount(current, minlength=num)
    drawn = query.rng(f"stability {feature.name}").multinomial(len(current), seen / len(current), draws.num_draws)
    counts = np.concatenate([seen[None], drawn]).astype(np.float64)
    values = stability_index(np.bincount(reference, minlength=num).astype(np.float64), counts)
    return stats.statistic(values, level=draws.level, bounds=(0.0, None), num=len(current))
