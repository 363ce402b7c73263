"""How well a score tells members from non-members, with intervals that include the choice of threshold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom

from assay import stats
from assay.stats import Draws, Estimate
from assay.values import Array

NUM_TAIL = 150  # thresholds kept apart in the tail that matters, for the resampled curve
NUM_BODY = 50


@dataclass(frozen=True)
class Scored:
    """Scores as distinct ranks: `members (M,)` and `others (N,)`; ties are broken by a keyed coin."""

    members: Array
    others: Array


def ranked(members: Array, others: Array, rng: np.random.Generator) -> Scored:
    """Scores to ranks over both samples. Without the coin a system with equal scores could not be given a threshold.

    >>> ranked(np.array([3.0]), np.array([1.0, 2.0]), np.random.default_rng(0)).members
    array([2])
    """
    scores = np.concatenate([members, others])
    order = np.lexsort((rng.random(len(scores)), scores))
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[order] = np.arange(len(scores))
    return Scored(ranks[: len(members)], ranks[len(members) :])


def area(scored: Scored) -> float:
    """P(member above non-member): the Mann-Whitney statistic."""
    below = np.searchsorted(np.sort(scored.others), scored.members)
    return float(below.mean() / len(scored.others))


def found_at(scored: Scored, fpr: float, level: float) -> Estimate:
    """Share of members above the threshold that a share `fpr` of non-members passes.

    The bounds hold at `level` for the rate at the true threshold: the number of non-members above it is binomial, which
    brackets it between two order statistics (half of the error), and the share of members above either end has its
    Clopper-Pearson bound (the other half). With fewer than about 4.4 / fpr non-members the lower bound is 0.
    """
    method = "Clopper-Pearson at both ends of the threshold's order-statistic interval"
    num_members, num_others = len(scored.members), len(scored.others)
    if not num_members or not num_others:
        return Estimate(None, None, None, method, None, "no members or no non-members to tell apart", level)
    falling = np.sort(scored.others)[::-1]

    def above(num_false: int) -> int:
        if num_false >= num_others:
            return num_members
        return int((scored.members > falling[num_false]).sum())

    num_false, quarter = int(np.floor(fpr * num_others + 1e-9)), (1 - level) / 4
    least, most = (int(binom.ppf(share, num_others, fpr)) for share in (quarter, 1 - quarter))
    half = 1 - (1 - level) / 2
    low = stats.exact_rate(above(least - 1), num_members, level=half).low if least >= 1 else 0.0
    high = stats.exact_rate(above(most), num_members, level=half).high
    note = f"only {num_others} non-members: a false-positive rate under {1 / num_others:.2g} cannot be resolved"
    value = above(num_false) / num_members
    return Estimate(value, low, high, method, None, note if num_false < 1 else "", level)


@dataclass(frozen=True)
class Resampled:
    """Members and non-members counted in shared score cells under each draw: `(1 + B, C)`, lowest cell first."""

    members: Array
    others: Array

    def areas(self) -> Array:
        """AUC `(1 + B,)`, cells as ties."""
        below = np.cumsum(self.others, axis=1) - self.others / 2
        wins: Array = (self.members * below).sum(axis=1)
        areas: Array = wins / (self.members.sum(axis=1) * self.others.sum(axis=1))
        return areas

    def found(self, fpr: float) -> Array:
        """Share of members found `(1 + B,)` at the threshold that each draw of non-members asks for."""
        false, true = (np.cumsum(cells[:, ::-1], axis=1) for cells in (self.others, self.members))
        allowed = fpr * self.others.sum(axis=1, keepdims=True) + 1e-9
        last = (false <= allowed).sum(axis=1)  # how many of the top cells may be claimed
        padded = np.concatenate([np.zeros((len(true), 1)), true], axis=1)
        shares: Array = padded[np.arange(len(true)), last] / self.members.sum(axis=1)
        return shares


def of_members(draws: Draws, num: int) -> Draws:
    """An independent stream of the same key for `num` members: two systems meet the same draws of both sides."""
    return draws.of(np.arange(num))


def resampled(scored: Scored, draws: Draws, fprs: tuple[float, ...], *, members: Draws | None = None) -> Resampled:
    """Cells cut at non-member scores, fine in the tail; `draws` are those of the non-members (test rows).

    `members` is what `of_members` gives, which is half of the work here: to be made once for several attacks.
    """
    falling = np.sort(scored.others)[::-1]
    tail = min(len(falling), max(NUM_TAIL, int(2.5 * max(fprs) * len(falling))))
    picks = np.concatenate(
        [
            np.linspace(0, tail - 1, NUM_TAIL),
            np.linspace(0, len(falling) - 1, NUM_BODY),
            np.floor(np.array(fprs) * len(falling) + 1e-9),
        ]
    )
    cuts = np.unique(falling[np.minimum(picks.astype(np.int64), len(falling) - 1)])
    mine, theirs = (np.searchsorted(cuts, side, side="left") for side in (scored.members, scored.others))
    own, num_cells = members or of_members(draws, len(mine)), len(cuts) + 1
    return Resampled(own.counts(mine, num_cells), draws.counts(theirs, num_cells))


def with_replicates(estimate: Estimate, values: Array) -> Estimate:
    """Give an exact estimate the resampled values, moved so that the observed one is the estimate's own."""
    if estimate.value is None:
        return estimate
    return replace(estimate, replicates=values[1:] - values[0] + estimate.value)
