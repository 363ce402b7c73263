"""How many test labels look wrong to the system itself."""

from __future__ import annotations

import numpy as np

from assay.data.quality.confident import suspected
from assay.registry import probe
from assay.stats import Draws, measured, rate
from assay.values import Array, Groups, Measurement, Task


@probe("data")
def label_errors(labels: Array, probabilities: Array, groups: Groups, draws: Draws, task: Task) -> list[Measurement]:
    r"""Share of test rows that confidently look like another class than their label, overall, by class and by group.

    Definition: $\frac{1}{N} \#\{i: j_i \ne y_i\}$, $j_i = \arg\max_{j: p_{ij} \ge t_j} p_{ij}$, $t_j$ the mean of
        $p_{ij}$ over rows labelled j; a row with no such j looks like nothing. Errored examples are counted
        as errored: nobody can say what they look like.
    Shapes: labels (N,), probabilities (N, K), groups codes (N, G).
    Direction: lower is better; unit share, 0 to 1.
    Limits: a bound on what accuracy can mean, seen by this system: where classes overlap, or the system is wrong with
        confidence about a group, right labels look wrong. The system must not have been trained on the test rows. The
        interval holds the thresholds fixed (simulated: their noise moves its coverage by less than two points).
    Source: Northcutt, Jiang and Chuang (2021), Confident learning, JAIR 70, section 3.1; interval: Wilson (1927).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, first = np.array([0, 0, 0, 1, 1]), np.array([0.9, 0.8, 0.1, 0.2, 0.1])
    >>> nobody = Groups(np.zeros((5, 0), dtype=int), ())
    >>> rows = np.stack([first, 1 - first], axis=1)
    >>> found = label_errors(labels, rows, nobody, make_draws(b"key", "split", [labels]), Classification(("a", "b")))
    >>> [(one.slice, one.value) for one in found][:2]
    [('', 0.2), ('class=a', 0.3333333333333333)]
    """
    known = np.isfinite(probabilities.sum(axis=1))
    marked = suspected(labels, probabilities)
    every = np.zeros(len(labels), dtype=np.int64)
    found = _shares(every, ("",), marked=marked, known=known, draws=draws)
    found += _shares(labels, [f"class={name}" for name in task.classes], marked=marked, known=known, draws=draws)
    for place, column in enumerate(groups.columns):
        names = [f"{column.name}={name}" for name in column.categories]
        found += _shares(groups.codes[:, place].astype(np.int64), names, marked=marked, known=known, draws=draws)
    return found


def _shares(
    codes: Array, names: list[str] | tuple[str, ...], *, marked: Array, known: Array, draws: Draws
) -> list[Measurement]:
    """One measurement for each code from 0 on; rows with another code are in none."""
    num = len(names)
    inside = (codes >= 0) & (codes < num)
    cells = np.where(inside, 3 * codes + np.where(known, marked, 2), 3 * num)
    counts = draws.counts(cells, 3 * num + 1)
    found = []
    for code, name in enumerate(names):
        right, wrong, errored = counts[:, 3 * code], counts[:, 3 * code + 1], int(counts[0, 3 * code + 2])
        share = rate(wrong, right + wrong, level=draws.level)
        total = int(right[0] + wrong[0]) + errored
        one = measured(
            share, "suspected_label_share", unit="share", better="lower", slice=name, attempted=total, errored=errored
        )
        found.append(one)
    return found
