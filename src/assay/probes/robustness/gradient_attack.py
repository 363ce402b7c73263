"""The worst answer within a small distance, found by gradient, and whether that search can be believed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest

from assay import stats
from assay.probes.robustness._attack import Box, follow_gradient, try_at_random
from assay.probes.robustness._columns import box, ranges
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.values import Array, Measurement

if TYPE_CHECKING:
    from assay.access import Query

NUM_ROWS = 500
NUM_STEPS = 20
NUM_STARTS = 2
RADIUS = 0.05


def most_rows(sizes: Sizes) -> dict[str, int]:
    """At most: one look at the sample, then two rows a step and start for each attack; broken rows cost less."""
    return {"gradient_attack": min(NUM_ROWS, sizes.num_test) * (2 + 4 * NUM_STEPS * NUM_STARTS)}


@dataclass(frozen=True)
class Attacked:
    """What happened to each row of the sample, `(M,)` bool: right before, broken by gradient, broken at random."""

    right: Array
    errored: Array
    by_gradient: Array
    at_random: Array
    zero_gradient: Array


@probe("robustness", cost=most_rows)
def gradient_attack(gradient: Query, draws: Draws) -> list[Measurement]:
    """Share of examples answered correctly at every point the attacks could find within a radius.

    Definition: robust_accuracy = mean[no attack found x' with |x'_f - x_f| <= radius * (high_f - low_f) for numeric f,
    inside the plausible range (norm: L-infinity), that is not answered correctly]. The attack takes signed gradient
    steps with momentum and a step that halves when the loss stops rising: 2 starts (the row, a random point) of 20
    steps. Whole-number columns are rounded before an answer counts. random search: the same number of model rows spent
    on random points of the same box.
    Shapes: at most 500 keyed test rows; categorical columns do not move.
    Direction: robust_accuracy higher is better. Fails its own trial, and is then undefined, when random search breaks
    rows that gradients do not (one-sided exact test of the discordant rows at 5 %), or most gradients are 0.
    Limits: an upper bound on true robustness, never a certificate; the loss is that of the model, so a decision rule of
    another kind is attacked less well; says nothing of categorical edits.
    Source: Croce and Hein 2020 (APGD, section 4); Carlini et al. 2019, section 3 (an attack must beat random search).

    >>> most_rows(Sizes(num_test=100, num_train=0, num_features=2, num_outputs=2))
    {'gradient_attack': 16200}
    """
    rows = gradient.rows(NUM_ROWS)
    inputs = gradient.inputs[rows]
    known = ranges(gradient.columns, gradient.inputs)
    low, high = box(inputs, known, RADIUS)
    if not (high > low).any():
        reason = "no numeric column has a plausible range to move in"
        return [_measured(Estimate(None, None, None, "none", None, reason), attempted=len(rows), headline=True)]
    return _report(attack(gradient, rows, Box(low, high, known)), gradient, rows, draws)


def attack(gradient: Query, rows: Array, around: Box) -> Attacked:
    """Run both attacks on the rows that are answered correctly."""
    inputs, labels, groups = gradient.inputs[rows], gradient.labels[rows], gradient.groups.take(rows)

    def wrong(points: Array, positions: Array) -> Array:
        answers = gradient.predictions(points, groups.take(positions))
        lost: Array = answers != labels[positions]
        return lost

    def slopes(points: Array, positions: Array) -> tuple[Array, Array]:
        losses, found = gradient.losses_and_gradients(points, labels[positions])
        return losses, found

    answers = gradient.predictions(inputs, groups)
    right = (answers == labels) & (answers >= 0)
    first = np.flatnonzero(right)
    movable = (around.high > around.low)[first]
    _, found = slopes(inputs[first], first) if len(first) else (first, np.zeros((0, inputs.shape[1])))
    zero = np.zeros(len(rows), dtype=bool)
    zero[first] = ~(movable & (found != 0)).any(axis=1)
    masks = [np.zeros(len(rows), dtype=bool) for _ in range(2)]
    rng = gradient.rng("gradient attack")
    shares = rng.random((NUM_STARTS - 1, *inputs.shape))
    left = first
    for start in range(NUM_STARTS):
        points = (
            inputs.astype(np.float64) if start == 0 else around.low + shares[start - 1] * (around.high - around.low)
        )
        masks[0][follow_gradient(points[left], around, left, num_steps=NUM_STEPS, slopes=slopes, wrong=wrong)] = True
        left = first[~masks[0][first]]
        if not len(left):
            break
    num_tries = 2 * NUM_STEPS * NUM_STARTS  # equal budget: the gradient attack pays two rows a step
    masks[1][try_at_random(around, first, num_tries=num_tries, rng=rng, wrong=wrong)] = True
    return Attacked(right, answers < 0, masks[0], masks[1], zero)


def why_void(attacked: Attacked) -> str:
    """Why the search by gradient cannot be believed; empty when it can."""
    lucky = int((attacked.at_random & ~attacked.by_gradient).sum())
    clever = int((attacked.by_gradient & ~attacked.at_random).sum())
    num_right = int(attacked.right.sum())
    most = int((attacked.right & ~attacked.by_gradient & ~attacked.at_random).sum())
    bound = f"at most {most} of {len(attacked.right)} rows are robust"
    if lucky > clever and binomtest(lucky, lucky + clever, alternative="greater").pvalue < 0.05:
        return f"gradients are masked: {lucky} rows broke only at random and {clever} only by gradient; {bound}"
    if num_right and attacked.zero_gradient.sum() > num_right / 2:
        return f"{int(attacked.zero_gradient.sum())} of {num_right} gradients are 0: nothing to follow; {bound}"
    return ""


def _report(attacked: Attacked, gradient: Query, rows: Array, draws: Draws) -> list[Measurement]:
    mine = draws.of(rows)
    kept = attacked.right & ~attacked.by_gradient & ~attacked.at_random
    void = why_void(attacked)
    robust = _exact(kept, np.ones(len(rows), dtype=bool), mine)
    if void:
        robust = Estimate(None, None, None, robust.method, None, void, draws.level)
    about: dict[str, Any] = {"attempted": len(rows), "errored": int(attacked.errored.sum())}
    found = [
        _measured(robust, headline=True, **about),
        _measured(_exact(attacked.right, np.ones(len(rows), dtype=bool), mine), slice="radius=0", **about),
    ]
    of_right: dict[str, Any] = {"attempted": int(attacked.right.sum())}
    for name, broken in (("gradient", attacked.by_gradient), ("random", attacked.at_random)):
        rate = _exact(broken, attacked.right, mine)
        found.append(_measured(rate, metric="attack_success", slice=f"attack={name}", better="lower", **of_right))
    lucky = _exact(attacked.at_random & ~attacked.by_gradient, attacked.right, mine)
    found.append(_measured(lucky, metric="broken_only_at_random", better="lower", **of_right))
    still = _exact(attacked.zero_gradient, attacked.right, mine)
    found.append(_measured(still, metric="zero_gradient_rate", better="neither", **of_right))
    if not void:
        found += _by_group(kept, attacked.errored, gradient, rows, mine)
    return found


def _by_group(kept: Array, errored: Array, gradient: Query, rows: Array, draws: Draws) -> list[Measurement]:
    groups = gradient.groups.take(rows)
    found = []
    for index, column in enumerate(groups.columns):
        for code, name in enumerate(column.categories):
            member = groups.codes[:, index] == code
            if member.any():
                counts: dict[str, Any] = {"attempted": int(member.sum()), "errored": int((errored & member).sum())}
                found.append(_measured(_exact(kept & member, member, draws), slice=f"{column.name}={name}", **counts))
    return found


def _exact(hits: Array, among: Array, draws: Draws) -> Estimate:
    """Clopper-Pearson bounds, and replicates from the shared draws so that effects are paired."""
    counts = draws.counts(among.astype(np.int64) + (hits & among), 3)
    exact = stats.exact_rate(int((hits & among).sum()), int(among.sum()), level=draws.level)
    return replace(exact, replicates=stats.rate(counts[:, 2], counts[:, 1] + counts[:, 2]).replicates)


def _measured(
    estimate: Estimate, *, metric: str = "robust_accuracy", better: Any = "higher", headline: bool = False, **about: Any
) -> Measurement:
    how = f"norm L-infinity, radius {RADIUS} of each plausible range, {NUM_STARTS} starts x {NUM_STEPS} steps"
    method = f"{estimate.method}; {how}"
    estimate = replace(estimate, method=method)
    return stats.measured(estimate, metric, unit="fraction", better=better, headline=headline, **about)
