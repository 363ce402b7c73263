"""Areas under ROC curves within groups and across them, with limits that need no draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from assay.estimation.intervals import critical_value
from assay.values import Array

FEW = 10  # rows of either side: below, the variance of the placements is not trusted


@dataclass(frozen=True)
class Areas:
    """Chance that a positive of group a is ranked above a negative of group b, for all pairs `(G, G)`, or NaN."""

    values: Array
    variances: Array
    num_pairs: Array  # how many pairs share no row

    def limits(self, level: float) -> tuple[Array, Array]:
        """DeLong limits on the log-odds scale; where all pairs came out alike, exact ones for the disjoint pairs."""
        critical = critical_value(level) * (1 + 1.5 / np.maximum(self.num_pairs, 1))
        inside = (self.values > 0) & (self.values < 1)
        safe = np.where(inside, self.values, 0.5)
        half = critical * np.sqrt(self.variances) / (safe * (1 - safe))
        edge = ((1 - level) / 2) ** (1 / np.maximum(self.num_pairs, 1))
        low = np.where(inside, expit(logit(safe) - half), np.where(self.values >= 1, edge, 0.0))
        high = np.where(inside, expit(logit(safe) + half), np.where(self.values >= 1, 1.0, 1 - edge))
        return np.where(np.isnan(self.values), np.nan, low), np.where(np.isnan(self.values), np.nan, high)


@dataclass(frozen=True)
class Ranks:
    """Scores of the positives and negatives of each group, sorted, and the rows they came from."""

    scores: tuple[tuple[Array, Array], ...]  # by group: positives, negatives
    rows: tuple[tuple[Array, Array], ...]

    def placements(self, a: int, b: int) -> tuple[Array, Array]:
        """Share of b's negatives below each positive of a, and share of a's positives above each negative of b."""
        positives, negatives = self.scores[a][0], self.scores[b][1]
        return _share_below(positives, negatives), 1 - _share_below(negatives, positives)

    def influence(self, a: int, b: int, num_rows: int) -> Array:
        """First-order change `(N,)` of the area that one more of each row makes."""
        above, below = self.placements(a, b)
        found, area = np.zeros(num_rows), above.mean()
        found[self.rows[a][0]] = (above - area) / len(above)
        found[self.rows[b][1]] += (below - area) / len(below)
        return found

    def areas(self, *, crossed: bool) -> Areas:
        """All pairs of groups, or only the groups' own (the rest NaN)."""
        num = len(self.scores)
        values, variances, pairs = np.full((num, num), np.nan), np.zeros((num, num)), np.zeros((num, num))
        for a in range(num):
            for b in range(num) if crossed else (a,):
                sizes = len(self.scores[a][0]), len(self.scores[b][1])
                if 0 in sizes:
                    continue
                above, below = self.placements(a, b)
                values[a, b], pairs[a, b] = above.mean(), min(sizes)
                spread = sum(one.var(ddof=1) / len(one) for one in (above, below) if len(one) > 1)
                if min(sizes) < FEW:  # the most the variance can be: Birnbaum and Klose 1957
                    spread = max(spread, values[a, b] * (1 - values[a, b]) / min(sizes))
                variances[a, b] = spread
        return Areas(values, variances, pairs)


def ranks_of(scores: Array, positive: Array, codes: Array, num_groups: int) -> Ranks:
    """From scores, labels and group codes `(N,)`; a code of `num_groups` is in no group."""
    order = np.argsort(scores, kind="stable")
    found, rows = [], []
    for group in range(num_groups):
        own = order[codes[order] == group]
        sides = own[positive[own]], own[~positive[own]]
        rows.append(sides)
        found.append((scores[sides[0]], scores[sides[1]]))
    return Ranks(tuple(found), tuple(rows))


def _share_below(values: Array, among: Array) -> Array:
    """Share of sorted `among` below each of `values`, ties counted half."""
    below = np.searchsorted(among, values, side="left") + np.searchsorted(among, values, side="right")
    shares: Array = below / (2 * max(1, len(among)))
    return shares
