"""Whether being selected means the same in every group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.probes.fairness._groups import every, largest_of, share_of_level
from assay.registry import probe
from assay.stats import Draws, largest_gaps, rates
from assay.values import Array, Groups, Measurement, Task


@probe("fairness")
def predictive_parity_difference(
    labels: Array, predictions: Array, groups: Groups, task: Task, draws: Draws
) -> list[Measurement]:
    """Largest gap between groups in precision, and the precision of every group.

    Definition: precision(g) = #{i in g: predictions[i] = labels[i] = positive} / #{i in g: predictions[i] = positive};
        predictive_parity_difference = max_g - min_g of it. More than two classes: the largest such difference over the
        classes, one class against the rest. An errored example (-1) is not selected, so it is in no denominator here.
    Shapes: labels (N,), predictions (N,), groups codes (N, G).
    Direction: precision higher, the difference lower; unit share, 0 to 1.
    Limits: where the shares of positive labels differ between groups, equal precision and equal error rates cannot
        both hold unless the system is perfect (Chouldechova): a gap here may be the price of none there. A group of
        which nobody is selected has no precision, and is left out of the difference.
    Source: Chouldechova (2017), section 2 and equation 2.6; fairlearn 0.15 MetricFrame.difference of precision;
        interval: simultaneous MOVER limits over all pairs of groups.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> from assay.values import Column
    >>> sex, labels = np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2)
    >>> predictions = np.array([0, 0, 1, 1, 0, 1, 1, 1])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> draws = make_draws(b"key", "split", [sex, labels, predictions])
    >>> found = predictive_parity_difference(labels, predictions, groups, Classification(("no", "yes")), draws)
    >>> [(one.metric, one.slice, round(one.value, 2)) for one in found]  # doctest: +NORMALIZE_WHITESPACE
    [('predictive_parity_difference', 'sex', 0.33), ('precision', 'sex=f', 1.0), ('precision', 'sex=m', 0.67)]
    """
    positive, num = task.positive_index, task.num_outputs
    wanted = range(num) if positive is None else (positive,)
    answers, failed = np.where(predictions < 0, num, predictions).astype(np.int64), predictions < 0
    outcomes = answers * 2 + (predictions == labels)
    level, found = share_of_level(draws.level, len(wanted)), []
    for part in every(groups):
        counts = part.counts(outcomes, 2 * num + 2, draws)
        hits, chosen = counts[:, :, 1::2], counts[:, :, ::2] + counts[:, :, 1::2]
        asked = list(wanted)
        gaps = largest_gaps(hits[:, :, asked].swapaxes(1, 2), chosen[:, :, asked].swapaxes(1, 2), level=level)
        gap = largest_of(gaps, [f"class={task.classes[k]}" for k in wanted], level=draws.level)
        metric = "predictive_parity_difference"
        found.append(part.measured(gap, metric, better="lower", errored=failed, headline=False))
        for k in wanted:
            for index, one in enumerate(rates(hits[:, :, k], chosen[:, :, k], level=draws.level)):
                told = one if one.value is not None else replace(one, reason="nobody of the group is selected")
                each = part.measured_in(index, told, "precision", better="higher", rows=(chosen[0, index, k], 0))
                where = each.slice if positive is not None else f"{each.slice} & class={task.classes[k]}"
                found.append(replace(each, slice=where))
    return found
