"""Whether groups are selected at the same rate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.probes.fairness._groups import every, is_headline, largest_of, share_of_level
from assay.registry import probe
from assay.stats import Draws, largest_gaps, rate
from assay.values import Array, Groups, Measurement, Task


@probe("fairness")
def selection_rate_gap(predictions: Array, groups: Groups, task: Task, draws: Draws) -> list[Measurement]:
    """Demographic parity difference of one, two or three sensitive columns, and the rate of every group.

    Definition: selection_rate(g) = #{i in g: predictions[i] = positive} / #g; demographic_parity_difference = max_g -
        min_g of it. More than two classes: the largest such difference over the classes, one class against the rest. An
        errored example (-1) is not selected.
    Shapes: predictions (N,), groups codes (N, G).
    Direction: the difference lower is better, 0 to 1; a rate alone is neither; unit share.
    Limits: does not look at who deserved selection: equal rates can hide unequal errors, and unequal rates can follow
        from the labels. With many small groups the observed difference is large by chance: judge on its lower limit.
        Groups without rows are left out of the difference and reported as undefined.
    Source: fairlearn 0.15 user guide, demographic parity; interval: simultaneous Newcombe (1998) limits over all pairs.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> from assay.values import Column
    >>> sex, predictions = np.repeat([0, 1], 50), np.repeat([1, 0, 1, 0], [40, 10, 10, 40])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> draws = make_draws(b"key", "split", [sex, predictions])
    >>> found = selection_rate_gap(predictions, groups, Classification(("no", "yes")), draws)
    >>> [(one.metric, one.slice, round(one.value, 2)) for one in found]  # doctest: +NORMALIZE_WHITESPACE
    [('demographic_parity_difference', 'sex', 0.6), ('selection_rate', 'sex=f', 0.8),
     ('selection_rate', 'sex=m', 0.2)]
    """
    positive, num = task.positive_index, task.num_outputs
    wanted = range(num) if positive is None else (positive,)
    answers, failed = np.where(predictions < 0, num, predictions).astype(np.int64), predictions < 0
    found = []
    for order, part in enumerate(every(groups)):
        counts = part.counts(answers, num + 1, draws)
        totals = counts.sum(axis=2)
        level = share_of_level(draws.level, len(wanted))
        chosen = counts[:, :, list(wanted)].swapaxes(1, 2)
        gaps = largest_gaps(chosen, np.broadcast_to(totals[:, None], chosen.shape), level=level)
        gap = largest_of(gaps, [f"class={task.classes[k]}" for k in wanted], level=draws.level)
        headline = is_headline(order, groups)
        metric = "demographic_parity_difference"
        found.append(part.measured(gap, metric, better="lower", errored=failed, headline=headline))
        for index in range(len(part.slices)):
            rows = (totals[0, index], counts[0, index, num])
            for k in wanted:
                one = rate(counts[:, index, k], totals[:, index], level=draws.level)
                each = part.measured_in(index, one, "selection_rate", better="neither", rows=rows)
                where = each.slice if positive is not None else f"{each.slice} & class={task.classes[k]}"
                found.append(replace(each, slice=where))
    return found
