"""Whether those who deserve the favourable answer get it equally often in every group."""

from __future__ import annotations

import numpy as np

from assay.probes.fairness._groups import every
from assay.registry import probe
from assay.stats import Draws, Estimate, largest_gap
from assay.values import Array, Groups, Measurement, Task


@probe("fairness")
def equal_opportunity_difference(
    labels: Array, predictions: Array, groups: Groups, task: Task, draws: Draws
) -> list[Measurement]:
    """Largest gap between groups in the true positive rate alone.

    Definition: max_g TPR(g) - min_g TPR(g), with TPR(g) = share of the positive rows of g that are selected. An errored
        example (-1) is not selected. Undefined for more than two classes, where no class is the favourable one.
    Shapes: labels (N,), predictions (N,), groups codes (N, G).
    Direction: lower is better; unit share, 0 to 1.
    Limits: asks nothing of those who do not deserve it: false positive rates may differ as they like (see
        equalized_odds_difference). Trusts the labels. Groups without positive rows are left out.
    Source: Hardt, Price & Srebro (2016), definition 2.2; fairlearn 0.15 equal_opportunity_difference; interval:
        simultaneous MOVER limits over all pairs of groups.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> from assay.values import Column
    >>> sex, labels = np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2)
    >>> predictions = np.array([0, 0, 1, 0, 0, 1, 1, 1])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> draws = make_draws(b"key", "split", [sex, labels, predictions])
    >>> equal_opportunity_difference(labels, predictions, groups, Classification(("no", "yes")), draws)[0].value
    0.5
    """
    positive, failed = task.positive_index, predictions < 0
    outcomes = ((labels == positive) * 2 + (predictions == positive)).astype(np.int64)
    found = []
    for part in every(groups):
        if positive is None:
            reason = "with more than two classes no class is the favourable one"
            gap = Estimate(None, None, None, "simultaneous MOVER", reason=reason, level=draws.level)
        else:
            counts = part.counts(outcomes, 4, draws)
            gap = largest_gap(counts[:, :, 3], counts[:, :, 2] + counts[:, :, 3], level=draws.level)
        metric = "equal_opportunity_difference"
        found.append(part.measured(gap, metric, better="lower", errored=failed, headline=False))
    return found
