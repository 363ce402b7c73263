"""Whether a stated probability means the same in every group."""

from __future__ import annotations

import numpy as np

from assay.probes.fairness._binned import METHOD, binned_error
from assay.probes.fairness._groups import Partition, every, share_of_level
from assay.probes.fairness._means import bounded_mean, gap_of_means
from assay.registry import probe
from assay.stats import Draws, Estimate
from assay.values import Array, Groups, Measurement, Task

NUM_BINS = 10


@probe("fairness")
def calibration_by_group(
    labels: Array, probabilities: Array, predictions: Array, groups: Groups, task: Task, draws: Draws
) -> list[Measurement]:
    """Calibration error and calibration-in-the-large of every group, and how far groups differ in the latter.

    Definition: c = stated probability, h = 1 where it happened; two classes: of the positive class, more: of the answer
        given. calibration_in_the_large(g) = mean_g c - mean_g h; calibration_difference = max_g - min_g of it;
        group_calibration_error(g) = sqrt(sum_b w_b ((mean_b c - mean_b h)^2 - h_b(1 - h_b)/(n_b - 1))) over at most
        10 bins of equal mass within the group, 20 rows or more each. An errored example: c = 1, h = 0.
    Shapes: labels (N,), probabilities (N, K), predictions (N,), groups codes (N, G).
    Direction: errors and the difference lower; in the large neither (nearest to 0; above 0 promises too much).
    Limits: in the large is one number: a group can be right on average and wrong at every score, which only the error
        shows. Where groups differ in how often it happens, calibration in all of them and equal error rates cannot both
        hold. What cancels within a bin is not seen.
    Source: Kleinberg, Mullainathan & Raghavan (2017), condition A; Van Calster et al. (2019), calibration-in-the-large;
        Kumar, Liang & Ma (2019), section 4 (debiased). Intervals: skewness-corrected t, Bonferroni over groups; error:
        score limits on its square.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> from assay.values import Column
    >>> sex, labels, chance = np.repeat([0, 1], 200), np.tile([0, 1], 200), np.repeat([0.5, 0.9], 200)
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> draws, task = make_draws(b"key", "split", [sex, labels]), Classification(("no", "yes"))
    >>> found = calibration_by_group(labels, np.column_stack([1 - chance, chance]), labels, groups, task, draws)
    >>> [(one.metric, round(one.value, 2)) for one in found if one.slice in ("sex", "sex=m")]
    [('calibration_difference', 0.4), ('calibration_in_the_large', 0.4), ('group_calibration_error', 0.4)]
    """
    errored = ~np.isfinite(probabilities).all(axis=1) | (predictions < 0)
    stated, happened = _claims(labels, probabilities, predictions, task.positive_index)
    stated, happened = np.where(errored, 1.0, stated), np.where(errored, 0.0, happened)
    parts = every(groups)
    # One product with the draws for all groups of all partitions.
    members = [part.codes[:, None] == np.arange(len(part.slices)) for part in parts]
    totals = draws.sums(np.concatenate([member * (stated - happened)[:, None] for member in members], axis=1))
    found, first = [], 0
    for part in parts:
        num = len(part.slices)
        found += _of_partition(part, totals[:, first : first + num], (stated, happened, errored), draws)
        first += num
    return found


def _of_partition(part: Partition, sums: Array, claims: tuple[Array, Array, Array], draws: Draws) -> list[Measurement]:
    """One partition, from the sums of stated minus happened `(1 + B, G)`; claims are stated, happened and errored."""
    stated, happened, errored = claims
    rows, lost = part.counts(np.zeros(len(stated), dtype=np.int64), 1, draws)[:, :, 0], part.num_rows(errored)
    kept = np.flatnonzero(rows[0] > 0)
    joint = share_of_level(draws.level, max(1, len(kept)))
    gap = gap_of_means([bounded_mean(sums[:, g], rows[:, g], 0, joint) for g in kept], draws.level)
    found = [part.measured(gap, "calibration_difference", better="lower", errored=errored, headline=False)]
    for g in range(len(part.slices)):
        size, own = (rows[0, g], lost[g]), part.codes == g
        large = bounded_mean(sums[:, g], rows[:, g], 0, draws.level)
        found.append(part.measured_in(g, large, "calibration_in_the_large", better="neither", rows=size))
        error = _error(stated[own], happened[own], draws.level)
        found.append(part.measured_in(g, error, "group_calibration_error", better="lower", rows=size))
    return found


def _error(stated: Array, happened: Array, level: float) -> Estimate:
    if not len(stated):
        return Estimate(None, None, None, METHOD, reason="no examples in the denominator", level=level)
    return binned_error(stated, happened, num_bins=NUM_BINS, level=level)


def _claims(labels: Array, probabilities: Array, predictions: Array, positive: int | None) -> tuple[Array, Array]:
    """What was said to be how likely `(N,)`, and whether it happened `(N,)`."""
    if positive is not None:
        return probabilities[:, positive].astype(np.float64), (labels == positive).astype(np.float64)
    stated = probabilities[np.arange(len(labels)), np.maximum(predictions, 0)]
    return stated.astype(np.float64), (labels == predictions).astype(np.float64)
