"""Four attacks in the order of their price, each on the rows that the ones before could not break.

The attacks are those of AutoAttack (Croce and Hein 2020); the order is not. Most rows break in a few cheap steps, and
most that hold are far from breaking: long searches go to the rows that came nearest, nearest first, until a stretch of
them yields nothing. What broke one row is a good beginning for another: the steps that broke rows are shared, and each
row that holds is climbed again from those that bring it nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import binomtest

from assay.probes.robustness._apgd import FIRST_STEP, Climbed, Climbs, climb, cross_entropy
from assay.probes.robustness._fab import approach
from assay.probes.robustness._scope import Scope
from assay.probes.robustness._square import MOST_AT_ONCE, margins, scatter
from assay.values import Array

MOST_TARGETS = 9  # Croce and Hein 2020, section 6
NEAREST = 3  # classes
SHARED = 3  # steps of other rows that a row is climbed from, a round
MOST_SHARED = 12  # rounds
POOL_OF_FIRST = 2 / 3  # of the shared steps come from the first climbs at most; the others from rows that broke later
STRETCH = 0.1  # of the rows that hold: searched at length in one go
LEAST_STRETCH = 8  # rows
ROUND = 2 * (-1, 0, 0, 1)  # climbs of a row: -1 the loss, 0 towards the class that came nearest, 1 to the next
FURTHER_OFF = 4  # of them for any stretch but the nearest
MOST_ROUNDS = 3  # of a stretch, each from new random starts
PATIENCE = 2  # rounds of shared steps in a row that may yield nothing
RANDOM_TRIES = 10
WATCHED = 50  # rows on which random squares and gradients are compared
LEVEL = 0.05
ROWS_AT_ONCE = 2048
ATTACKS = ("fgsm", "random", "apgd_ce", "shared", "apgd_t", "fab_t", "square")


@dataclass(frozen=True)
class Effort:
    """How many steps and tries each search has."""

    first: int = 25  # the first climb, of every row
    shared: int = 20  # from a step that broke another row
    pool: int = 150  # such steps
    target: int = 20  # towards every class
    full: int = 200  # of the rows that came nearest: those on the edge break late or never
    fab: int = 60
    watched_squares: int = 500
    near_squares: int = 1000  # of the rows that came nearest
    full_squares: int = 5000  # where gradients are masked

    def most_passes(self, num_outputs: int) -> int:
        """Model rows of one row that never breaks, at most."""
        targets, near = min(MOST_TARGETS, num_outputs - 1), min(NEAREST, num_outputs - 1)
        first = 3 + RANDOM_TRIES + 1 + self.first  # answer, slope, one step, random points, first climb
        first += self.pool + MOST_SHARED * SHARED * (1 + self.shared)
        second = targets * (1 + self.target)
        third = MOST_ROUNDS * len(ROUND) * (1 + self.full) + near * (1 + self.fab)
        fourth = 2 + self.watched_squares + max(self.full_squares, self.near_squares)
        return first + second + third + fourth + MOST_AT_ONCE  # the points that break it are asked again alone


# Of a picture as AutoAttack spends them; a table's row has few columns, and its searches end sooner.
EFFORTS = {"image": Effort(), "table": Effort(15, 15, 40, 10, 60, 25, 100, 200, 1000)}


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
    hunt.from_shared_steps()
    hunt.by_target()
    if len(hunt.pool) > hunt.margins.shape[1]:  # there is more to share
        hunt.from_shared_steps(patience=1)
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
    climbs: int = 0  # rounds of random starts so far
    shared_rounds: int = 0
    pool: list[Array] = field(default_factory=list)  # steps (D,) that broke a row
    margins: Array = field(default_factory=lambda: np.empty((0, 0)))  # (M, P) after each of them; -inf: not to be used

    @classmethod
    def begin(cls, scope: Scope, effort: Effort) -> _Hunt:
        """Answers, slopes, one full step along the sign, and random points: one look at every row."""
        everyone, num = np.arange(len(scope.labels)), len(scope.labels)
        logits, wrong = scope.look(np.zeros_like(scope.low), everyone)
        answers, none = scope.answers(logits, scope.inputs, everyone), np.zeros(num, dtype=bool)
        found = Found(~wrong, wrong & (answers < 0), answers, none.copy(), none.copy())
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
        """FGSM and random points on every row that is right; a short climb of the broken ones too: why_masked."""
        scope, right = self.scope, np.flatnonzero(self.found.right)
        nowhere, labels = np.zeros_like(scope.low[right]), scope.labels[right]
        _, slopes, _, _ = scope.slopes(nowhere, right, lambda logits, rows: cross_entropy(logits, labels[rows]))
        can = scope.high[right] > scope.low[right]
        self.found.zero_gradient[right] = ~(can & (slopes != 0)).any(axis=1)
        stepped = scope.clip(scope.radius * scope.steepest(slopes), right)
        _, wrong = scope.look(stepped.astype(np.float32), right)
        self.found.note("fgsm", right, wrong)
        self._random_points(right)
        up = np.full(len(right), -1)
        self._note(right, up, self._climb(right, up, num_steps=self.effort.first).broken)

    def _random_points(self, right: Array) -> None:
        rng, broken, places = self.rng("random points"), np.zeros(len(right), dtype=bool), np.arange(len(right))
        for _ in range(RANDOM_TRIES):
            points = self.scope.random_start(rng, np.arange(len(self.scope.labels)))
            if self.scope.norm == "linf":  # corners
                points = np.where(points > 0, self.scope.high, self.scope.low)
            _, wrong = self.scope.look(points[right[places]], right[places])
            broken[places[wrong]] = True
            places = places[~wrong]
        self.found.note("random", right, broken)

    def _climb(
        self, at: Array, targets: Array, *, num_steps: int, start: Array | None = None, first_step: float = FIRST_STEP
    ) -> Climbed:
        """Climb the rows at `at (J,)` from a random start each, or from `start (J, D)`; what breaks one is shared."""
        self.climbs += start is None
        rng = self.rng(f"climb {self.climbs}")

        def begin(places: Array) -> Array:
            return self.scope.random_start(rng, at[places]) if start is None else start[places]

        climbed = climb(self.scope, Climbs(at, targets, begin), num_steps=num_steps, first_step=first_step)
        most = self.effort.pool if self.pool else int(POOL_OF_FIRST * self.effort.pool)
        self.pool += list(climbed.steps[climbed.broken][: max(0, most - len(self.pool))])
        return climbed

    def _note(self, at: Array, targets: Array, broken: Array) -> None:
        """Of climbs from random starts and from their highest points."""
        for name, which in (("apgd_ce", targets < 0), ("apgd_t", targets >= 0)):
            if which.any():
                self.found.note(name, at[which], broken[which])

    def from_shared_steps(self, *, patience: int = PATIENCE) -> None:
        """Climb each row that holds from the shared steps that bring it nearest, until that breaks no more."""
        dry = 0
        while len(self.pool) and self.shared_rounds < MOST_SHARED and dry < patience:
            self.shared_rounds += 1
            active = self._try_shared_steps()
            if not len(active):
                break
            order = np.argsort(-self.margins[active], axis=1, kind="stable")[:, :SHARED].T
            use = np.isfinite(np.take_along_axis(self.margins[active].T, order, axis=0))
            at, chosen = np.tile(active, len(order))[use.ravel()], order[use]
            start = self.scope.clip(np.array(self.pool)[chosen], at)
            self.margins[at, chosen] = -np.inf
            before = len(active)
            climbed = self._climb(at, np.full(len(at), -1), num_steps=self.effort.shared, start=start)
            self.found.note("shared", at, climbed.broken)
            dry = dry + 1 if len(self.holding()) == before else 0

    def _try_shared_steps(self) -> Array:
        """Look at each row that holds after each new shared step; the rows that still hold."""
        active, done = self.holding(), self.margins.shape[1]
        new = np.array(self.pool[done:], dtype=np.float32).reshape(-1, self.scope.low.shape[1])
        self.margins = np.pad(
            self.margins, ((0, len(self.scope.labels) - len(self.margins)), (0, len(new))), constant_values=-np.inf
        )
        broken = np.zeros(len(active), dtype=bool)
        together = max(1, ROWS_AT_ONCE // max(1, len(new)))
        for begin in range(0, len(active) if len(new) else 0, together):
            here = active[begin : begin + together]
            at = np.repeat(here, len(new))
            logits, wrong = self.scope.look(self.scope.clip(np.tile(new, (len(here), 1)), at), at)
            broken[begin : begin + together] = wrong.reshape(len(here), -1).any(axis=1)
            self.margins[here, done:] = -margins(logits, self.scope.labels[at]).reshape(len(here), -1)
        self.found.note("shared", active, broken)
        return active[~broken]

    def by_target(self) -> None:
        """A few steps towards every class, and which of them came nearest."""
        num_targets, active = self.targets.shape[1], self.holding()
        at, targets = np.tile(active, num_targets), self.targets[active].T.ravel()
        climbed = self._climb(at, targets, num_steps=self.effort.target)
        self._note(at, targets, climbed.broken)
        values = np.full(self.targets.shape, -np.inf)
        values[active] = climbed.values.reshape(num_targets, -1).T
        order = np.argsort(-values, axis=1, kind="stable")
        self.targets = np.take_along_axis(self.targets, order, axis=1)
        self.near = np.take_along_axis(values, order, axis=1)[:, 0]

    def at_length(self) -> None:
        """Rounds of full climbs of the rows that came nearest, stretch by stretch, until one of them holds whole."""
        for number, active in enumerate(self._stretches()):
            before, classes = len(self.holding()), ROUND if number == 0 else ROUND[:FURTHER_OFF]
            self._to_the_boundary(active)
            for _ in range(MOST_ROUNDS):
                start = len(self.holding())
                self._round(active, classes)
                if len(self.holding()) == start:
                    break
            if len(self.holding()) == before:
                break

    def _round(self, active: Array, classes: tuple[int, ...]) -> None:
        """Climb the loss, and towards the two nearest classes, from new random starts."""
        active = active[self.found.holds[active]]
        places = [min(place, self.targets.shape[1] - 1) for place in classes]
        targets = np.concatenate(
            [self.targets[active, place] if place >= 0 else np.full(len(active), -1) for place in places]
        )
        at = np.tile(active, len(places))
        self._note(at, targets, self._climb(at, targets, num_steps=self.effort.full).broken)

    def _to_the_boundary(self, active: Array) -> None:
        active = active[self.found.holds[active]]
        num_near = min(NEAREST, self.targets.shape[1])
        at, targets = np.tile(active, num_near), self.targets[active, :num_near].T.ravel()
        self.found.note("fab_t", at, approach(self.scope, at, targets=targets, num_steps=self.effort.fab))

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
    later = first.copy()
    for name in ("shared", "apgd_t", "fab_t"):
        later |= found.broken.get(name, nothing)
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
