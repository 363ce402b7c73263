"""The share that stays right against every small change, proved: by the vote of the system under Gaussian noise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr

from assay import stats
from assay.estimation.votes import Votes, vote
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate
from assay.values import Array, Measurement, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

NUM_ROWS = {"table": 500, "image": 100}
SIGMA = 0.25  # of a column's standard deviation, or of the pixels' range
SHARES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)  # of sigma: the radii
ALPHA = 0.001
MOST = 4096  # votes a row
AT_ONCE = 8192  # inputs of one call of the model


def most_rows(sizes: Sizes) -> dict[str, int]:
    """At most: every vote of every row; most rows are settled sooner."""
    return {"certified_radius": min(NUM_ROWS[sizes.modality], sizes.num_test) * MOST}


@probe("robustness", cost=most_rows, modalities=("table", "image"), deep=True)
def certified_radius(
    query: Query, draws: Draws, *, sigma: float = SIGMA, alpha: float = ALPHA, num_rows: int | None = None
) -> list[Measurement]:
    r"""Share of examples whose vote under noise is right at every point within a radius, with proof.

    Definition: certified_accuracy at R = mean[$p_y > \Phi(R/\sigma)$ was shown], $p_y$ = P(answer(x + sigma z) = y), z
    standard normal: then the vote answers y at every x' with |x' - x|_2 < R. Units: numeric columns in standard
    deviations of the training rows, pixels in shares of their range; sigma 0.25; R = 0, 0.5, ..., 2.5 sigma. Votes are
    taken until a row's place among the radii is shown (at 0.001 a row, valid whenever one stops), hopeless, or 4,096
    are taken. abstention_rate: neither that the label has more than half of the votes nor that it has less was shown.
    Shapes: at most 500 keyed test rows, 100 pictures; categorical and missing cells get no noise.
    Direction: certified_accuracy higher, abstention_rate lower is better. An abstention counts as wrong; an example
    whose votes all error is errored and wrong.
    Limits: of the vote, not of the bare system (serve the vote to have the certificate); against numeric changes of
    Euclidean length R alone; a lower bound on the vote's robustness; a system not trained under noise votes badly.
    Source: Cohen, Rosenfeld and Kolter 2019, theorem 1 and section 3.2 (there 100,000 votes a row); for stopping early
    Waudby-Smith and Ramdas 2024, section 3 (betting); see `assay.estimation.votes`.

    >>> most_rows(Sizes(num_test=100, num_train=0, num_units=2, num_outputs=2))
    {'certified_radius': 409600}
    """
    rows = query.rows(NUM_ROWS[modality(query.columns)] if num_rows is None else num_rows)
    noise, radii = spread(query), sigma * np.array(SHARES)
    if not (noise > 0).any():
        reason = "no numeric column has a spread to add noise to"
        empty = Estimate(None, None, None, "none", None, reason)
        about: dict[str, Any] = {"unit": "fraction", "better": "higher", "attempted": len(rows)}
        return [stats.measured(empty, "certified_accuracy", slice="radius=0", **about)]
    ask = _Ballot(query, rows, sigma * noise)
    votes = vote(ask, len(rows), ndtr(np.array(SHARES)), alpha=alpha, most=MOST)
    return _report(votes, ask.errored, draws.of(rows), radii=radii, sigma=sigma)


def spread(query: Query) -> Array:
    """What one unit of length is in raw units: standard deviation `(F,)` of training rows, or the pixels' range."""
    if modality(query.columns) == "image":
        column = query.columns[0]
        low, high = 0.0 if column.low is None else column.low, 255.0 if column.high is None else column.high
        return np.full((1, 1, 1), high - low)
    train = query.system.data.splits["train"].inputs.astype(np.float64)
    finite = np.where(np.isfinite(train), train, np.nan)
    numeric = query.numeric & np.isfinite(finite).any(axis=0)
    found = np.zeros(train.shape[1])
    found[numeric] = np.nanstd(finite[:, numeric], axis=0)
    return found


class _Ballot:
    """Answers under noise. Each row has its own stream of noise, the same for every system on this data."""

    def __init__(self, query: Query, rows: Array, noise: Array) -> None:
        self.query, self.rows, self.noise = query, rows, noise.astype(np.float32)
        self.streams = [query.rng(f"smoothing {row}") for row in rows]
        self.errored = np.ones(len(rows), dtype=bool)

    def __call__(self, active: Array, num: int) -> Array:
        at_once = max(1, AT_ONCE // num)
        wins = [self._some(active[begin : begin + at_once], num) for begin in range(0, len(active), at_once)]
        return np.concatenate(wins)

    def _some(self, active: Array, num: int) -> Array:
        query, rows = self.query, np.repeat(self.rows[active], num)
        inputs = query.inputs[self.rows[active]].astype(np.float32)
        shape = inputs.shape[1:]
        drawn = np.stack([self.streams[row].standard_normal((num, *shape), dtype=np.float32) for row in active])
        shaken = (inputs[:, None] + self.noise * drawn).reshape(-1, *shape)
        logits = query.fresh_logits(shaken, batch_size=AT_ONCE)
        system = query.system
        answers = system.decision.decide(system.task.probabilities(logits), shaken, query.groups.take(rows))
        right, failed = (answers == query.labels[rows]).reshape(-1, num), (answers < 0).reshape(-1, num)
        self.errored[active] &= failed.all(axis=1)
        wins: Array = right.sum(axis=1)
        return wins


def _report(votes: Votes, errored: Array, draws: Draws, *, radii: Array, sigma: float) -> list[Measurement]:
    num, used = len(errored), float(votes.num_votes.mean()) if len(errored) else 0.0
    how = f"L2, Gaussian noise {sigma:g}, {used:,.0f} votes a row on average"
    about: dict[str, Any] = {"unit": "fraction", "attempted": num, "errored": int(errored.sum())}
    found = []
    for place, radius in enumerate(radii):
        share = _share(votes.num_shown > place, draws, how)
        slice = f"radius={radius:g}"
        found.append(stats.measured(share, "certified_accuracy", better="higher", slice=slice, **about))
    abstained = (votes.num_shown == 0) & ~votes.is_below & ~errored
    found.append(stats.measured(_share(abstained, draws, how), "abstention_rate", better="lower", **about))
    return found


def _share(hits: Array, draws: Draws, how: str) -> Estimate:
    """Clopper-Pearson bounds over the rows, and replicates from the shared draws so that effects are paired."""
    exact = stats.exact_rate(int(hits.sum()), len(hits), level=draws.level)
    exact = replace(exact, method=f"{exact.method}; {how}")
    if exact.value is None:
        return exact
    counts = draws.counts(hits.astype(np.int64), 2)
    return replace(exact, replicates=stats.rate(counts[:, 1], counts.sum(axis=1)).replicates)
