"""Four attacks in the order of their price, each on the rows that the ones before could not break.

The attacks are those of AutoAttack (Croce and Hein 2020); the order is not. Most rows break in a few cheap steps, and
most that hold are far from breaking: long searches go to the rows that came nearest, nearest first, until a stretch of
them yields nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import binomtest

from assay.probes.robustness._apgd import Climbed, climb, cross_entropy, towards
from assay.probes.robustness._fab import approach
from assay.probes.robustness._scope import Objective, Scope
from assay.probes.robustness._square import scatter
from assay.values import Array

MOST_TARGETS = 9  # Croce and Hein 2020, section 6
NEAREST = 3  # classes
NEAR_SHARE = 0.3  # of the rows that hold: searched further after a first look at every class
STRETCH = 0.1  # of the rows that hold: searched at length in one go
LEAST_STRETCH = 16  # rows
MOST_ROUNDS = 6  # of a stretch, each from new random starts
PATIENCE = 2  # rounds in a row that may yield nothing
POLISH = 0.25  # of the radius: first step from the highest point of a climb towards the nearest class
RANDOM_TRIES = 10
WATCHED = 50  # rows on which random squares and gradients are compared
LEVEL = 0.05
ATTACKS = ("fgsm", "random", "apgd_ce", "apgd_t", "fab_t", "square")


@dataclass(frozen=True)
class Effort:
    """How many steps and tries each search has."""

    first: int = 25  # the first climb, of every row
    target: int = 20  # towards every class
    long: int = 75  # towards the classes that came nearest
    full: int = 100  # of the rows that came nearest, each round
    polish: int = 40
    fab: int = 60
    watched_squares: int = 500
    near_squares: int = 1000  # of the rows that came nearest
    full_squares: int = 5000  # where gradients are masked

    def most_passes(self, num_outputs: int) -> int:
        """Model rows of one row that never breaks, at most."""
        targets, near = min(MOST_TARGETS, num_outputs - 1), min(NEAREST, num_outputs - 1)
        first = 3 + RANDOM_TRIES + 1 + self.first  # answer, slope, one step, random points, first climb
        second = targets * (1 + self.target) + near * (1 + self.long)
        third = MOST_ROUNDS * 3 * (2 + self.full + self.polish) + near * (1 + self.fab)
        return first + second + third + 2 + self.watched_squares + max(self.full_squares, self.near_squares)


# Of a picture as AutoAttack spends them; a table's row has few columns, and its searches end sooner.
EFFORTS = {"image": Effort(), "table": Effort(15, 10, 25, 40, 16, 25, 100, 200, 1000)}


@dataclass
class Found:
    """What happened to each of M rows: `(M,)` each."""

    right: Array
    errored: Array
    answers: Array
    zero_gradient: Array
    watched: Array  # a random sample of the right rows, on which random squares and gradients are compared
    broken: dict[str, Array] = field(default_factory=dict)  # by attack, of the rows it was run on
    tried: dict[str, Array] = field(default_factory=dict)
    masked: str = ""  # why gradients cannot be believed

    @property
    def holds(self) -> Array:
        """Right, and broken by nothing."""
        holds: Array = self.right.copy()
        for broken in self.broken.values():
            holds &= ~broken
        return holds

    @property
    def is_constant(self) -> bool:
        """Whether every row, and there are several, gets the same answer."""
        return len(self.answers) > 1 and len(set(self.answers.tolist())) == 1

    def note(self, attack: str, active: Array, broken: Array) -> None:
        """Add what an attack did to the positions `active`."""
        for table, places in ((self.tried, active), (self.broken, active[broken])):
            table.setdefault(attack, np.zeros(len(self.right), dtype=bool))[places] = True


def search(scope: Scope, effort: Effort) -> Found:
    """Every attack, cheapest first; random search at full length only where gradients look masked."""
    hunt = _Hunt.begin(scope, effort)
    if not hunt.found.right.any():
        return hunt.found
    hunt.quickly()
    hunt.by_target()
    hunt.at_length()
    hunt.without_gradients()
    return hunt.found


@dataclass
class _Hunt:
    """A search under way: how near each row `(M,)` came to breaking, and towards which class `(M, T)`."""

    scope: Scope
    effort: Effort
    found: Found
    rng: Callable[[str], np.random.Generator]
    targets: Array  # (M, T) classes in the order of their logits; after `by_target` in that of how near they came
    near: Array  # (M,) the highest objective of `by_target`; -inf before
    climbs: int = 0

    @classmethod
    def begin(cls, scope: Scope, effort: Effort) -> _Hunt:
        """Answers, slopes, one full step along the sign, and random points: one look at every row."""
        everyone, num = np.arange(len(scope.labels)), len(scope.labels)
        logits, _ = scope.look(scope.origin, everyone)
        answers, none = scope.answers(logits, scope.inputs, everyone), np.zeros(num, dtype=bool)
        found = Found((answers == scope.labels) & (answers >= 0), answers < 0, answers, none.copy(), none.copy())
        own = np.arange(logits.shape[1]) == scope.labels[:, None]
        order = np.argsort(np.where(own, np.inf, -np.nan_to_num(logits)), axis=1, kind="stable")
        targets = order[:, : min(MOST_TARGETS, logits.shape[1] - 1)]

        def rng(name: str) -> np.random.Generator:
            return scope.query.rng(f"adversarial accuracy {name}")

        return cls(scope, effort, found, rng, targets, np.full(num, -np.inf))

    def holding(self) -> Array:
        """Positions of the rows that hold."""
        return np.flatnonzero(self.found.holds)

    def quickly(self) -> None:
        """FGSM and random points on every row that is right; a short climb on those that hold."""
        scope, right = self.scope, np.flatnonzero(self.found.right)
        objective = cross_entropy(scope.labels)
        _, slopes, _, _ = scope.slopes(scope.origin[right], right, objective)
        can = scope.high[right] > scope.low[right]
        self.found.zero_gradient[right] = ~(can & (slopes != 0)).any(axis=1)
        stepped = scope.clip(scope.origin[right] + scope.radius * scope.steepest(slopes), right)
        _, wrong = scope.look(stepped.astype(np.float32), right)
        self.found.note("fgsm", right, wrong)
        self._random_points(right)
        self._climb(
            "apgd_ce", right, objective, num_steps=self.effort.first
        )  # also where a single step sufficed: why_masked

    def _random_points(self, right: Array) -> None:
        rng, broken, places = self.rng("random points"), np.zeros(len(right), dtype=bool), np.arange(len(right))
        for _ in range(RANDOM_TRIES):
            points = self.scope.random_start(rng)
            if self.scope.norm == "linf":  # corners
                points = np.where(points > self.scope.origin, self.scope.high, self.scope.low)
            _, wrong = self.scope.look(points[right[places]], right[places])
            broken[places[wrong]] = True
            places = places[~wrong]
        self.found.note("random", right, broken)

    def _climb(self, name: str, active: Array, objective: Objective, *, num_steps: int) -> Climbed:
        """Climb from a new random start of each active row."""
        self.climbs += 1
        start = self.scope.random_start(self.rng(f"climb {self.climbs}"))[active]
        climbed = climb(self.scope, start, active, objective=objective, num_steps=num_steps)
        self.found.note(name, active, climbed.broken)
        return climbed

    def by_target(self) -> None:
        """A few steps towards every class in the order of the logits; more towards the nearest, of the nearest rows."""
        scope, num_targets = self.scope, self.targets.shape[1]
        values = np.full(self.targets.shape, -np.inf)
        for place in range(num_targets):
            active = self.holding()
            objective = towards(scope.labels, self.targets[:, place])
            climbed = self._climb("apgd_t", active, objective, num_steps=self.effort.target)
            values[active, place] = climbed.values
        order = np.argsort(-values, axis=1, kind="stable")
        self.targets = np.take_along_axis(self.targets, order, axis=1)
        self.near = np.take_along_axis(values, order, axis=1)[:, 0]
        active = self._nearest_first()[: int(np.ceil(NEAR_SHARE * len(self.holding())))]
        for place in range(min(NEAREST, num_targets)):
            active = active[self.found.holds[active]]
            objective = towards(scope.labels, self.targets[:, place])
            climbed = self._climb("apgd_t", active, objective, num_steps=self.effort.long)
            self.near[active] = np.maximum(self.near[active], climbed.values)

    def at_length(self) -> None:
        """Rounds of full climbs of the rows that came nearest, stretch by stretch, until one of them holds whole."""
        for active in self._stretches():
            before, dry = len(self.holding()), 0
            for number in range(MOST_ROUNDS):
                start = len(self.holding())
                self._round(active)
                if number == 0:
                    self._to_the_boundary(active)
                dry = dry + 1 if len(self.holding()) == start else 0
                if dry == PATIENCE:
                    break
            if len(self.holding()) == before:
                break

    def _round(self, active: Array) -> None:
        """Climb the loss and towards the two nearest classes, and from each highest point on in small steps."""
        labels, scope = self.scope.labels, self.scope
        places = range(min(2, self.targets.shape[1]))
        classes = [("apgd_t", towards(labels, self.targets[:, place])) for place in places]
        for name, objective in [("apgd_ce", cross_entropy(labels)), *classes]:
            active = active[self.found.holds[active]]
            climbed = self._climb(name, active, objective, num_steps=self.effort.full)
            active, best = active[~climbed.broken], climbed.points[~climbed.broken]
            near = classes[0][1]
            steps, size = self.effort.polish, POLISH
            polished = climb(scope, best, active, objective=near, num_steps=steps, first_step=size)
            self.found.note("apgd_t", active, polished.broken)

    def _to_the_boundary(self, active: Array) -> None:
        for place in range(min(NEAREST, self.targets.shape[1])):
            active = active[self.found.holds[active]]
            broken = approach(self.scope, active, targets=self.targets[:, place], num_steps=self.effort.fab)
            self.found.note("fab_t", active, broken)

    def _nearest_first(self) -> Array:
        holding = self.holding()
        return holding[np.argsort(-self.near[holding], kind="stable")]

    def _stretches(self) -> list[Array]:
        order = self._nearest_first()
        size = max(LEAST_STRETCH, int(np.ceil(STRETCH * len(order))))
        return [order[begin : begin + size] for begin in range(0, len(order), size)]

    def without_gradients(self) -> None:
        """Random squares on a sample of all rows, and on the nearest that hold until a stretch of them all do.

        Where the sample shows that gradients are masked, on all rows that hold, at full length.
        """
        found, chosen = self.found, self.rng("watched").permutation(len(self.found.right))
        watched = chosen[found.right[chosen]][:WATCHED]
        found.watched[watched] = True
        self._squares(np.sort(watched), self.effort.watched_squares)
        found.masked = why_masked(found)
        if found.masked:
            self._squares(self.holding(), self.effort.full_squares)
            if found.is_constant and (found.holds == found.right).all():
                found.masked = ""  # there is nothing that gradients could hide
            return
        for active in self._stretches():
            before = len(self.holding())
            self._squares(active, self.effort.near_squares)
            if len(self.holding()) == before:
                break

    def _squares(self, active: Array, num_tries: int) -> None:
        rng = self.rng(f"squares {num_tries}")
        self.found.note("square", active, scatter(self.scope, active, num_tries=num_tries, rng=rng))


def why_masked(found: Found) -> str:
    """Why attacks by gradient cannot be believed; empty when they can.

    An attack that follows gradients must break what random search and a single step break. Rows tried by both ways and
    broken by one alone are compared by the exact sign test, one-sided; random squares on the watched rows.
    """
    num = int(found.right.sum())
    if num and found.zero_gradient.sum() > num / 2:
        return f"{int(found.zero_gradient.sum())} of {num} gradients are 0: nothing to follow"
    nothing = np.zeros(len(found.right), dtype=bool)
    first = found.broken.get("apgd_ce", nothing)
    later = first | found.broken.get("apgd_t", nothing) | found.broken.get("fab_t", nothing)
    ways = (
        ("random points", "random", first, found.right),
        ("a single step", "fgsm", first, found.right),
        ("random squares", "square", later, found.watched),
    )
    for words, name, climbed, among in ways:
        other = found.broken.get(name, nothing)
        ahead, behind = int((other & ~climbed & among).sum()), int((climbed & ~other & among).sum())
        if ahead > behind and binomtest(ahead, ahead + behind, alternative="greater").pvalue < LEVEL:
            return f"{words} broke {ahead} rows that gradients did not, and gradients {behind} that those did not"
    return ""
