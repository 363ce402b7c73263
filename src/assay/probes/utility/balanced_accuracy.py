"""Accuracy with every class weighing the same."""

from __future__ import annotations

import numpy as np

from assay.probes.utility._classes import class_counts, left_out, mean_of_rates, over_classes, ratio, share
from assay.registry import probe
from assay.stats import Draws, Estimate, rate
from assay.values import Array, Measurement, Task


@probe("utility")
def balanced_accuracy(labels: Array, predictions: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Mean over classes of the share of the class that is found.

    Definition: mean over classes k with rows of #{i: predictions[i] = labels[i] = k} / #{i: labels[i] = k}; an errored
        example (-1) is not found.
    Shapes: labels (N,), predictions (N,).
    Direction: higher is better; unit share, 0 to 1; chance is 1/K.
    Limits: a class with few rows weighs as much as the largest, so its noise dominates. Classes without rows are left
        out and named; undefined when fewer than two classes have rows.
    Source: scikit-learn user guide 3.4.4.4, balanced accuracy; interval: Zou & Donner (2008), MOVER.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, predictions = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 0, 0, 1])
    >>> draws = make_draws(b"key", "split", [labels, predictions])
    >>> balanced_accuracy(labels, predictions, Classification(("no", "yes")), draws)[0].value
    0.75
    """
    supports, _, hits = class_counts(labels, predictions, task.num_outputs, draws)
    absent = supports[0] == 0
    if np.count_nonzero(~absent) < 2:
        reason = "fewer than two classes have rows"
        estimate = Estimate(None, None, None, "MOVER of Wilson", reason=reason, level=draws.level)
    else:
        rates = [rate(hits[:, index], supports[:, index], level=draws.level) for index in np.flatnonzero(~absent)]
        note = left_out(absent, task.classes, "the class has no rows")
        replicates = over_classes(ratio(hits, supports))[1:]
        estimate = mean_of_rates(rates, replicates, level=draws.level, note=note)
    rows = (len(labels), int((predictions < 0).sum()))
    return [share(estimate, "balanced_accuracy", rows, headline=True)]
