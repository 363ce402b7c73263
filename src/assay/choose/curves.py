"""Learning curves: what a model reaches with a part of the rows, and what more rows would bring."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np

from assay.stats import Draws, Estimate, mean
from assay.values import Array

Advice = Literal["more data", "a bigger model", "neither", "unclear"]


@dataclass(frozen=True)
class Point:
    """One point of a learning curve: rows trained on, and the metric on the validation rows with its interval."""

    num_rows: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Outlook:
    """What twice the rows, or the best bigger model, would change in the metric, with intervals; and what to do."""

    advice: Advice
    more_data: Point | None
    bigger_model: Point | None
    reason: str


def doubling(draws: Draws, sizes: list[int], gains: list[Array]) -> Estimate:
    r"""Expected change of the mean gain with twice the rows, from the last three points of a learning curve.

    With $\Delta_1, \Delta_2$ the changes of the last two steps, each by a factor $q$ of rows, the changes are taken to
    go on shrinking as they did: error $a + b n^{-c}$ has $\Delta_2/\Delta_1 = q^{-c}$, and a doubling then adds
    $\Delta_2 (1 - 2^{-c})/(q^{c} - 1)$. The ratio is held in [0.05, 1]; at 1 a doubling adds $\Delta_2 \log 2/\log q$.
    The interval is over the validation rows, paired. Limits: three points, one seed each: no interval for the seed.
    Source: Hestness et al. 2017 (arXiv 1712.00409), section 3 (power-law learning curves).
    """
    columns = np.column_stack(gains[-3:])
    sums = draws.sums(columns) / len(columns)
    first, second = (sums[:, 1] - sums[:, 0])[:, None], (sums[:, 2] - sums[:, 1])[:, None]
    q = (sizes[-1] / sizes[-3]) ** 0.5
    # One ratio, from what was observed: that of a noisy replicate may be anything.
    ratio = float(np.clip(second[0, 0] / first[0, 0], 0.05, 1.0)) if first[0, 0] > 0 else 1.0
    exponent = -log(ratio) / log(q)
    share = log(2) / log(q) if exponent < 1e-6 else (1 - 2**-exponent) / (q**exponent - 1)
    return mean(share * second[:, 0] * len(columns), np.full(len(second), float(len(columns))), level=draws.level)


def outlook(more: Estimate | None, bigger: Estimate | None, *, margin: float) -> tuple[Advice, str]:
    """What helps more: the one whose gain is shown to be above the margin, and above the other's where both are.

    >>> outlook(None, None, margin=0.0)[0]
    'unclear'
    """
    helps = [one is not None and one.low is not None and one.low > margin for one in (more, bigger)]
    cannot = [one is None or (one.high is not None and one.high <= max(margin, 0.0)) for one in (more, bigger)]
    if more is None and bigger is None:
        return "unclear", "no learning curve of three points and no bigger model was measured"
    if helps[0] and more is not None:
        other = bigger.high if bigger is not None and bigger.high is not None else 0.0
        if more.low is not None and more.low > other:
            return "more data", "twice the rows would bring more than any bigger model that was tried"
        if not helps[1]:
            return "more data", "twice the rows would help, and no bigger model is shown to"
    if helps[1]:
        return "a bigger model", "a bigger model is shown to be better, and twice the rows are not shown to bring more"
    if all(cannot):
        return "neither", "neither twice the rows nor a bigger model would change the metric by more than the margin"
    return "unclear", "the validation rows are too few to tell what would help"
