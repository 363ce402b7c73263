"""How well the outputs rank examples of a class above the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.probes.utility._classes import left_out, named_classes, share
from assay.probes.utility._ranking import MOST_CLASSES, area_estimate, areas_under_roc, one_against_rest
from assay.registry import ANY_CLASSES, probe
from assay.stats import Draws
from assay.values import Array, Measurement, Task


@probe("utility", tasks=ANY_CLASSES)
def area_under_roc(labels: Array, probabilities: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Chance that a random example of the class gets a higher probability of it than a random other example.

    Definition: P(p_i > p_j) + P(p_i = p_j) / 2 over pairs with labels[i] = k, labels[j] != k. Two classes: the positive
        class. More: the mean over classes, each against the rest. An errored example loses every pair it is in.
    Shapes: labels (N,), probabilities (N, K); of several labels a row, each like a class: both (N, L).
    Direction: higher is better; unit share, 0 to 1; chance is 0.5.
    Limits: says nothing about the threshold in use, nor about calibration. The interval is first-order (DeLong) on the
        log-odds scale; at exactly 0 or 1 it falls back on the exact limit for disjoint pairs, which is wide. Classes
        without rows are left out and named; with more than 50 classes only the mean is reported.
    Source: Hanley & McNeil (1982); DeLong, DeLong & Clarke-Pearson (1988), section 3; log-odds scale: Newcombe (2006).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, chance = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    >>> task, draws = Classification(("no", "yes"), "yes"), make_draws(b"key", "split", [labels])
    >>> area_under_roc(labels, np.column_stack([1 - chance, chance]), task, draws)[0].value
    0.75
    """
    wanted, belongs, values, errored = one_against_rest(labels, probabilities, task)
    names, kind = named_classes(task)
    own = belongs.sum(axis=0)
    pairs: Array = np.minimum(own, len(labels) - own)  # how many pairs share no row
    kept = np.flatnonzero(pairs)
    areas, influence = areas_under_roc(belongs, values)
    average = influence[:, kept].sum(axis=1, keepdims=True) / max(1, len(kept))
    shown = range(len(wanted)) if 1 < len(wanted) <= MOST_CLASSES else ()
    changes = draws.sums(np.concatenate([average, influence[:, : len(shown)]], axis=1))
    whole = area_estimate(
        areas[kept].mean() if len(kept) else np.nan, changes[:, 0], min(pairs[kept], default=0), level=draws.level
    )
    note = left_out(pairs == 0, tuple(names[k] for k in wanted), "the class or the rest has no rows")
    whole = replace(whole, reason=whole.reason or note)
    metric = "area_under_roc" if len(wanted) == 1 else "macro_area_under_roc"
    rows = (len(labels), int(errored.sum()))
    found = [share(whole, metric, rows, headline=True)]
    for k in shown:
        one = area_estimate(areas[k], changes[:, 1 + k], pairs[k], level=draws.level)
        found.append(share(one, "area_under_roc", rows, where=f"{kind}={names[k]}"))
    return found
