"""Whether the system is less sure of what it was not made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from assay.probes.utility._classes import share
from assay.probes.utility._foreign import taken_apart
from assay.probes.utility._ranking import area_estimate, areas_under_roc
from assay.registry import Sizes, probe
from assay.stats import Draws
from assay.values import Array, Measurement, Task, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

MOST = 1000  # rows, each with one that was taken apart


@probe("utility", cost=lambda sizes: {"out_of_distribution_auroc": _num(sizes)})
def out_of_distribution_auroc(query: Query, logits: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Chance that the system is surer of a test row than of a row put together from parts of different rows.

    Definition: at most 1,000 keyed test rows, and as many that are not of the distribution: tables: every column
        shuffled among these rows by itself, so that each value is real and their combination is not; pictures: 4 x 4
        patches of each in another order; texts: the words (in Chinese the characters) of all these texts shuffled
        together and dealt out again in the old lengths. AUROC = P(s(row) > s(other)) + P(s(row) = s(other)) / 2, for
        s = the largest probability (slice ""), minus the entropy ("score=entropy", three classes or more) and
        logsumexp of the logits ("score=energy").
    Shapes: logits (N, K).
    Direction: higher is better; unit share, 0 to 1; 0.5 is no difference, below it is surer of what was taken apart.
    Limits: one made-up kind of foreign row, far in some data and near in others: columns that hardly depend on each
        other, and bags of words, look the same after shuffling, and then 0.5 is right. A system that is unsure of
        everything difficult, not of everything foreign, can score well. A foreign row that errors counts as told apart.
    Source: Hendrycks & Gimpel (2017), section 3 (largest probability); Liu et al. (2020), section 3 (energy); interval:
        DeLong, DeLong & Clarke-Pearson (1988), rows and what was made of them drawn together.

    >>> taken_apart(np.array([[1.0, 1.0]]), "table", "", np.random.default_rng(0)).tolist()
    [[1.0, 1.0]]
    """
    rows = query.rows(MOST)
    column = query.columns[0]
    foreign = taken_apart(query.inputs[rows], modality(query.columns), column.language, query.rng("taken apart"))
    own, others = logits[rows], query.logits(foreign)
    num, errored = len(rows), int((~np.isfinite(own).all(axis=1)).sum())
    scores = {"": _largest, "score=entropy": _order, "score=energy": _energy}
    if task.num_outputs < 3:
        del scores["score=entropy"]
    belongs = np.repeat([True, False], num)
    found = []
    for where, score in scores.items():
        values = np.concatenate([_ranked(own, score, -np.inf), _ranked(others, score, -1e30)])
        areas, influence = areas_under_roc(belongs[:, None], values[:, None])
        changes = draws.of(rows).sums(influence[:num, 0] + influence[num:, 0])[:, 0]
        one = area_estimate(float(areas[0]), changes, num, level=draws.level)
        found.append(share(one, "out_of_distribution_auroc", (num, errored), where=where))
    return found


def _num(sizes: Sizes) -> int:
    return min(MOST, sizes.num_test)


def _ranked(logits: Array, score: Callable[[Array], Array], errored: float) -> Array:
    """A score of each row `(M,)`; rows that errored get `errored`."""
    known = np.isfinite(logits).all(axis=1)
    values = np.full(len(logits), errored)
    values[known] = score(logits[known].astype(np.float64))
    return values


def _largest(logits: Array) -> Array:
    top: Array = logits.max(axis=1) - logsumexp(logits, axis=1)
    return top


def _order(logits: Array) -> Array:
    logs = logits - logsumexp(logits, axis=1, keepdims=True)
    order: Array = (np.exp(logs) * logs).sum(axis=1)
    return order


def _energy(logits: Array) -> Array:
    energy: Array = np.round(logsumexp(logits, axis=1), 6)  # of probabilities it is 0, up to rounding: all alike
    return energy
