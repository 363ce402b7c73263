"""How many test labels look wrong to the system itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.data.quality.confident import pulls, slopes, suspected
from assay.estimation import intervals
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
        thresholds are estimated on the same rows: the interval is that of a plain share of fewer rows, as many fewer
        as their noise costs (first order; simulated coverage 95 to 96 %, and 84 % without it).
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
    noise = slopes(labels, probabilities), pulls(labels, probabilities)
    slices = [(every, [""]), (labels, [f"class={name}" for name in task.classes])]
    for place, column in enumerate(groups.columns):
        names = [f"{column.name}={name}" for name in column.categories]
        slices.append((groups.codes[:, place].astype(np.int64), names))
    found = []
    for codes, names in slices:
        inside = (codes >= 0) & (codes < len(names))
        cells = np.where(inside, 3 * codes + np.where(known, marked, 2), 3 * len(names))
        counts = draws.counts(cells, 3 * len(names) + 1)
        for code, name in enumerate(names):
            cost = excess(marked, (codes == code) & known, noise)
            found.append(_share(counts[:, 3 * code : 3 * code + 3], name, cost=cost, level=draws.level))
    return found


def excess(marked: Array, inside: Array, noise: tuple[Array, Array]) -> float:
    """Variance of the share over that of a plain share, thresholds estimated and not given: 1 or more."""
    num, total = int(inside.sum()), len(marked)
    share = float(marked[inside].mean()) if num else 0.0
    if not 0 < share < 1:
        return 1.0
    slope, pull = noise
    own = np.where(inside, marked - share, 0.0) * total / num
    spread = float(np.square(own + pull @ slope[inside].mean(axis=0)).mean())
    return max(1.0, spread * num / total / (share * (1 - share)))


def _share(counts: Array, name: str, *, cost: float, level: float) -> Measurement:
    """From counts of right, wrong and errored rows `(1 + B, 3)`."""
    total, errored = int(counts[0].sum()), int(counts[0, 2])
    share = rate(counts[:, 1], counts[:, 0] + counts[:, 1], level=level)
    if share.value is not None and cost > 1:
        num = (total - errored) / cost
        low, high = intervals.adjusted_wilson(share.value * num, num, level=level)
        least, most = min(share.value, float(low)), max(share.value, float(high))
        share = replace(share, low=least, high=most, method="adjusted Wilson, fewer rows")
    return measured(
        share, "suspected_label_share", unit="share", better="lower", slice=name, attempted=total, errored=errored
    )
