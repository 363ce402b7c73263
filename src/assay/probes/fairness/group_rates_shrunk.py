"""Rates of small groups that learn from the groups they are made of."""

from __future__ import annotations

import numpy as np

from assay.probes.fairness._borrowed import borrow
from assay.probes.fairness._groups import Partition, every
from assay.registry import probe
from assay.stats import Draws, Estimate
from assay.values import Array, Better, Groups, Measurement, Task

MOST_GROUPS = 100  # of one partition: the work grows with the cube
Rate = tuple[str, Better, Array, Array, Array]  # metric, direction, hits and totals (1+B, G), errored rows (G,)
METHOD = "hierarchical binomial, Laplace"


@probe("fairness")
def group_rates_shrunk(
    labels: Array, predictions: Array, groups: Groups, task: Task, draws: Draws
) -> list[Measurement]:
    """Error rate, selection rate, true and false positive rate of every group, drawn towards what its columns predict.

    Definition: posterior mean of rate(g), with log odds of rate(g) = m + sum_c a(c, value of column c in g) + u(g), a ~
        N(0, s^2), u ~ N(0, t^2), m ~ N(0, 9), s and t half-normal (scale 2) on a grid of eight each, weighted by their
        evidence; what other groups say of g comes by the Laplace approximation with g left out, and the rows of g enter
        by their binomial likelihood. Of one column there is one spread. Rates as in group_error_rates and
        selection_rate_gap; an errored example (-1) is an error and not selected.
    Shapes: labels (N,), predictions (N,), groups codes (N, G).
    Direction: error and false positive rate lower, true positive rate higher, selection rate neither; unit share.
    Limits: the interval is credible: it covers 93 % or more on average over groups that vary as the model says, and
        **misses a small group that is unlike all others**: a rate of 0.5 among nine of 0.15 (300 rows each) was covered
        in 0, 11, 68 and 91 % of runs with 5, 12, 40 and 200 rows. Read it beside the group's own rate
        (group_error_rates). Effects compare what is shrunken, and understate what changed for a small group. Without
        rows there is no rate; more than 100 groups of a partition are not estimated.
    Source: Efron & Morris (1975), estimating many rates at once; structure as in Herlihy et al. (2024), section 4
        (structured regression); Rasmussen & Williams (2006), sections 3.4 and 5.4.2.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> from assay.values import Column
    >>> group = np.repeat([0, 1, 2], [500, 500, 4])
    >>> predictions = np.concatenate([np.arange(1000) % 5 == 0, [1, 1, 0, 0]]).astype(int)
    >>> groups = Groups(group[:, None], (Column("town", "categorical", ("a", "b", "c")),))
    >>> draws = make_draws(b"key", "split", [group, predictions], num_draws=10)
    >>> found = group_rates_shrunk(predictions * 0, predictions, groups, Classification(("no", "yes")), draws)
    >>> [(one.slice, round(one.value, 1)) for one in found if one.metric == "shrunk_selection_rate"]
    [('town=a', 0.2), ('town=b', 0.2), ('town=c', 0.3)]
    """
    positive, failed = task.positive_index, predictions < 0
    wrong = (predictions != labels) | failed
    truth = np.full(len(labels), 2) if positive is None else np.where(labels < 0, 2, labels == positive)
    outcomes = (truth * 4 + (predictions == positive) * 2 + wrong).astype(np.int64)
    found: list[Measurement] = []
    for part in every(groups):
        counts = part.counts(outcomes, 12, draws)
        cells = counts.reshape(*counts.shape[:2], 3, 2, 2)
        totals, lost = counts.sum(axis=2), part.num_rows(failed)
        rates: list[Rate] = [("shrunk_error_rate", "lower", cells[..., 1].sum(axis=(2, 3)), totals, lost)]
        if positive is not None:
            chosen, rows = cells.sum(axis=4), cells.sum(axis=(3, 4))
            rates.append(("shrunk_selection_rate", "neither", chosen[:, :, :, 1].sum(axis=2), totals, lost))
            own = [part.num_rows(failed & (truth == given)) for given in (0, 1)]
            rates.append(("shrunk_true_positive_rate", "higher", chosen[:, :, 1, 1], rows[:, :, 1], own[1]))
            rates.append(("shrunk_false_positive_rate", "lower", chosen[:, :, 0, 1], rows[:, :, 0], own[0]))
        found += [one for told in rates for one in _of_groups(part, told, draws.level)]
    return found


def _of_groups(part: Partition, told: Rate, level: float) -> list[Measurement]:
    """One rate of every group."""
    metric, better, hits, totals, lost = told
    kept = np.flatnonzero(totals[0] > 0)
    few = 0 < len(kept) <= MOST_GROUPS
    reason = "no examples in the denominator" if len(kept) <= MOST_GROUPS else f"more than {MOST_GROUPS} groups"
    estimates = [Estimate(None, None, None, METHOD, reason=reason, level=level)] * len(part.slices)
    if few:
        found = borrow(hits[0, kept], totals[0, kept], [part.members[g] for g in kept], level=level)
        # To first order in the rates of all groups; where a draw has no row of one, that group stays as it was.
        shares = hits[:, kept] / np.maximum(totals[:, kept], 1)
        changes = np.where(totals[:, kept] > 0, shares - shares[0], 0.0) @ found.moves.T
        for place, g in enumerate(kept):
            mean, low, high = (float(one[place]) for one in (found.means, found.lows, found.highs))
            estimates[g] = Estimate(mean, low, high, METHOD, mean + changes[1:, place], "", level)
    return [
        part.measured_in(g, one, metric, better=better, rows=(totals[0, g], lost[g])) for g, one in enumerate(estimates)
    ]
