"""How pure the top of the ranking is: the area under precision over recall."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.probes.utility._classes import left_out, named_classes, share
from assay.probes.utility._ranking import MOST_CLASSES, area_estimate, one_against_rest
from assay.registry import ANY_CLASSES, probe
from assay.stats import Draws
from assay.values import Array, Measurement, Task


@probe("utility", tasks=ANY_CLASSES)
def average_precision(labels: Array, probabilities: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Mean, over the rows of a class, of the precision among all rows ranked at least as high.

    Definition: AP_k = (1 / P) sum over rows i with labels[i] = k of TP(s_i) / n(s_i), n(s) = rows whose probability of
        k is s or more, TP(s) = how many of those are of k, P = rows of k: the area under the precision-recall steps.
        Two classes: the positive class. More: the mean over classes (macro), each against the rest. An errored example
        ranks lowest among the rows of its class and highest among the others.
    Shapes: labels (N,), probabilities (N, K); of several labels a row, each like a class: both (N, L).
    Direction: higher is better; unit share, 0 to 1; chance is the share of the class.
    Limits: moves with the share of the class, so it does not carry over to another population. The interval is
        first-order on the log-odds scale; at exactly 1 it falls back on the limit of disjoint pairs, which is rough.
        Classes without rows are left out and named; with more than 50 classes only the mean is reported.
    Source: scikit-learn user guide 3.4.4.3 (average_precision_score); Boyd, Eng & Page (2013), section 3 (log-odds).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, chance = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    >>> task, draws = Classification(("no", "yes"), "yes"), make_draws(b"key", "split", [labels])
    >>> round(average_precision(labels, np.column_stack([1 - chance, chance]), task, draws)[0].value, 4)
    0.8333
    """
    wanted, belongs, values, errored = one_against_rest(labels, probabilities, task)
    names, kind = named_classes(task)
    own = belongs.sum(axis=0)
    pairs: Array = np.minimum(own, len(labels) - own)
    kept = np.flatnonzero(pairs)
    areas, influence = _areas(belongs, values)
    average = influence[:, kept].sum(axis=1, keepdims=True) / max(1, len(kept))
    shown = range(len(wanted)) if 1 < len(wanted) <= MOST_CLASSES else ()
    changes = draws.sums(np.concatenate([average, influence[:, : len(shown)]], axis=1))
    mean = float(areas[kept].mean()) if len(kept) else np.nan
    method = "first-order, log-odds scale"
    whole = area_estimate(mean, changes[:, 0], min(pairs[kept], default=0), level=draws.level, method=method)
    note = left_out(pairs == 0, tuple(names[k] for k in wanted), "the class or the rest has no rows")
    rows = (len(labels), int(errored.sum()))
    metric = "average_precision" if len(wanted) == 1 else "macro_average_precision"
    found = [share(replace(whole, reason=whole.reason or note), metric, rows)]
    for k in shown:
        one = area_estimate(areas[k], changes[:, 1 + k], pairs[k], level=draws.level, method=method)
        found.append(share(one, "average_precision", rows, where=f"{kind}={names[k]}"))
    return found


def _areas(belongs: Array, values: Array) -> tuple[Array, Array]:
    """AP `(K,)` and the first-order change `(N, K)` that one more of each row makes; NaN and 0 where undefined.

    One more row of score s changes the precision at every score below: by (y - precision) / n there.
    """
    areas, influence = np.full(belongs.shape[1], np.nan), np.zeros(belongs.shape)
    for k, own in enumerate(belongs.T):
        if own.all() or not own.any():
            continue
        _, at = np.unique(-values[:, k], return_inverse=True)  # highest first, equals together
        hits, rows = np.bincount(at, weights=own), np.bincount(at)
        above, precision = rows.cumsum(), hits.cumsum() / rows.cumsum()
        area = float((hits * precision).sum() / hits.sum())
        reached = (hits / above)[::-1].cumsum()[::-1]  # over the rows of the class that rank as high, or lower
        lost = (hits * precision / above)[::-1].cumsum()[::-1]
        areas[k] = area
        influence[:, k] = (own * (precision[at] - area + reached[at]) - lost[at]) / hits.sum()
    return areas, influence
