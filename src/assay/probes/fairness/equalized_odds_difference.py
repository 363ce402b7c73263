"""Whether groups meet the same error rates, given what is true of them."""

from __future__ import annotations

import numpy as np

from assay.probes.fairness._groups import every, is_headline, largest_of, share_of_level
from assay.registry import probe
from assay.stats import Draws, largest_gaps
from assay.values import Array, Groups, Measurement, Task


@probe("fairness")
def equalized_odds_difference(
    labels: Array, predictions: Array, groups: Groups, task: Task, draws: Draws
) -> list[Measurement]:
    """Largest gap between groups in the true positive rate or the false positive rate.

    Definition: max(max_g TPR(g) - min_g TPR(g), max_g FPR(g) - min_g FPR(g)), with TPR(g) = share of the positive rows
        of g that are selected and FPR(g) of the negative rows. More than two classes: the largest gap over classes k in
        the share of the rows of k that are found. An errored example (-1) is not selected.
    Shapes: labels (N,), predictions (N,), groups codes (N, G).
    Direction: lower is better; unit share, 0 to 1.
    Limits: trusts the labels: where they carry past unfairness, so does this. Groups without positive (or negative)
        rows are left out of that rate, where fairlearn counts them as rate 0. With many small groups the observed value
        is large by chance: judge on its lower limit.
    Source: Hardt, Price & Srebro (2016), definition 2.1; fairlearn 0.15 equalized_odds_difference (worst_case).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> from assay.values import Column
    >>> sex, labels = np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2)
    >>> predictions = np.array([0, 0, 1, 1, 0, 1, 1, 1])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> draws = make_draws(b"key", "split", [sex, labels, predictions])
    >>> equalized_odds_difference(labels, predictions, groups, Classification(("no", "yes")), draws)[0].value
    0.5
    """
    positive, num = task.positive_index, task.num_outputs
    failed = predictions < 0
    found = []
    for order, part in enumerate(every(groups)):
        if positive is None:
            given = np.where(labels < 0, num, labels)
            names = [f"true positive rate of class={name}" for name in task.classes]
        else:
            given = np.where(labels < 0, 2, labels == positive).astype(np.int64)
            names = ["false positive rate", "true positive rate"]
        hit = predictions == (labels if positive is None else positive)
        counts = part.counts((given * 2 + hit).astype(np.int64), 2 * (len(names) + 1), draws)
        level = share_of_level(draws.level, len(names))
        both = counts.reshape(*counts.shape[:2], len(names) + 1, 2)[:, :, : len(names)].swapaxes(1, 2)
        gaps = largest_gaps(both[..., 1], both.sum(axis=3), level=level)
        gap = largest_of(gaps, names, level=draws.level)
        headline = is_headline(order, groups)
        found.append(part.measured(gap, "equalized_odds_difference", better="lower", errored=failed, headline=headline))
    return found
