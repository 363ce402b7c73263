"""Whether predicted numbers are spread alike over groups."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy import special

from assay.probes.fairness._groups import Partition, every, is_headline, share_of_level
from assay.probes.fairness._means import bounded_mean, gap_of_means
from assay.registry import probe
from assay.stats import Draws, Estimate
from assay.values import Array, Groups, Measurement

QUANTILES = (0.1, 0.5, 0.9)
SMIRNOV = "Smirnov, Bonferroni over pairs"
ORDER = "order statistics, Bonferroni over groups"


@probe("fairness", tasks=("regression",))
def prediction_gap(predictions: Array, groups: Groups, draws: Draws) -> list[Measurement]:
    """How far groups differ in what they are predicted: in the mean, at three quantiles, and as distributions.

    Definition: group_mean_prediction(g) = mean_g predictions, mean_prediction_difference = max_g - min_g of it;
        prediction_quantile_difference (slice quantile=q) = max_g - min_g of the smallest prediction with a share q of
        g at or below it, q = 0.1, 0.5, 0.9; prediction_distribution_gap = max over pairs of groups, and over all
        numbers t, of |P_a(predictions <= t) - P_b(predictions <= t)|.
    Shapes: predictions (N,), groups codes (N, G).
    Direction: differences lower, a mean alone neither; in the unit of the target, the distribution gap a share.
    Limits: looks at no target: groups whose targets differ should be predicted differently (see group_error_gap). Equal
        means can hide unequal tails, which quantiles and the distribution gap show. A group with an errored example
        (NaN) is undefined, and so are the differences it belongs to.
    Source: Agarwal, Dudik & Wu (2019), definition 1 (statistical parity for regression, as the largest distance of
        distribution functions); intervals: group_error_gap; binomial order statistics (David & Nagaraja, 7.1);
        Smirnov's limit law (1948).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.values import Column
    >>> sex, predictions = np.repeat([0, 1], 4), np.array([1, 2, 3, 4, 3, 4, 5, 6.0])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> found = prediction_gap(predictions, groups, make_draws(b"key", "split", [sex]))
    >>> [(one.metric, one.value) for one in found if "=" not in one.slice]
    [('mean_prediction_difference', 2.0), ('prediction_distribution_gap', 0.5)]
    """
    failed = ~np.isfinite(predictions)
    known, level, found = np.where(failed, 0.0, predictions).astype(np.float64), draws.level, []
    for order, part in enumerate(every(groups)):
        member = part.codes[:, None] == np.arange(len(part.slices))
        sums, rows = np.split(draws.sums(np.concatenate([member * known[:, None], member], axis=1)), 2, axis=1)
        lost, kept = part.num_rows(failed), np.flatnonzero(rows[0] > 0)
        joint = share_of_level(level, max(1, len(kept)))
        gap = gap_of_means([bounded_mean(sums[:, g], rows[:, g], lost[g], joint) for g in kept], level)
        metric, headline = "mean_prediction_difference", is_headline(order, groups)
        found.append(part.measured(gap, metric, better="lower", errored=failed, headline=headline, unit="target"))
        shown = None if lost[kept].any() else {int(g): np.sort(known[part.codes == g]) for g in kept}
        gap = _distribution_gap(shown, part, known, draws)
        metric = "prediction_distribution_gap"
        found.append(part.measured(gap, metric, better="lower", errored=failed, headline=False))
        for quantile in QUANTILES:
            gap = _quantile_gap(shown, quantile, level)
            about = Partition(f"{part.name} & quantile={quantile}", part.slices, part.codes)
            metric = "prediction_quantile_difference"
            found.append(about.measured(gap, metric, better="lower", errored=failed, headline=False, unit="target"))
        for g in range(len(part.slices)):
            one = bounded_mean(sums[:, g], rows[:, g], lost[g], level)
            size, metric = (rows[0, g], lost[g]), "group_mean_prediction"
            found.append(part.measured_in(g, one, metric, better="neither", rows=size, unit="target"))
    return found


def _missing(shown: dict[int, Array] | None, method: str, level: float) -> Estimate | None:
    """Why groups cannot be compared; None when they can."""
    if shown is None:
        reason = "a group has errored examples, whose predictions have no bound"
        return Estimate(None, None, None, method, reason=reason, level=level)
    if len(shown) < 2:
        return Estimate(None, None, None, method, reason="fewer than two groups have examples", level=level)
    return None


def _distribution_gap(shown: dict[int, Array] | None, part: Partition, known: Array, draws: Draws) -> Estimate:
    """Largest distance of two groups' distribution functions; draws follow the pair and the place where it is."""
    missing = _missing(shown, SMIRNOV, draws.level)
    if missing is not None or shown is None:
        return missing or Estimate(None, None, None, SMIRNOV, reason="no groups", level=draws.level)
    pairs = list(combinations(shown, 2))
    alone, jointly = (special.kolmogi(1 - at) for at in (draws.level, share_of_level(draws.level, len(pairs))))
    lows, highs, tops = [], [], []
    for a, b in pairs:
        values = np.concatenate([shown[a], shown[b]])
        gaps = np.subtract(*(np.searchsorted(shown[g], values, side="right") / len(shown[g]) for g in (a, b)))
        place = int(np.abs(gaps).argmax())
        reach = np.sqrt(1 / len(shown[a]) + 1 / len(shown[b]))
        lows.append(abs(gaps[place]) - jointly * reach)
        highs.append(abs(gaps[place]) + alone * reach)
        tops.append((float(gaps[place]), float(values[place]), a, b))
    gap, where, a, b = max(tops, key=lambda one: abs(one[0]))
    counts = part.counts((known <= where).astype(np.int64), 2, draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = counts[:, :, 1] / counts.sum(axis=2)
    drawn = np.sign(gap) * (shares[:, a] - shares[:, b])
    note = f"largest between {part.slices[a]} and {part.slices[b]}" if len(pairs) > 1 else ""
    low, high = max(0.0, *lows), min(1.0, max(highs))
    return Estimate(abs(gap), low, high, SMIRNOV, drawn[1:], note, draws.level)


def _quantile_gap(shown: dict[int, Array] | None, quantile: float, level: float) -> Estimate:
    """Largest minus smallest group quantile; the limits hold because those of all groups hold together."""
    missing = _missing(shown, ORDER, level)
    if missing is not None or shown is None:
        return missing or Estimate(None, None, None, ORDER, reason="no groups", level=level)
    tail = (1 - share_of_level(level, len(shown))) / 2
    values, lows, highs = [], [], []
    for one in shown.values():
        num = len(one)
        values.append(one[max(0, int(np.ceil(quantile * num)) - 1)])
        # P(at most k rows below the quantile) is binomial: ranks whose tails are at most `tail`.
        below = int(_binomial_rank(tail, num, quantile)) - 1
        above = num - int(_binomial_rank(tail, num, 1 - quantile))
        lows.append(one[below] if below >= 0 else -np.inf)
        highs.append(one[above] if above < num else np.inf)
    gap = float(max(values) - min(values))
    low, high = max(0.0, float(max(lows) - min(highs))), float(max(highs) - min(lows))
    if not np.isfinite(high):
        reason = f"a group is too small for limits of its quantile {quantile}"
        return Estimate(gap, None, None, ORDER, reason=reason, level=level)
    return Estimate(gap, min(low, gap), max(high, gap), ORDER, None, "", level)


def _binomial_rank(tail: float, num: int, share: float) -> int:
    """Largest r with P(Binomial(num, share) <= r - 1) <= tail: the r-th smallest is above the quantile that rarely."""
    ranks = np.arange(num + 1)
    return int(np.searchsorted(special.bdtr(ranks, num, share), tail, side="right"))
