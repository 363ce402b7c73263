"""How often every label of a row is right, and how many labels are wrong."""

from __future__ import annotations

import numpy as np

from assay.probes.utility._classes import share
from assay.registry import probe
from assay.stats import Draws, mean, rate
from assay.values import Array, Measurement, Task


@probe("utility", tasks=("multi_label",))
def multi_label_accuracy(labels: Array, predictions: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Share of rows whose labels are all right, and share of labels that are wrong: over all, and of each label.

    Definition: subset_accuracy = #{i: predictions[i] = labels[i] in every label} / N; hamming_loss = #{(i, l):
        predictions[i, l] != labels[i, l]} / (N L). An errored example (-1) has every label wrong.
    Shapes: labels (N, L) of 0 and 1, predictions (N, L).
    Direction: subset accuracy higher, Hamming loss lower; unit share, 0 to 1.
    Limits: where most labels apply to few rows, answering "none" has a small Hamming loss: compare it with the mean
        share of labels that apply, and read F1 beside it. Subset accuracy falls with the number of labels and does not
        see how nearly right an answer is.
    Source: Tsoumakas & Katakis (2007), section 2.4; scikit-learn user guide 3.4.4.2 and 3.4.4.7; intervals: Wilson
        (1927) of rows, and of a mean of rows, as labels of one row are not independent.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import MultiLabel
    >>> labels, predictions = np.array([[1, 0], [0, 1], [1, 1], [0, 0]]), np.array([[1, 0], [0, 0], [1, 1], [0, 0]])
    >>> draws = make_draws(b"key", "split", [*labels.T, *predictions.T])
    >>> [one.value for one in multi_label_accuracy(labels, predictions, MultiLabel(("sad", "quiet")), draws)]
    [0.75, 0.125, 0.0, 0.25]
    """
    wrong = predictions != labels
    num, level = labels.shape[1], draws.level
    counts = draws.counts(wrong.sum(axis=1).astype(np.int64), num + 1)  # rows by how many of their labels are wrong
    rows, totals = (len(labels), int((predictions < 0).any(axis=1).sum())), counts.sum(axis=1)
    every = rate(counts[:, 0], totals, level=level)
    lost = mean(counts @ (np.arange(num + 1) / num), totals, level=level, bounds=(0.0, 1.0))
    found = [
        share(every, "subset_accuracy", rows, headline=True),
        share(lost, "hamming_loss", rows, better="lower", headline=True),
    ]
    for place, name in enumerate(task.label_names):
        of_label = draws.counts(wrong[:, place].astype(np.int64), 2)
        one = rate(of_label[:, 1], of_label.sum(axis=1), level=level)
        found.append(share(one, "hamming_loss", rows, where=f"label={name}", better="lower"))
    return found
