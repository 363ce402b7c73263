"""How wrong the system would be if it were silent where it is least sure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import digamma

from assay.probes.utility._classes import share
from assay.registry import probe
from assay.stats import Draws, Estimate, mean, rate
from assay.values import Array, Groups, Measurement

COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
NUM_BLOCKS = 32  # of confidence, for the draws; the value itself uses every row


@probe("utility", version=2)
def selective_risk(
    labels: Array, probabilities: Array, predictions: Array, groups: Groups, draws: Draws
) -> list[Measurement]:
    """Share of wrong answers among the rows that the system is surest of, and the area under that over coverage.

    Definition: rows sorted by the probability of the answer given, highest first; risk_k = share of wrong among the
        first k. area_under_risk_coverage (AURC) = mean_k risk_k; equal probabilities count as every order of them
        equally often. excess_area_under_risk_coverage = AURC less that of the best order of the same answers, wrong
        ones last. selective_risk, slice "coverage=0.80" = risk of the rows at or above the threshold that keeps 80 % of
        the rows; "coverage=0.80 & sex=Female" of those in the group. An errored example is wrong, and last.
    Shapes: labels (N,), probabilities (N, K), predictions (N,), groups codes (N, G).
    Direction: lower is better; unit share, 0 to 1.
    Limits: AURC mixes how many answers are wrong with how well they are told apart: the excess is the latter alone.
        Thresholds are taken as fixed: intervals of selective_risk hold for a system that is given this threshold, not
        for one that keeps exactly 80 %. Silence may fall on one group: its slice says how many of its rows are kept.
    Source: El-Yaniv & Wiener (2010), section 2; Geifman, Uziel & El-Yaniv (2019), section 3 (AURC, E-AURC).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> labels, chance = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.7, 0.9])
    >>> answers, draws = (chance > 0.5).astype(int), make_draws(b"key", "split", [np.array([0, 0, 1, 1])])
    >>> nobody = Groups(np.zeros((4, 0)), ())
    >>> found = selective_risk(labels, np.column_stack([1 - chance, chance]), answers, nobody, draws)
    >>> [(one.metric, round(one.value, 4)) for one in found[:2]]  # risks 0, 0, 0, 1/4: the best order
    [('area_under_risk_coverage', 0.0625), ('excess_area_under_risk_coverage', 0.0)]
    """
    errored = (predictions < 0) | ~np.isfinite(probabilities).all(axis=1)
    wrong = (labels != predictions) | errored
    stated = probabilities[np.arange(len(labels)), np.maximum(predictions, 0)].astype(np.float64)
    confidence = np.where(errored, -1.0, stated)
    rows, num, level = (len(labels), int(errored.sum())), len(labels), draws.level
    areas = _areas(confidence, wrong, draws) if num else np.full((2, 1 + draws.num_draws), np.nan)
    names = ("area_under_risk_coverage", "excess_area_under_risk_coverage")
    found = []
    for name, values in zip(names, areas, strict=True):
        estimate = mean(values * num, np.full(len(values), float(num)), level=level, bounds=(0.0, 1.0))
        found.append(share(estimate, name, rows, better="lower"))
    found += _by_coverage(confidence, wrong, errored, draws)
    return found + _by_group(confidence, wrong, errored, groups=groups, draws=draws)


def _by_coverage(confidence: Array, wrong: Array, errored: Array, draws: Draws) -> list[Measurement]:
    """The risk of the surest rows, at each coverage."""
    num, ordered, found = len(wrong), np.sort(confidence)[::-1], []
    kept = np.ones((num, len(COVERAGES)), dtype=bool)
    for column, coverage in enumerate(COVERAGES):
        if num and coverage < 1:
            kept[:, column] = confidence >= ordered[max(0, int(np.ceil(coverage * num - 1e-9)) - 1)]
    sums = draws.sums(np.column_stack([kept & wrong[:, None], kept]))
    for column, coverage in enumerate(COVERAGES):
        inside = kept[:, column]
        counted = int(inside.sum()), int((inside & errored).sum())
        risk = rate(sums[:, column], sums[:, len(COVERAGES) + column], level=draws.level)
        risk = _told(risk, coverage, counted[0], num)
        found.append(share(risk, "selective_risk", counted, where=f"coverage={coverage:.2f}", better="lower"))
    return found


def _by_group(confidence: Array, wrong: Array, errored: Array, *, groups: Groups, draws: Draws) -> list[Measurement]:
    """The risk of each group's rows among the surest of all, at each coverage below 1."""
    num, part, found = len(wrong), COVERAGES[:-1], []
    ordered = np.sort(confidence)[::-1]
    limits = np.array([ordered[max(0, int(np.ceil(coverage * num - 1e-9)) - 1)] for coverage in part if num])
    first = (confidence[:, None] < limits).sum(axis=1)  # the first coverage that keeps the row
    for index, column in enumerate(groups.columns if num else ()):
        size, codes = len(column.categories), groups.codes[:, index].astype(np.int64)
        known = np.where((codes < 0) | (codes >= size), size, codes)
        cells = draws.counts((known * (len(part) + 1) + first) * 2 + wrong, (size + 1) * (len(part) + 1) * 2)
        kept = cells.reshape(len(cells), size + 1, len(part) + 1, 2).cumsum(axis=2)
        for place, category in enumerate(column.categories):
            member = known == place
            for column_at, coverage in enumerate(part):
                hits, totals = kept[:, place, column_at, 1], kept[:, place, column_at].sum(axis=1)
                risk, inside = rate(hits, totals, level=draws.level), member & (first <= column_at)
                told = f"{int(inside.sum())} of {int(member.sum())} rows of the group are answered"
                risk = (
                    risk if risk.value is None else replace(risk, reason="; ".join(filter(None, [told, risk.reason])))
                )
                where = f"coverage={coverage:.2f} & {column.name}={category}"
                counted = int(inside.sum()), int((inside & errored).sum())
                found.append(share(risk, "selective_risk", counted, where=where, better="lower"))
    return found


def _told(risk: Estimate, coverage: float, counted: int, num: int) -> Estimate:
    """With the coverage that was reached, where ties keep it from the one asked for."""
    if risk.value is None or counted - coverage * num <= max(1.0, 0.005 * num):
        return risk
    reason = f"ties keep {counted} of {num} rows"
    return Estimate(risk.value, risk.low, risk.high, risk.method, risk.replicates, reason, risk.level)


def _areas(confidence: Array, wrong: Array, draws: Draws) -> Array:
    """AURC and its excess, `(2, 1 + B)`: exact for the rows, by blocks of confidence for the draws."""
    _, every = np.unique(-confidence, return_inverse=True)
    exact = _both(np.bincount(every * 2 + wrong).astype(np.float64)[None])
    edges = np.unique(np.quantile(confidence, np.arange(1, NUM_BLOCKS) / NUM_BLOCKS))
    blocks = len(edges) - np.searchsorted(edges, confidence, side="right")  # equal confidences stay together
    drawn = _both(draws.counts(blocks * 2 + wrong, 2 * (len(edges) + 1)))
    drawn += exact - drawn[:, :1]
    return drawn


def _both(counts: Array) -> Array:
    """From rows `(R, 2 * blocks)`, right and wrong of each block, surest block first (padded to even)."""
    counts = np.pad(counts, [(0, 0), (0, counts.shape[1] % 2)]).reshape(len(counts), -1, 2)
    best = np.stack([counts.sum(axis=1) * [1, 0], counts.sum(axis=1) * [0, 1]], axis=1)
    area = _area(counts)
    return np.stack([area, np.maximum(0.0, area - _area(best))])


def _area(counts: Array) -> Array:
    """Mean risk over all coverages `(R,)`, from `(R, blocks, 2)`.

    Within a block of m rows with e wrong, after n0 rows with e0, the k-th row makes the expected risk
    (e0 + k e / m) / (n0 + k); the sum over k is e + (e0 - n0 e / m) (psi(n0 + m + 1) - psi(n0 + 1)).
    """
    wrong, rows = counts[..., 1], counts.sum(axis=-1)
    before, wrong_before = rows.cumsum(axis=1) - rows, wrong.cumsum(axis=1) - wrong
    slope = np.divide(wrong, rows, out=np.zeros_like(wrong), where=rows > 0)
    spread = digamma(before + rows + 1) - digamma(before + 1)
    total: Array = (wrong + (wrong_before - before * slope) * spread).sum(axis=1) / rows.sum(axis=1)
    return total
