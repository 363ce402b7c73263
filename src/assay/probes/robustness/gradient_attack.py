"""The worst answer within a small distance, found by gradient, and whether that search can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

from assay.probes.robustness._apgd import Climbs, climb, cross_entropy
from assay.probes.robustness._robust import accuracy, by_group, of_tried, share
from assay.probes.robustness._scope import Scope
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.units.ranges import radius_of, ranges
from assay.values import Array, Measurement, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

METRIC = "robust_accuracy"
NUM_ROWS = 500
NUM_STEPS = 10
NUM_STARTS = 6
FIRST_STEP = 0.5  # of the radius: on tables, longer first steps jump over narrow bands of a skewed column


@dataclass(frozen=True)
class Search:
    """How far and how long is searched. A picture costs a hundred times what a table row costs, and has long ways."""

    num_rows: int
    num_steps: int
    num_starts: int

    @property
    def per_row(self) -> int:
        """Model rows of either attack at most: at every point the gradient and the answer come from one pass."""
        return (self.num_steps + 1) * self.num_starts


SEARCHES = {"table": Search(NUM_ROWS, NUM_STEPS, NUM_STARTS), "image": Search(200, 20, 2)}


def most_rows(sizes: Sizes) -> dict[str, int]:
    """At most: one look at the sample, a row a point for each attack, and what breaks again alone; broken rows less."""
    search = SEARCHES[sizes.modality]
    return {"gradient_attack": min(search.num_rows, sizes.num_test) * (1 + 2 * search.per_row + 2)}


@dataclass(frozen=True)
class Attacked:
    """What happened to each row of the sample, `(M,)` bool: right before, broken by gradient, broken at random."""

    right: Array
    errored: Array
    by_gradient: Array
    at_random: Array
    zero_gradient: Array


@probe("robustness", cost=most_rows, modalities=("table", "image"), version=4)
def gradient_attack(gradient: Query, draws: Draws) -> list[Measurement]:
    """Share of examples answered correctly at every point the attacks could find within a radius.

    Definition: robust_accuracy = mean[no attack found x' with |x'_f - x_f| <= radius * (high_f - low_f) for numeric f
    (every pixel f), inside the plausible range (norm: L-infinity), that is not answered correctly]. Radius 0.05 for
    tables, 0.1 for grey pictures, 8/255 for colour. The attack takes signed gradient steps with momentum and a step
    that halves when the loss stops rising: tables 6 starts (the row, five random points) of 10 steps, pictures 2 of 20.
    Whole-number columns and pixels are rounded before an answer counts, and what is wrong in a batch counts only if it
    is wrong when asked alone, too. random search: the same number of model rows
    spent on random points of the same box.
    Shapes: at most 500 keyed test rows, 200 pictures; categorical columns do not move.
    Direction: robust_accuracy higher is better. Fails its own trial, and is then undefined, when random search breaks
    rows that gradients do not (one-sided exact test of the discordant rows at 5 %), or most gradients are 0.
    Limits: an upper bound on true robustness, never a certificate; the loss is that of the model, so a decision rule of
    another kind is attacked less well; says nothing of categorical edits. Texts have no small steps: see input_noise.
    Source: Croce and Hein 2020 (APGD, section 4); Carlini et al. 2019, section 3 (an attack must beat random search).

    >>> most_rows(Sizes(num_test=100, num_train=0, num_units=2, num_outputs=2))
    {'gradient_attack': 13500}
    """
    search = SEARCHES[modality(gradient.columns)]
    rows, (radius, told) = gradient.rows(search.num_rows), radius_of(gradient.columns)
    known = ranges(gradient.columns, gradient.inputs)
    scope = Scope.of(gradient, rows, known, norm="linf", radius=radius, rounded=True)
    if not scope.can_move:
        reason = "no numeric column has a plausible range to move in"
        return [accuracy(METRIC, Estimate(None, None, None, "none", None, reason), "", len(rows), 0)]
    how = f"norm L-infinity, radius {told}, {search.num_starts} starts x {search.num_steps} steps"
    return _report(attack(scope, search), scope, draws.of(rows), how)


def attack(scope: Scope, search: Search) -> Attacked:
    """Run both attacks on the rows that are answered correctly."""
    every, nowhere = np.arange(len(scope.labels)), np.zeros_like(scope.low)
    _, slopes, logits, wrong = scope.slopes(nowhere, every, lambda z, rows: cross_entropy(z, scope.labels[rows]))
    errored, right = wrong & (scope.answers(logits, scope.inputs, every) < 0), ~wrong
    zero = right & ~((scope.high > scope.low) & (slopes != 0)).any(axis=1)
    rng = scope.query.rng("gradient attack")
    shares = rng.random((search.num_starts - 1, *scope.low.shape))
    starts = [nowhere, *(scope.low + one * (scope.high - scope.low) for one in shares)]
    left = np.flatnonzero(right)
    for start in starts:
        climbs = Climbs(left, np.full(len(left), -1), start[left].__getitem__)
        climbed = climb(scope, climbs, num_steps=search.num_steps, first_step=FIRST_STEP)
        left = left[~climbed.broken]
    by_gradient = right.copy()
    by_gradient[left] = False
    at_random = np.zeros(len(every), dtype=bool)
    at_random[_by_luck(scope, np.flatnonzero(right), search.per_row, rng)] = True
    return Attacked(right, errored, by_gradient, at_random, zero)


def _by_luck(scope: Scope, active: Array, num_tries: int, rng: np.random.Generator) -> Array:
    """Positions `(W,)` that break at one of `num_tries` points: corners of the box and points inside it, in turn.

    Points are drawn for every row, broken or not, so that two systems meet the same points. One query row a try.
    """
    broken = [active[:0]]
    for number in range(num_tries):
        shares = rng.random(scope.low.shape)
        shares = np.round(shares) if number % 2 == 0 else shares
        if not len(active):
            break
        points = (scope.low + shares * (scope.high - scope.low))[active].astype(np.float32)
        _, lost = scope.look(points, active)
        broken.append(active[lost])
        active = active[~lost]
    return np.concatenate(broken)


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


def _report(attacked: Attacked, scope: Scope, draws: Draws, how: str) -> list[Measurement]:
    num, num_errored = len(attacked.right), int(attacked.errored.sum())
    everyone, void = np.ones(num, dtype=bool), why_void(attacked)
    kept = attacked.right & ~attacked.by_gradient & ~attacked.at_random
    robust = share(kept, everyone, draws, how)
    if void:
        robust = Estimate(None, None, None, robust.method, None, void, draws.level)
    clean = share(attacked.right, everyone, draws, how)
    found = [accuracy(METRIC, one, where, num, num_errored) for one, where in ((robust, ""), (clean, "radius=0"))]
    lucky = attacked.at_random & ~attacked.by_gradient
    right, told = attacked.right, (draws, how)
    found += [
        of_tried(("attack_success", "attack=gradient"), attacked.by_gradient, right, told),
        of_tried(("attack_success", "attack=random"), attacked.at_random, right, told),
        of_tried(("broken_only_at_random", ""), lucky, right, told),
        of_tried(("zero_gradient_rate", ""), attacked.zero_gradient, right, told, better="neither"),
    ]
    return found if void else found + by_group(METRIC, kept, attacked.errored, scope.groups, (draws, how))
