"""Is a class's share of an endless vote above a bound? Answered after as few votes as the case needs.

Votes come one by one with an unknown chance p. Against p <= p0 a wealth is kept that cannot grow on average when that
is so; once it has passed 1 / alpha at any time, p > p0 is shown, and that errs with a chance of at most alpha, however
the time to look and to stop was chosen (Ville's inequality). Bounds in rising order need no correction for their
number: one is only shown after those below, so the first false one must be shown for any false claim to be made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincc, betaln

from assay.values import Array

PRIOR = (1.0, 0.5)  # Beta, cut to (p0, 1]: how the second half of the stake is spread over what p may be
HOPELESS = 0.01  # a row is given up when p is shown to be below its next bound by this; errors cost power alone
FIRST = 32  # votes of the first look
GROWTH = 1.25  # of the votes, from look to look
Ask = Callable[[Array, int], Array]  # (rows (A,), votes each) -> how many of them were for the row's class (A,)


def log_wealth(wins: Array, losses: Array, bound: Array | float) -> Array:
    r"""Log of the wealth against p <= p0 after `wins` and `losses (A,)`, from a stake of 1; one bound p0, or `(A,)`.

    Half is bet on winning always, $p_0^{-n}$ until the first loss: then $\ln(\alpha/2)/\ln p_0$ votes suffice, hardly
    more than the $\ln\alpha/\ln p_0$ that no method can do without. Half is spread over all $p > p_0$, $\int p^s(1-p)^f
    w(p)\,dp \,/\, p_0^s(1-p_0)^f$. Each ratio grows on average by at most 1 for every p <= p0, so their mixture does.

    >>> round(float(log_wealth(np.array([44]), np.array([0]), 0.8413)[0]), 2)  # 1 / 0.001 is 6.91
    7.2
    """
    wins, losses = np.asarray(wins, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    first, second = PRIOR
    with np.errstate(divide="ignore"):
        held = np.log(betaincc(wins + first, losses + second, bound)) - np.log(betaincc(first, second, bound))
    null = wins * np.log(bound) + losses * np.log1p(-bound)
    spread = betaln(wins + first, losses + second) - betaln(first, second) + held - null
    always = np.where(losses == 0, -wins * np.log(bound), -np.inf)
    found: Array = np.logaddexp(always, spread) - np.log(2)
    return found


@dataclass(frozen=True)
class Votes:
    """What was shown of each of N rows `(N,)`."""

    num_shown: Array  # how many of the bounds, in rising order, the share lies above
    is_below: Array  # bool: shown to lie below the first bound
    num_votes: Array


def vote(ask: Ask, num_rows: int, bounds: Array, *, alpha: float, most: int) -> Votes:
    """Take votes until each row's place among the rising `bounds (m,)` is shown, hopeless, or `most` are taken.

    Every claim about a row errs with a chance of at most `alpha` (that it lies below the first bound: another alpha).
    Which class a row's votes are counted for must be fixed before, or come from votes that are not counted here.

    >>> found = vote(lambda rows, num: np.full(len(rows), num), 3, np.array([0.5, 0.8413]), alpha=0.001, most=1000)
    >>> found.num_shown.tolist(), found.num_votes.tolist()
    ([2, 2, 2], [50, 50, 50])
    """
    num_shown, is_below = np.zeros(num_rows, dtype=np.int64), np.zeros(num_rows, dtype=bool)
    wins, taken = np.zeros(num_rows, dtype=np.int64), np.zeros(num_rows, dtype=np.int64)
    active, total = np.arange(num_rows), 0
    while len(active) and total < most:
        look = min(most, max(FIRST, int(np.ceil(total * GROWTH))))
        wins[active] += ask(active, look - total)
        taken[active] = total = look
        for place, bound in enumerate(bounds):
            ready = active[num_shown[active] == place]
            shown = log_wealth(wins[ready], total - wins[ready], float(bound)) >= -np.log(alpha)
            num_shown[ready[shown]] += 1
        nearest = bounds[np.minimum(num_shown[active], len(bounds) - 1)]
        first, below = num_shown[active] == 0, log_wealth(total - wins[active], wins[active], 1 - nearest)
        is_below[active[first & (below >= -np.log(alpha))]] = True
        given_up = np.where(first, below >= -np.log(alpha), below >= -np.log(HOPELESS))
        active = active[~given_up & (num_shown[active] < len(bounds))]
    return Votes(num_shown, is_below, taken)
