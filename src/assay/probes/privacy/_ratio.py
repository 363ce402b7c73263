"""Membership attacks on classifiers, as scores: a higher score is a stronger claim that the row was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from assay.errors import Problem, UsageError
from assay.values import Array

# Share of the gap between OUT and (unseen) IN confidence that is assumed to be closed: p(x) is estimated as
# ((1 + a) p_out + 1 - a) / 2 (Zarifzadeh et al. 2024, eq. 11). One value for all data: tuning it would need members.
INTERPOLATION = 0.5
BLOCK = 1 << 16  # rows whose 64-bit copies exist at one time


def true_probability(logits: Array, labels: Array) -> Array:
    """Softmax probability of the true class, `(N,)`; NaN for an errored example.

    >>> true_probability(np.array([[0.0, 0.0], [np.nan, 1.0]]), np.array([1, 0]))
    array([0.5, nan])
    """
    found: Array = np.empty(len(logits))
    for start in range(0, len(logits), BLOCK):
        part = slice(start, start + BLOCK)
        wide = np.asarray(logits[part], dtype=np.float64)
        errored: Array = np.logical_not(np.isfinite(wide).all(axis=1))
        wide = np.where(errored[:, None], 0.0, wide)
        wide = np.exp(wide - wide.max(axis=1, keepdims=True))
        right = wide[np.arange(len(wide)), labels[part]] / wide.sum(axis=1)
        found[part] = np.where(errored, np.nan, right)
    return found


def out_masks(members: Sequence[Array], num_other: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Which references may speak for a row: `(R, N_train)` and `(R, num_other)` bool, exactly R/2 for every row.

    References come in complementary pairs, so a training row has one OUT reference in each. A row outside the training
    split is OUT of all; one of each pair is drawn for it, else its average would be steadier and give it away.
    Raises UsageError when the masks are not complementary pairs.
    """
    masks = np.stack(members)
    if len(masks) % 2 or not np.array_equal(masks[0::2], ~masks[1::2]):
        raise UsageError(Problem("reference models are not in complementary pairs", "masks 2i and 2i+1 opposite"))
    chosen = rng.random((len(masks) // 2, num_other)) < 0.5
    others = np.stack([chosen, ~chosen], axis=1).reshape(len(masks), num_other)
    return ~masks, others


def ratio_score(target: Array, references: Iterable[Array], out: Array) -> Array:
    """Ratio log p_target - log of the estimated average p, `(N,)`, from R references `(N,)` where `out (R, N)`.

    References are read one at a time: of many rows it matters that not all of them are in memory at once.

    >>> ratio_score(np.array([0.5]), np.array([[0.5], [0.9]]), np.array([[True], [False]])).round(3)
    array([-0.223])
    """
    average: Array = np.zeros(len(target))
    for reference, counts in zip(references, out, strict=True):
        average += reference * counts
    average /= out.sum(axis=0)
    average *= 1 + INTERPOLATION
    average += 1 - INTERPOLATION
    average /= 2
    found = np.log(np.maximum(target, 1e-300))
    found -= np.log(average, out=average)
    found[~np.isfinite(found)] = -np.inf
    return found
