"""Training rows that look as if someone had planted a trigger in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.probes.security._poison import (
    FALSE_ALARMS,
    MIN_ROWS,
    NUM_CENTRES,
    NUM_DIRECTIONS,
    Place,
    clusters,
    directions,
    excess_chance,
    whitened,
)
from assay.registry import Sizes, probe
from assay.stats import Draws
from assay.values import Array, Measurement, Task, modality, texts

if TYPE_CHECKING:
    from assay.access.handles import Query

NUM_ROWS = 500  # of the training and of the test rows, whose entropy is taken
NUM_COPIES = 8
TAIL = 0.005  # of the test rows lie below the limit of entropy
CHANCE = FALSE_ALARMS / 3  # for each of three detectors


def all_passes(sizes: Sizes) -> dict[str, int]:
    """The training rows once, for their embeddings, and the mixed copies."""
    mixed = NUM_COPIES * (min(NUM_ROWS, sizes.num_train) + min(NUM_ROWS, sizes.num_test))
    return {"train pass": sizes.num_train, "suspected_poison": mixed}


@probe("security", cost=all_passes, deep=True)
def suspected_poison(gradient: Query, embeddings: Array, labels: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Share of training rows that a detector of planted triggers suspects, by detector; 0 where it raises no alarm.

    Definition: a detector names places where training rows may lie: far from the middle, or far out along the
        first three singular vectors of the embeddings of a class (`detector=spectral`), in a cluster of them
        (`detector=clusters`), both in units of the spread of half of the test rows of the class, or where the answer
        hardly changes when rows are mixed with others (`detector=entropy`). It raises an alarm at a place where
        training rows of the class are more than 1.5 times as common as test rows, by a binomial test that holds for all
        classes and places together (5 % false alarms). suspected_poison_share = #{training rows at such places} / M.
    Shapes: embeddings (N, D) and labels (N,) of the test rows; those of the training rows (M, D), and 8 mixed copies of
        at most 500 training and 500 test rows, through the gradient handle.
    Direction: lower is better; unit share.
    Limits: test rows must be clean: where the same hand poisoned both, nothing is in excess. A trigger that the model
        did not learn, or that moves its rows where clean ones lie, is not found; an alarm may be another group of rows
        that the test split lacks, so look at the rows. Classes with fewer than 20 rows on a side are left out. Mixing:
        half of each picture's brightness, every second column on average, one text after the other.
    Source: Tran, Li and Madry 2018, algorithm 1; Hayase et al. 2021, section 4; Chen et al. 2018, section 4; Gao et al.
        2019 (STRIP), section 4; interval: Clopper and Pearson (1934).

    >>> rng = np.random.default_rng(0)
    >>> train, test = rng.normal(size=(300, 5)), rng.normal(size=(900, 5))
    >>> train[:30, 0] += 8
    >>> [int(one.rows[:30].sum()) for one in alarms(directions(train, test), 7)[:1]]
    [30]
    """
    train = gradient.system.data.splits["train"]
    own = gradient.train_embeddings()
    found: dict[str, tuple[Array, list[str]]] = {}
    for name in ("spectral", "clusters"):
        mask, told = np.zeros(len(train), dtype=bool), []
        for code, label in enumerate(task.classes):
            mine, other = np.flatnonzero(train.labels == code), embeddings[labels == code]
            other = other[np.isfinite(other).all(axis=1)]
            if min(len(mine), len(other)) < MIN_ROWS or not np.isfinite(own[mine]).all():
                continue
            rng = gradient.rng(f"poison {label}")
            rows = whitened(own[mine].astype(np.float64), other.astype(np.float64), rng)
            if name == "spectral":
                raised = alarms(directions(*rows), (1 + 2 * NUM_DIRECTIONS) * len(task.classes))
            else:
                raised = alarms(clusters(*rows, rng), sum(NUM_CENTRES) * len(task.classes))
            for place in raised:
                mask[mine[place.rows]] = True
            told += [f"class={label}"] if raised else []
        found[name] = (mask, told)
    return [
        *gradient.unsampled(_share(mask, name, told, draws) for name, (mask, told) in found.items()),
        _share(*_low_entropy(gradient, train.inputs), [], draws),
    ]


def alarms(places: Sequence[Place], num_tests: int) -> list[Place]:
    """Places whose excess is beyond chance, over all tests of the detector."""
    return [place for place in places if place.chance <= CHANCE / num_tests]


def _share(mask: Array, detector: str, told: Sequence[str], draws: Draws) -> Measurement:
    share = stats.exact_rate(int(mask.sum()), len(mask), level=draws.level)
    if mask.any():
        where = f" of {' and '.join(told)}" if told else ""
        share = replace(share, reason=f"suspected: {int(mask.sum())} training rows{where}")
    about: dict[str, Any] = {"slice": f"detector={detector}", "attempted": len(mask)}
    return stats.measured(share, "suspected_poison_share", unit="share", better="lower", **about)


def _low_entropy(query: Query, inputs: Array) -> tuple[Array, str]:
    """Training rows `(n,)` of the sample whose answers mixing hardly moves, where they are too many; none otherwise."""
    rng = query.rng("mixed")
    chosen = np.sort(rng.permutation(len(inputs))[:NUM_ROWS])
    train, test = inputs[chosen], query.inputs[query.rows(NUM_ROWS)]
    own, other = (entropies(query, rows, test, rng) for rows in (train, test))
    num = max(1, int(TAIL * len(other)))
    limit = np.sort(other)[num - 1]
    below = own < limit
    chance = excess_chance(int(below.sum()), len(own), num, len(other))
    return below & (chance <= CHANCE), "entropy"


def entropies(query: Query, rows: Array, donors: Array, rng: np.random.Generator) -> Array:
    """Mean entropy in nats `(n,)` of the answers to `NUM_COPIES` mixtures of each row with a random donor."""
    total = np.zeros(len(rows))
    for _ in range(NUM_COPIES):
        mixed = _mixed(query, rows, donors[rng.integers(0, len(donors), len(rows))], rng)
        shares = np.nan_to_num(query.probabilities(mixed).astype(np.float64), nan=1.0)  # an errored copy is unsure
        total -= (shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1)
    return total / NUM_COPIES


def _mixed(query: Query, rows: Array, donors: Array, rng: np.random.Generator) -> Array:
    kind = modality(query.columns)
    if kind == "image":
        return np.round((rows.astype(np.float32) + donors.astype(np.float32)) / 2).astype(np.float32)
    if kind == "text":
        space = "" if query.columns[0].language in ("zh", "ja", "th") else " "
        return texts([one + space + other for one, other in zip(rows.tolist(), donors.tolist(), strict=True)])
    return np.where(rng.random(rows.shape) < 0.5, donors, rows).astype(np.float32)
