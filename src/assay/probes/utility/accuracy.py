"""Share of right answers."""

from __future__ import annotations

import numpy as np

from assay.probes.utility._classes import share
from assay.registry import probe
from assay.stats import Draws, rate
from assay.values import Array, Measurement


@probe("utility")
def accuracy(labels: Array, predictions: Array, draws: Draws) -> list[Measurement]:
    """Share of examples answered rightly.

    Definition: #{i: predictions[i] = labels[i]} / N; an errored example (-1) is a wrong answer.
    Shapes: labels (N,), predictions (N,).
    Direction: higher is better; unit share, 0 to 1.
    Limits: one number over all rows and all classes: a rare class or a small group can fail unseen.
    Source: scikit-learn user guide 3.4.4.2, accuracy score; interval: Wilson (1927).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> labels, predictions = np.array([0, 0, 1, 1]), np.array([0, -1, 1, 1])
    >>> found = accuracy(labels, predictions, make_draws(b"key", "split", [labels, predictions]))
    >>> found[0].value, found[0].errored
    (0.75, 1)
    """
    right = (labels == predictions) & (predictions >= 0)
    counts = draws.counts(right.astype(np.int64), 2)
    estimate = rate(counts[:, 1], counts.sum(axis=1), level=draws.level)
    return [share(estimate, "accuracy", (len(labels), int((predictions < 0).sum())), headline=True)]
