"""How much of a class is found, and how much of what is called that class is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.probes.utility._classes import (
    class_counts,
    left_out,
    mean_of_rates,
    named_classes,
    over_classes,
    ratio,
    share,
)
from assay.registry import ANY_CLASSES, probe
from assay.stats import Draws, Estimate, rate, statistic
from assay.values import Array, Measurement, Task


@probe("utility", tasks=ANY_CLASSES)
def precision_recall_f1(labels: Array, predictions: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Precision, true positive rate (recall) and F1 of every class, and the macro means of precision and F1.

    Definition: precision_k = hits_k / answers_k, true_positive_rate_k = hits_k / rows_k, f1_k = 2 hits_k / (answers_k +
        rows_k); macro = mean over the classes where it is defined. The macro mean of the true positive rate is
        `balanced_accuracy`. An errored example (-1) is a row of its class and an answer of none. Of several labels a
        row each is like a class, and an errored example has all of them wrong; micro_f1 = 2 sum_l hits_l / sum_l
        (answers_l + rows_l).
    Shapes: labels (N,) or (N, L), predictions the same.
    Direction: higher is better; unit share, 0 to 1.
    Limits: a class never answered has no precision, and one neither answered nor present no F1: undefined, not 0, and
        left out of the macro mean (named in the reason). Precision moves with the share of the class among the rows,
        so it does not carry over to another population.
    Source: scikit-learn user guide 3.4.4.9, precision, recall and F-measures (zero_division=nan); interval of F1: as
        2J / (1 + J) with J the share of right rows among those labelled or answered k, Wilson (1927).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, predictions = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    >>> draws = make_draws(b"key", "split", [labels, predictions])
    >>> found = precision_recall_f1(labels, predictions, Classification(("no", "yes")), draws)
    >>> [(one.metric, round(one.value, 3)) for one in found if one.slice in ("", "class=yes")]
    [('macro_f1', 0.733), ('macro_precision', 0.833), ('precision', 0.667), ('true_positive_rate', 1.0), ('f1', 0.8)]
    """
    supports, answers, hits = class_counts(labels, predictions, task.num_outputs, draws)
    level, classes, failed = draws.level, range(task.num_outputs), np.atleast_2d(predictions.T)[0] < 0
    precision = [rate(hits[:, k], answers[:, k], level=level) for k in classes]
    found = [rate(hits[:, k], supports[:, k], level=level) for k in classes]
    f1 = [_f1(hits[:, k], supports[:, k] + answers[:, k], level) for k in classes]
    precisions, f1s = ratio(hits, answers), ratio(2 * hits, supports + answers)
    names, kind = named_classes(task)
    named = (supports + answers - hits)[0]  # rows labelled or answered k
    num = 1 / np.mean(1 / named[named > 0]) if named.any() else None  # the mean rests on the rare classes most
    macro_f1 = _macro(f1s, num, left_out(np.isnan(f1s[0]), names, "the class has no rows and no answers"), level)
    note = left_out(np.isnan(precisions[0]), names, "the class is never answered")
    macro_precision = mean_of_rates(precision, over_classes(precisions)[1:], level=level, note=note)
    everything = (len(labels), int(failed.sum()))
    results = [share(macro_f1, "macro_f1", everything, headline=True)]
    if task.label_names:  # of the same rows, so their rates are not independent
        macro_precision = _macro(precisions, num, note, level)
        results.append(share(_micro(hits, supports + answers, level), "micro_f1", everything))
    results.append(share(macro_precision, "macro_precision", everything))
    for k, name in enumerate(names):
        own = labels[:, k] == 1 if task.label_names else labels == k
        rows, where = (int(own.sum()), int((failed & own).sum())), f"{kind}={name}"
        results.append(share(precision[k], "precision", everything, where=where))
        results.append(share(found[k], "true_positive_rate", rows, where=where))
        results.append(share(f1[k], "f1", everything, where=where))
    return results


def _macro(ratios: Array, num: float | None, note: str, level: float) -> Estimate:
    """Mean over the classes, `(1+B, K)`; it rests on `num` rows."""
    found = statistic(over_classes(ratios), level=level, bounds=(0.0, 1.0), num=num)
    return replace(found, reason=found.reason or note)


def _micro(hits: Array, doubled: Array, level: float) -> Estimate:
    """F1 of all labels together, from counts of each `(1+B, L)`."""
    num = (doubled - hits)[0].max(initial=0)  # rows with the label, or an answer of it, that there are most of
    pooled = ratio(2 * hits.sum(axis=1), doubled.sum(axis=1))
    return statistic(pooled, level=level, bounds=(0.0, 1.0), num=float(num) or None)


def _f1(hits: Array, doubled: Array, level: float) -> Estimate:
    """F1 = 2J / (1 + J) is monotone in J = hits / (rows or answers of the class), a proportion of rows."""
    share = rate(hits, doubled - hits, level=level)
    if share.value is None or share.low is None or share.high is None or share.replicates is None:
        return share
    value, low, high = (2 * j / (1 + j) for j in (share.value, share.low, share.high))
    return replace(share, value=value, low=low, high=high, replicates=2 * share.replicates / (1 + share.replicates))
