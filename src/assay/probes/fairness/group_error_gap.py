"""Whether predicted numbers are further off, or off to one side, for some groups."""

from __future__ import annotations

import numpy as np

from assay.probes.fairness._groups import every, is_headline, share_of_level
from assay.probes.fairness._means import bounded_mean, gap_of_means
from assay.registry import probe
from assay.stats import Draws
from assay.values import Array, Groups, Measurement


@probe("fairness", tasks=("regression",))
def group_error_gap(labels: Array, predictions: Array, groups: Groups, draws: Draws) -> list[Measurement]:
    """Largest difference between groups in mean absolute error, and error and mean residual of every group.

    Definition: with e = predictions - labels: group_mean_absolute_error(g) = mean_g |e|, mean_residual(g) = mean_g e;
        mean_absolute_error_difference = max_g - min_g of the first.
    Shapes: labels (N,), predictions (N,), groups codes (N, G).
    Direction: errors and the difference lower; a residual neither (nearest to 0 is best); in the unit of the target.
    Limits: a group whose target varies more has larger errors under any model. A group with an errored example (NaN),
        or without rows, has no mean error: it is undefined, and so is any difference it belongs to when it has rows.
    Source: fairlearn 0.15 MetricFrame.difference of mean_absolute_error; Agarwal, Dudik & Wu (2019), bounded group
        loss; interval: limits of every group mean, Bonferroni over groups.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.values import Column
    >>> sex, labels = np.repeat([0, 1], 4), np.zeros(8)
    >>> predictions = np.array([1, -1, 1, -1, 3, 3, 3, 3.0])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> found = group_error_gap(labels, predictions, groups, make_draws(b"key", "split", [sex]))
    >>> [(one.metric, one.value) for one in found if one.slice in ("sex", "sex=m")]
    [('mean_absolute_error_difference', 2.0), ('group_mean_absolute_error', 3.0), ('mean_residual', 3.0)]
    """
    failed = ~(np.isfinite(predictions) & np.isfinite(labels))
    errors = np.where(failed, 0.0, predictions) - np.where(failed, 0.0, labels)
    found = []
    for order, part in enumerate(every(groups)):
        member = part.codes[:, None] == np.arange(len(part.slices))
        sums = draws.sums(np.concatenate([member * np.abs(errors)[:, None], member * errors[:, None], member], axis=1))
        absolute, signed, rows = np.split(sums, 3, axis=1)
        lost, kept = part.num_rows(failed), np.flatnonzero(rows[0] > 0)
        joint = share_of_level(draws.level, max(1, len(kept)))
        bands = [bounded_mean(absolute[:, g], rows[:, g], lost[g], joint) for g in kept]
        gap, metric, headline = (
            gap_of_means(bands, draws.level),
            "mean_absolute_error_difference",
            is_headline(order, groups),
        )
        found.append(part.measured(gap, metric, better="lower", errored=failed, headline=headline, unit="target"))
        for g in range(len(part.slices)):
            size = (rows[0, g], lost[g])
            one = bounded_mean(absolute[:, g], rows[:, g], lost[g], draws.level)
            found.append(
                part.measured_in(g, one, "group_mean_absolute_error", better="lower", rows=size, unit="target")
            )
            one = bounded_mean(signed[:, g], rows[:, g], lost[g], draws.level)
            found.append(part.measured_in(g, one, "mean_residual", better="neither", rows=size, unit="target"))
    return found
