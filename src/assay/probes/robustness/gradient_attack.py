"""The worst answer within a small distance, found by gradient, and whether that search can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

from assay import stats
from assay.probes.robustness._attack import Box, follow_gradient, try_at_random
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.units.ranges import box, radius_of, ranges
from assay.values import Array, Better, Column, Groups, Measurement, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

NUM_ROWS = 500
NUM_STEPS = 10
NUM_STARTS = 6


@dataclass(frozen=True)
class Search:
    """How far and how long is searched. A picture costs a hundred times what a table row costs, and has long ways."""

    num_rows: int
    num_steps: int
    num_starts: int

    @property
    def per_row(self) -> int:
        """Model rows of either attack at most: a gradient and an answer for each step."""
        return 2 * self.num_steps * self.num_starts


SEARCHES = {"table": Search(NUM_ROWS, NUM_STEPS, NUM_STARTS), "image": Search(200, 20, 2)}


def most_rows(sizes: Sizes) -> dict[str, int]:
    """At most: one look at the sample, then two rows a step and start for each attack; broken rows cost less."""
    search = SEARCHES[sizes.modality]
    return {"gradient_attack": min(search.num_rows, sizes.num_test) * (2 + 2 * search.per_row)}


@dataclass(frozen=True)
class Attacked:
    """What happened to each row of the sample, `(M,)` bool: right before, broken by gradient, broken at random."""

    right: Array
    errored: Array
    by_gradient: Array
    at_random: Array
    zero_gradient: Array


@probe("robustness", cost=most_rows, modalities=("table", "image"))
def gradient_attack(gradient: Query, draws: Draws) -> list[Measurement]:
    """Share of examples answered correctly at every point the attacks could find within a radius.

    Definition: robust_accuracy = mean[no attack found x' with |x'_f - x_f| <= radius * (high_f - low_f) for numeric f
    (every pixel f), inside the plausible range (norm: L-infinity), that is not answered correctly]. Radius 0.05 for
    tables, 0.1 for grey pictures, 8/255 for colour. The attack takes signed gradient steps with momentum and a step
    that halves when the loss stops rising: tables 6 starts (the row, five random points) of 10 steps, pictures 2 of 20.
    Whole-number columns and pixels are rounded before an answer counts. random search: the same number of model rows
    spent on random points of the same box.
    Shapes: at most 500 keyed test rows, 200 pictures; categorical columns do not move.
    Direction: robust_accuracy higher is better. Fails its own trial, and is then undefined, when random search breaks
    rows that gradients do not (one-sided exact test of the discordant rows at 5 %), or most gradients are 0.
    Limits: an upper bound on true robustness, never a certificate; the loss is that of the model, so a decision rule of
    another kind is attacked less well; says nothing of categorical edits. Texts have no small steps: see input_noise.
    Source: Croce and Hein 2020 (APGD, section 4); Carlini et al. 2019, section 3 (an attack must beat random search).

    >>> most_rows(Sizes(num_test=100, num_train=0, num_units=2, num_outputs=2))
    {'gradient_attack': 24200}
    """
    rows = gradient.rows(SEARCHES[modality(gradient.columns)].num_rows)
    inputs = gradient.inputs[rows]
    known = ranges(gradient.columns, gradient.inputs)
    low, high = box(inputs, known, radius_of(gradient.columns)[0])
    if not (high > low).any():
        reason = "no numeric column has a plausible range to move in"
        return [_robust(Estimate(None, None, None, "none", None, reason), "", len(rows), 0)]
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

    search = SEARCHES[modality(gradient.columns)]
    answers = gradient.predictions(inputs, groups)
    right = (answers == labels) & (answers >= 0)
    first = np.flatnonzero(right)
    movable = (around.high > around.low)[first]
    _, found = slopes(inputs[first], first) if len(first) else (first, np.zeros((0, *inputs.shape[1:])))
    zero = np.zeros(len(rows), dtype=bool)
    zero[first] = ~(movable & (found != 0)).any(axis=tuple(range(1, inputs.ndim)))
    masks = [np.zeros(len(rows), dtype=bool) for _ in range(2)]
    rng = gradient.rng("gradient attack")
    shares = rng.random((search.num_starts - 1, *inputs.shape))
    left = first
    for start in range(search.num_starts):
        points = (
            inputs.astype(np.float64) if start == 0 else around.low + shares[start - 1] * (around.high - around.low)
        )
        broken = follow_gradient(points[left], around, left, num_steps=search.num_steps, slopes=slopes, wrong=wrong)
        masks[0][broken] = True
        left = first[~masks[0][first]]
        if not len(left):
            break
    # Equal budget: the gradient attack pays two rows a step.
    masks[1][try_at_random(around, first, num_tries=search.per_row, rng=rng, wrong=wrong)] = True
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
    mine, everyone = draws.of(rows), np.ones(len(rows), dtype=bool)
    kept = attacked.right & ~attacked.by_gradient & ~attacked.at_random
    void = why_void(attacked)
    columns = gradient.columns
    robust = _exact(kept, everyone, mine, columns)
    if void:
        robust = Estimate(None, None, None, robust.method, None, void, draws.level)
    num_errored = int(attacked.errored.sum())
    found = [
        _robust(robust, "", len(rows), num_errored),
        _robust(_exact(attacked.right, everyone, mine, columns), "radius=0", len(rows), num_errored),
    ]
    lucky = attacked.at_random & ~attacked.by_gradient
    of_right: tuple[tuple[str, str, Array, Better], ...] = (
        ("attack_success", "attack=gradient", attacked.by_gradient, "lower"),
        ("attack_success", "attack=random", attacked.at_random, "lower"),
        ("broken_only_at_random", "", lucky, "lower"),
        ("zero_gradient_rate", "", attacked.zero_gradient, "neither"),
    )
    for metric, slice, hits, better in of_right:
        share = _exact(hits, attacked.right, mine, columns)
        num = int(attacked.right.sum())
        found.append(stats.measured(share, metric, unit="fraction", better=better, slice=slice, attempted=num))
    return found if void else found + _by_group(kept, attacked.errored, gradient.groups.take(rows), mine, columns)


def _by_group(
    kept: Array, errored: Array, groups: Groups, draws: Draws, columns: Sequence[Column]
) -> list[Measurement]:
    found = []
    for index, column in enumerate(groups.columns):
        for code, name in enumerate(column.categories):
            member = groups.codes[:, index] == code
            share = _exact(kept & member, member, draws, columns)
            found.append(_robust(share, f"{column.name}={name}", int(member.sum()), int((errored & member).sum())))
    return found


def _exact(hits: Array, among: Array, draws: Draws, columns: Sequence[Column]) -> Estimate:
    """Clopper-Pearson bounds, and replicates from the shared draws so that effects are paired."""
    exact = stats.exact_rate(int((hits & among).sum()), int(among.sum()), level=draws.level)
    search = SEARCHES[modality(columns)]
    how = f"norm L-infinity, radius {radius_of(columns)[1]}, {search.num_starts} starts x {search.num_steps} steps"
    exact = replace(exact, method=f"{exact.method}; {how}")
    if exact.value is None:
        return exact
    counts = draws.counts(among.astype(np.int64) + (hits & among), 3)
    return replace(exact, replicates=stats.rate(counts[:, 2], counts[:, 1] + counts[:, 2]).replicates)


def _robust(estimate: Estimate, slice: str, attempted: int, errored: int) -> Measurement:
    return stats.measured(
        estimate,
        "robust_accuracy",
        unit="fraction",
        better="higher",
        slice=slice,
        attempted=attempted,
        errored=errored,
        headline=slice == "",
    )
