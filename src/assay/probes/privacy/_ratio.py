"""Membership attacks on classifiers, as scores: a higher score is a stronger claim that the row was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.errors import Problem, UsageError
from assay.values import Array

# Share of the gap between OUT and (unseen) IN confidence that is assumed to be closed: p(x) is estimated as
# ((1 + a) p_out + 1 - a) / 2 (Zarifzadeh et al. 2024, eq. 11). One value for all data: tuning it would need members.
INTERPOLATION = 0.5


def true_probability(logits: Array, labels: Array) -> Array:
    """Softmax probability of the true class, `(N,)`; NaN for an errored example.

    >>> true_probability(np.array([[0.0, 0.0], [np.nan, 1.0]]), np.array([1, 0]))
    array([0.5, nan])
    """
    wide = np.asarray(logits, dtype=np.float64)
    errored: Array = np.logical_not(np.isfinite(wide).all(axis=1))
    wide = np.where(errored[:, None], 0.0, wide)
    wide = np.exp(wide - wide.max(axis=1, keepdims=True))
    found: Array = wide[np.arange(len(wide)), labels] / wide.sum(axis=1)
    return np.where(errored, np.nan, found)


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


def ratio_score(target: Array, references: Array, out: Array) -> Array:
    """Ratio log p_target - log of the estimated average p, `(N,)`, from references `(R, N)` where `out (R, N)`.

    >>> ratio_score(np.array([0.5]), np.array([[0.5], [0.9]]), np.array([[True], [False]])).round(3)
    array([-0.223])
    """
    average = (references * out).sum(axis=0) / out.sum(axis=0)
    estimated = ((1 + INTERPOLATION) * average + 1 - INTERPOLATION) / 2
    found: Array = np.log(np.maximum(target, 1e-300)) - np.log(estimated)
    return np.where(np.isfinite(found), found, -np.inf)
