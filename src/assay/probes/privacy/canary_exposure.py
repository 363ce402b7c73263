"""How much better the model knows rows it was shown once among many than rows like them that it never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from assay import stats
from assay.access.canaries import num_canaries
from assay.probes.privacy._predictive import logit_confidence
from assay.registry import probe
from assay.stats import Draws, Estimate
from assay.values import Array, Measurement

if TYPE_CHECKING:
    from assay.access.handles import Retrain


@probe("privacy", cost=lambda sizes: {"canaries": num_canaries(sizes.num_train)}, deep=True)
def canary_exposure(retrain: Retrain, draws: Draws) -> list[Measurement]:
    r"""Exposure of made-up rows that one more training was shown, among made-up rows that it was not.

    Definition: exposure = log2(R + 1) - log2(rank), rank of an inserted canary's log(p / (1 - p)) of its label among
    the R canaries left out and itself, 1 the surest; a tie takes the middle rank. canary_exposure is the mean over
    inserted canaries; canaries_most_exposed the share with rank 1. An errored canary has the last rank.
    Shapes: m canaries with labels (m,), coins (m,), logits (m, K); the training is that of one_run_audit.
    Direction: lower is better; without any memory the mean is log2(R + 1) - mean of log2(1..R+1), about 1.44, and at
    most log2(R + 1).
    Limits: canaries are unlike people's rows (numbers far out, pixels or words at random), so this is what the model
    can learn by heart, not what it did learn of anyone. Treatments of the model stage are not applied. The interval
    covers which canaries were made, inserted and left out; not the seed.
    Source: Carlini et al. 2019, "The Secret Sharer", section 4.2, by ranks among the canaries left out.

    >>> exposures(np.array([3.0, 0.0]), np.array([1.0, 2.0, 0.5])).tolist()
    [2.0, 0.0]
    """
    canaries = retrain.canaries
    scores = logit_confidence(canaries.logits, canaries.labels)
    errored = int(np.isnan(scores).sum())
    scores = np.where(np.isnan(scores), -np.inf, scores)
    inside, outside = scores[canaries.included], scores[~canaries.included]
    about: dict[str, Any] = {"better": "lower", "attempted": len(scores), "errored": errored}
    if not len(inside) or not len(outside):
        nothing = Estimate(None, None, None, "ranks", None, "the coins left one side empty", draws.level)
        return [stats.measured(nothing, "canary_exposure", unit="bits", **about)]
    most = float(np.log2(len(outside) + 1))
    mean = stats.statistic(resampled(inside, outside, draws), level=draws.level, bounds=(0.0, most))
    first = stats.exact_rate(int((exposures(inside, outside) > most - 0.5).sum()), len(inside), level=draws.level)
    return [
        stats.measured(mean, "canary_exposure", unit="bits", **about),
        stats.measured(first, "canaries_most_exposed", unit="fraction", **about),
    ]


def exposures(inside: Array, outside: Array) -> Array:
    """log2(R + 1) - log2(rank) of each inserted score `(i,)` among `outside (R,)`."""
    ordered = np.sort(outside)
    above = len(ordered) - np.searchsorted(ordered, inside, side="right")
    tied = np.searchsorted(ordered, inside, side="right") - np.searchsorted(ordered, inside, side="left")
    found: Array = np.log2(len(ordered) + 1) - np.log2(1 + above + tied / 2)
    return found


def resampled(inside: Array, outside: Array, draws: Draws) -> Array:
    """Mean exposure `(1 + B,)` under draws of the inserted canaries and, by a stream of its own, of those left out."""
    falling = np.sort(outside)[::-1]
    ends = [len(falling) - np.searchsorted(falling[::-1], inside, side=side) for side in ("right", "left")]
    ours, theirs = (np.arange(len(side)) % draws.num_rows for side in (inside, outside))
    drawn = draws.of(theirs[::-1]).counts(np.arange(len(falling)), len(falling))
    reached = np.concatenate([np.zeros((len(drawn), 1)), np.cumsum(drawn, axis=1)], axis=1)
    above, level_with = reached[:, ends[0]], reached[:, ends[1]]
    found = np.log2(len(outside) + 1) - np.log2(1 + (above + level_with) / 2)
    weights = draws.of(ours).counts(np.arange(len(inside)), len(inside))
    means: Array = (weights * found).sum(axis=1) / weights.sum(axis=1)
    return means
