"""Successive halving: every candidate on few rows, the better ones on more, the last few on all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt

import numpy as np
from scipy import stats as distributions

from assay.choose.budget import Budget, Costs, costs_of
from assay.choose.candidates import Candidate, candidates_for
from assay.choose.curves import Advice, Outlook, Point, doubling, outlook
from assay.choose.gains import Target, check_target, gains
from assay.data.splits import keyed_hash
from assay.errors import Problem, UsageError
from assay.stats import Draws, Estimate, make_draws, mean
from assay.tasks import task_of
from assay.train.streams import check_seed
from assay.values import Array, Data, Model, Progress, digest_of, quiet

__all__ = ["Advice", "Budget", "Choice", "Outlook", "Point", "Row", "Target", "choose"]

SHARES = (1 / 9, 1 / 3, 1.0)
KEEP = 3  # one in KEEP goes on
MIN_ROWS = 200  # fewer training rows than this say nothing about a larger set
NUM_SEEDS = 2  # of the last candidates
FINALISTS = 4
LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """One candidate: what it costs, its learning curve, how far it came, and why it went no further."""

    name: str
    costs: Costs
    curve: tuple[Point, ...] = ()
    behind: Point | None = None  # how much worse than the best at the end, with its interval
    fate: str = ""


@dataclass(frozen=True)
class Choice:
    """The chosen candidate and model, every candidate's row, and what would help more."""

    candidate: Candidate
    model: Model
    metric: str
    rows: tuple[Row, ...]
    outlook: Outlook
    seconds: float
    reason: str
    is_partial: bool = False  # the minutes ran out


@dataclass
class _Search:
    """What changes while candidates are tried."""

    data: Data
    target: Target
    draws: Draws
    seed: int
    order: Array  # (N,) the training rows, in the order in which they are added
    costs: dict[str, Costs] = field(default_factory=dict)
    found: dict[str, list[tuple[int, Array]]] = field(default_factory=dict)  # name: (rows, gains (V,)) of each rung
    seeds: dict[str, list[Array]] = field(default_factory=dict)  # name: gains of each seed on all rows
    models: dict[str, Model] = field(default_factory=dict)
    fate: dict[str, str] = field(default_factory=dict)

    def train(self, candidate: Candidate, share: float, seed: int) -> tuple[int, Array]:
        """Rows trained on, and the gains on the validation rows."""
        train, validation = self.data.splits["train"], self.data.splits["validation"]
        num = max(1, round(share * len(train)))
        split = train if num == len(train) else train.take(np.sort(self.order[:num]))
        fitted = candidate.recipe(self.data, share=share).fit(split, self.data, seed)
        if num == len(train):
            self.models.setdefault(candidate.name, fitted.model)
        return num, gains(self.target, fitted.model, validation, task_of(self.data))


def choose(
    data: Data,
    *,
    target: Target,
    budget: Budget | None = None,
    candidates: Sequence[Candidate] | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> Choice:
    """The cheapest candidate that is not significantly worse than the best, on the validation rows; test is not read.

    Candidates over the budget are left out before any training. The others train on 1/9, 1/3 and all of the training
    rows; after each rung one in three goes on, and those that cannot be told from the best, up to half. The last few
    train with two seeds. A candidate is eligible when the interval of (best - candidate), paired by row, holds for
    both the rows drawn and the seed, and shared over all comparisons, has its lower end at or below the margin.
    Limits: a candidate that only shines on many rows can be dropped early; the validation rows are used for every
    choice, so the chosen model's value there is too good by a little: audit it on test; when the minutes run out, the
    chosen model is still trained on all rows, and intervals may lack the seeds (`is_partial`). Source: Jamieson and
    Talwalkar 2016 (successive halving), section 3. Raises UsageError when nothing fits the budget, data are too few,
    or the seed is not 0 to 2^32 - 1.
    """
    started, budget = time.perf_counter(), budget or Budget()
    check_target(target, task_of(data))
    check_seed(seed)
    tried = tuple(candidates_for(data) if candidates is None else candidates)
    search = _prepare(data, target, tried, seed)
    left = _within(search, tried, budget)
    shares = [share for share in SHARES if share == 1 or share * len(search.order) >= MIN_ROWS]
    deadline = started + 60 * budget.minutes if budget.minutes is not None else np.inf
    is_late = False
    for rung, share in enumerate(shares):
        for place, candidate in enumerate(left):
            progress(f"{share:.0%} of the rows: {candidate.name}", place, len(left))
            search.found.setdefault(candidate.name, []).append(search.train(candidate, share, seed))
            is_late = time.perf_counter() > deadline
            if is_late:
                break
        left = _survivors(search, [one for one in left if len(search.found.get(one.name, ())) == rung + 1], budget)
        if is_late or share == 1:
            break
        left = _halve(search, left, share)
    for candidate in left[FINALISTS:]:
        search.fate[candidate.name] = f"behind the best {FINALISTS}"
    finalists = left[:FINALISTS]
    is_late = is_late or not _again(search, finalists, deadline, progress)
    return _decide(search, (tried, finalists), budget, time.perf_counter() - started, is_late=is_late)


def _prepare(data: Data, target: Target, tried: Sequence[Candidate], seed: int) -> _Search:
    wrong = []
    for name in ("train", "validation"):
        if len(data.splits.get(name, ())) < 30:
            wrong.append(Problem(f"the {name} split has {len(data.splits.get(name, ()))} rows", "30 or more"))
    names = [one.name for one in tried]
    wrong += [
        Problem(f"two candidates are named {name!r}", "a name each") for name in {*names} if names.count(name) > 1
    ]
    if not names:
        wrong.append(Problem("there is no candidate", "at least one"))
    if wrong:
        raise UsageError(wrong)
    train, validation = data.splits["train"], data.splits["validation"]
    codes = [validation.labels] if data.classes else [np.zeros(len(validation), dtype=np.int64)]
    key = digest_of(["choose", validation.digest]).encode()
    draws = make_draws(key, validation.digest, codes, num_draws=1000, level=LEVEL)
    return _Search(data, target, draws, seed, np.argsort(keyed_hash(train.rows, seed), kind="stable"))


def _within(search: _Search, tried: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Candidates within the budget, cheapest first. Raises UsageError when there is none."""
    data, kept = search.data, []
    few = data.splits["train"].take(np.sort(search.order[:2000]))
    for candidate in tried:
        module = candidate.recipe(data).make_module(few, data, search.seed)
        costs = costs_of(module, data.columns, few.inputs)
        search.costs[candidate.name] = costs
        refused = budget.refuses(costs)
        if refused:
            search.fate[candidate.name] = f"over the budget: {refused}"
        else:
            kept.append(candidate)
    if not kept:
        told = "; ".join(f"{name}: {why}" for name, why in search.fate.items())
        raise UsageError(
            Problem(f"no candidate fits the budget ({told})", next="Raise the budget, or name smaller ones")
        )
    return sorted(kept, key=lambda one: search.costs[one.name].by(budget.order))


def _survivors(search: _Search, left: list[Candidate], budget: Budget) -> list[Candidate]:
    """Best first; equal ones by cost."""
    last = {one.name: float(search.found[one.name][-1][1].mean()) for one in left}
    return sorted(left, key=lambda one: (-last[one.name], search.costs[one.name].by(budget.order)))


def _halve(search: _Search, left: list[Candidate], share: float) -> list[Candidate]:
    """The best third, and those that cannot be told from the best, up to half (at least two)."""
    sure, most = max(1, ceil(len(left) / KEEP)), max(2, ceil(len(left) / 2))
    best = search.found[left[0].name][-1][1]
    kept = []
    for place, candidate in enumerate(left):
        lag = _mean(search.draws, best - search.found[candidate.name][-1][1])
        close = lag.low is None or lag.low <= search.target.margin
        if place < sure or (place < most and close):
            kept.append(candidate)
        else:
            search.fate[candidate.name] = f"dropped after {share:.0%} of the rows"
    return kept


def _again(search: _Search, left: list[Candidate], deadline: float, progress: Progress) -> bool:
    """Train each with the other seeds; whether there was time for all. Only whole rounds count: seeds are paired."""
    for candidate in left:
        search.seeds[candidate.name] = [search.found[candidate.name][-1][1]]
    for extra in range(1, NUM_SEEDS):
        more: dict[str, Array] = {}
        for place, candidate in enumerate(left):
            if time.perf_counter() > deadline:
                return False
            progress(f"another seed: {candidate.name}", place, len(left))
            more[candidate.name] = search.train(candidate, 1.0, search.seed + extra)[1]
        for name, found in more.items():
            search.seeds[name].append(found)
    return True


def _mean(draws: Draws, values: Array, level: float = LEVEL) -> Estimate:
    sums = draws.sums(np.column_stack([values, np.ones(len(values))]))
    return mean(sums[:, 0], sums[:, 1], level=level)


def _lag(search: _Search, best: str, other: str, num: int) -> Point:
    """How much worse than the best: the interval covers the rows and the seeds, shared over `num` comparisons."""
    ours, theirs = (np.mean(search.seeds.get(name) or [search.found[name][-1][1]], axis=0) for name in (best, other))
    level = 1 - (1 - LEVEL) / max(num, 1)
    found = _mean(search.draws, ours - theirs, level)
    if found.value is None or found.low is None or found.high is None or best == other:
        return Point(len(search.order), found.value or 0.0, found.low, found.high)
    spread = _seed_half_width(search, level)
    below, above = found.value - found.low, found.high - found.value
    return Point(
        len(search.order),
        found.value,
        found.value - sqrt(below**2 + spread**2),
        found.value + sqrt(above**2 + spread**2),
    )


def _seed_half_width(search: _Search, level: float) -> float:
    """Of a difference between two means over seeds: t s sqrt(2 / S), s pooled over the finalists; 0 without seeds."""
    means = [[float(one.mean()) for one in found] for found in search.seeds.values() if len(found) > 1]
    freedom = sum(len(found) - 1 for found in means)
    if not freedom:
        return 0.0
    pooled = sqrt(sum(float(np.var(found, ddof=1)) * (len(found) - 1) for found in means) / freedom)
    return float(distributions.t.ppf((1 + level) / 2, freedom)) * pooled * sqrt(2 / len(means[0]))


def _decide(
    search: _Search,
    candidates: tuple[Sequence[Candidate], list[Candidate]],
    budget: Budget,
    seconds: float,
    *,
    is_late: bool,
) -> Choice:
    tried, finalists = candidates
    value = {one.name: _final(search, one.name) for one in finalists}
    best = max(finalists, key=lambda one: value[one.name])
    behind = {one.name: _lag(search, best.name, one.name, len(finalists) - 1) for one in finalists}
    margin = search.target.margin
    eligible = [one for one in finalists if (low := behind[one.name].low) is None or low <= margin]
    chosen = min(eligible, key=lambda one: (search.costs[one.name].by(budget.order), -value[one.name]))
    for one in finalists:
        close = one in eligible
        search.fate[one.name] = "worse than the best" if not close else "as good as the best, and dearer"
    search.fate[best.name] = "the best"
    search.fate[chosen.name] = "chosen" if chosen is not best else "chosen; the best"
    rows = tuple(_row(search, one.name, behind.get(one.name)) for one in tried)
    reason = f"{chosen.name} is the cheapest by {budget.order} that is not shown to be worse than {best.name}"
    reason += f" by more than {margin:g}" if margin else ""
    reason = f"{chosen.name} is the best, and the cheapest of those as good" if chosen is best else reason
    if is_late:
        reason += "; the minutes ran out, so not every candidate was trained on all rows and with every seed"
    model = search.models.get(chosen.name)
    if model is None:
        data = search.data
        model = chosen.recipe(data).fit(data.splits["train"], data, search.seed).model
    told = _outlook(search, chosen, finalists, budget)
    return Choice(chosen, model, search.target.metric, rows, told, seconds, reason, is_late)


def _final(search: _Search, name: str) -> float:
    found = search.seeds.get(name) or [search.found[name][-1][1]]
    return float(np.mean([one.mean() for one in found]))


def _row(search: _Search, name: str, behind: Point | None) -> Row:
    sign, points = search.target.sign, []
    for num, found in search.found.get(name, ()):
        value = _mean(search.draws, sign * found)
        points.append(Point(num, value.value or 0.0, value.low, value.high))
    return Row(name, search.costs[name], tuple(points), behind, search.fate.get(name, "not reached in time"))


def _outlook(search: _Search, chosen: Candidate, finalists: Sequence[Candidate], budget: Budget) -> Outlook:
    curve = search.found[chosen.name]
    more = doubling(search.draws, [num for num, _ in curve], [found for _, found in curve]) if len(curve) >= 3 else None
    costs: Mapping[str, Costs] = search.costs
    size = costs[chosen.name].by(budget.order)
    larger = [one for one in finalists if costs[one.name].by(budget.order) > size]
    bigger = None
    if larger:
        top = max(larger, key=lambda one: _final(search, one.name))
        lag = _lag(search, top.name, chosen.name, len(larger))
        bigger = Estimate(lag.value, lag.low, lag.high, "paired difference", None)
    advice, reason = outlook(more, bigger, margin=search.target.margin)
    points = [
        None if one is None else Point(curve[-1][0], one.value or 0.0, one.low, one.high) for one in (more, bigger)
    ]
    return Outlook(advice, points[0], points[1], reason)
