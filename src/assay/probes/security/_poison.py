"""Rows of a class that lie where the test rows of that class hardly ever do: what a planted trigger leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from assay.values import Array

RATIO = 1.5  # training rows must be more than this times as common there as test rows
FALSE_ALARMS = 0.05  # of a whole audit, over all detectors, classes and places
NUM_DIRECTIONS = 3
TAIL = 0.01  # of the test rows lie beyond the limit along a direction
NUM_CENTRES = (2, 4, 8)
NUM_PARTS = 48  # principal components that are whitened
NUM_COMPONENTS = 10  # of those, that clusters are sought in
MIN_ROWS = 20


@dataclass(frozen=True)
class Place:
    """One place in the space of embeddings: chance of this excess or more if training rows were `RATIO` as common."""

    chance: float
    rows: Array  # (n,) bool: training rows of the class that lie there


def excess_chance(inside: int, total: int, test_inside: int, test_total: int) -> float:
    """P(this many training rows or more) given how many rows lie there in all, at `RATIO` times the test rows' share.

    >>> round(excess_chance(4, 100, 2, 100), 2), excess_chance(60, 100, 1, 100) < 1e-8
    (0.54, True)
    """
    share = RATIO * total / (RATIO * total + test_total)
    return float(binom.sf(inside - 1, inside + test_inside, share))


def whitened(train: Array, test: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Training rows `(n, P)` and half of the test rows, in units of the spread of the other half, mean 0.

    What is usual among clean rows then has size 1 in every direction, and what is planted stands out (Hayase et al.
    2021, SPECTRE, section 4; they estimate the clean spread robustly from the training rows, test rows give it here).
    """
    order = rng.permutation(len(test))
    known, judged = test[order[: len(test) // 2]], test[order[len(test) // 2 :]]
    num = max(1, min(NUM_PARTS, train.shape[1], len(known) // 4))
    axes = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)[2][:num]
    middle = known.mean(axis=0)
    own, clean, other = ((rows - middle) @ axes.T for rows in (train, known, judged))
    spread = clean.T @ clean / len(clean)
    spread += 1e-3 * max(float(np.trace(spread)) / len(axes), 1e-12) * np.eye(len(axes))
    values, vectors = np.linalg.eigh(spread)
    scale = vectors / np.sqrt(values)
    return own @ scale, other @ scale


def directions(train: Array, test: Array) -> list[Place]:
    """Spectral signatures of whitened rows `(n, P)`: far out from the middle, or along a first singular vector.

    Tran, Li and Madry 2018, algorithm 1: the score is the projection of the centred embedding; their fixed share of
    rows that is taken out is replaced by a limit that 1 % of the test rows `(m, P)` pass.
    """
    axes = np.linalg.svd(train - train.mean(axis=0), full_matrices=False)[2][:NUM_DIRECTIONS]
    scores = [(np.square(train).sum(axis=1), np.square(test).sum(axis=1))]
    scores += [(sign * train @ axis, sign * test @ axis) for axis in axes for sign in (1.0, -1.0)]
    found = []
    for own, other in scores:
        num = max(1, int(TAIL * len(other)))
        limit = np.sort(other)[-num]
        rows = own > limit
        found.append(Place(excess_chance(int(rows.sum()), len(own), num, len(other)), rows))
    return found


def clusters(train: Array, test: Array, rng: np.random.Generator) -> list[Place]:
    """Activation clustering: k-means of whitened rows `(n, P)` in ten principal components, k = 2, 4, 8.

    Chen et al. 2018, section 4 (k = 2). Centres are placed by a half of the training rows, and rows of the other half
    are counted against test rows, so that a centre owes nothing to the rows it is judged by.
    """
    middle = train.mean(axis=0)
    axes = np.linalg.svd(train - middle, full_matrices=False)[2][:NUM_COMPONENTS]
    own, other = (train - middle) @ axes.T, (test - middle) @ axes.T
    judged = np.zeros(len(own), dtype=bool)
    judged[rng.permutation(len(own))[: len(own) // 2]] = True
    found = []
    for num in NUM_CENTRES:
        centres = k_means(own[~judged], num, rng)
        near, near_test = nearest(own, centres), nearest(other, centres)
        for place in range(len(centres)):
            rows = near == place
            inside, test_inside = int((rows & judged).sum()), int((near_test == place).sum())
            found.append(Place(excess_chance(inside, int(judged.sum()), test_inside, len(other)), rows))
    return found


def nearest(points: Array, centres: Array) -> Array:
    """Which centre `(k, D)` each point `(n, D)` is nearest to."""
    found: Array = (np.square(centres).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
    return found


def k_means(points: Array, num: int, rng: np.random.Generator, *, tries: int = 4) -> Array:
    """Centres `(num, D)` with the least total squared distance of `tries` starts (k-means++), 30 rounds each."""
    best, least = points[:1], np.inf
    for _ in range(tries):
        centres = points[rng.integers(len(points))][None]
        while len(centres) < min(num, len(points)):
            away = np.square(points[:, None] - centres).sum(axis=2).min(axis=1)
            if not away.any():
                break
            centres = np.concatenate([centres, points[rng.choice(len(points), p=away / away.sum())][None]])
        for _ in range(30):
            near = nearest(points, centres)
            moved = np.stack(
                [points[near == place].mean(axis=0) if (near == place).any() else centres[place]
                 for place in range(len(centres))]
            )  # fmt: skip
            if np.array_equal(moved, centres):
                break
            centres = moved
        total = float(np.square(points - centres[nearest(points, centres)]).sum())
        if total < least:
            best, least = centres, total
    return best
