"""How far answers and labels agree beyond what their shares alone would give."""

from __future__ import annotations

import numpy as np

from assay.probes.utility._classes import class_counts, ratio, share
from assay.registry import probe
from assay.stats import Draws, Estimate, mean, measured, rate
from assay.values import Array, Measurement, Task

TOP = (2, 3, 5)


@probe("utility")
def class_agreement(
    labels: Array, predictions: Array, probabilities: Array, task: Task, draws: Draws
) -> list[Measurement]:
    """Matthews correlation, Cohen's kappa, F1 and precision weighted by class size, and top-k accuracy.

    Definition: with N rows, t_k labelled k, a_k answered k, c right: matthews_correlation = (c N - sum t_k a_k) /
        sqrt((N^2 - sum a_k^2)(N^2 - sum t_k^2)); cohens_kappa = (o - e) / (1 - e), o = c / N, e = sum t_k a_k / N^2;
        weighted_f1 and weighted_precision = means over classes weighted by t_k (a class never answered counts 0;
        the weighted true positive rate, and every micro mean, is `accuracy`; macro means are `macro_f1` and
        `balanced_accuracy`). top_k_accuracy, slice "k=3" = share of rows whose label is among the k most probable
        classes (on ties the first), for k below the number of classes. An errored example is an answer of none.
    Shapes: labels (N,), predictions (N,), probabilities (N, K).
    Direction: higher is better; correlation and kappa from -1 to 1, 0 for chance, unit 1; the others unit share.
    Limits: both depend on the shares of the classes, so they do not carry over to another population; kappa is low
        for rare classes whatever the answers. Undefined when all labels, or all answers, are one class.
    Source: Gorodkin (2004), equation 8; Cohen (1960); scikit-learn user guide 3.4.4.2 to 3.4.4.10.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, chance = np.array([0, 0, 1, 1]), np.array([0.2, 0.6, 0.7, 0.9])
    >>> answers = (chance > 0.5).astype(int)
    >>> draws = make_draws(b"key", "split", [labels, answers])
    >>> two = np.column_stack([1 - chance, chance])
    >>> found = class_agreement(labels, answers, two, Classification(("no", "yes")), draws)
    >>> [(one.metric, round(one.value, 3)) for one in found[:2]]
    [('matthews_correlation', 0.577), ('cohens_kappa', 0.5)]
    """
    supports, answers, hits = class_counts(labels, predictions, task.num_outputs, draws)
    num, level = np.full(len(supports), float(len(labels))), draws.level
    rows = len(labels), int((predictions < 0).sum())
    right, expected = hits.sum(axis=1), (supports * answers).sum(axis=1)
    unanswered, unlabelled = num - answers.sum(axis=1), num - supports.sum(axis=1)
    squares = [num**2 - (one**2).sum(axis=1) - rest**2 for one, rest in ((answers, unanswered), (supports, unlabelled))]
    below = np.sqrt(np.maximum(0.0, squares[0] * squares[1]))
    f1s = np.nan_to_num(ratio(2 * hits, supports + answers))
    precisions = np.nan_to_num(ratio(hits, answers))
    values = {
        "matthews_correlation": (ratio(right * num - expected, below), -1.0, "1"),
        "cohens_kappa": (ratio(right * num - expected, num**2 - expected), -1.0, "1"),
        "weighted_f1": (ratio((supports * f1s).sum(axis=1), supports.sum(axis=1)), 0.0, "share"),
        "weighted_precision": (ratio((supports * precisions).sum(axis=1), supports.sum(axis=1)), 0.0, "share"),
    }
    found = []
    for metric, (value, least, unit) in values.items():
        one = _estimate(value, num, least, level)
        found.append(measured(one, metric, unit=unit, better="higher", attempted=rows[0], errored=rows[1]))
    return found + _top(labels, probabilities, rows, draws)


def _estimate(values: Array, num: Array, least: float, level: float) -> Estimate:
    """A mean of first order: its skewed draws get the interval of one."""
    if np.isfinite(values[0]):
        return mean(values * num, num, level=level, bounds=(least, 1.0))
    reason = "all labels, or all answers, are one class"
    return Estimate(None, None, None, "skewness-corrected t", reason=reason, level=level)


def _top(labels: Array, probabilities: Array, rows: tuple[int, int], draws: Draws) -> list[Measurement]:
    """Top-k accuracy for each k that leaves a class out."""
    num_classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), np.maximum(labels, 0)][:, None]
    earlier = np.arange(num_classes)[None, :] < labels[:, None]
    ahead = ((probabilities > own) | ((probabilities == own) & earlier)).sum(axis=1)
    known = np.isfinite(probabilities).all(axis=1) & (labels >= 0)
    found = []
    for k in (k for k in TOP if k < num_classes):
        counts = draws.counts((known & (ahead < k)).astype(np.int64), 2)
        one = rate(counts[:, 1], counts.sum(axis=1), level=draws.level)
        found.append(share(one, "top_k_accuracy", rows, where=f"k={k}"))
    return found
