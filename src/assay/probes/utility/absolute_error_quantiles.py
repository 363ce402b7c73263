"""How far off the usual prediction is, and how far the bad ones."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from assay.registry import probe
from assay.stats import Draws, Estimate, measured
from assay.values import Array, Measurement

QUANTILES = (0.5, 0.9)
NUM_STEPS = 64  # of the distribution, for the draws
METHOD = "order statistics, binomial"


@probe("utility", tasks=("regression",))
def absolute_error_quantiles(labels: Array, predictions: Array, draws: Draws) -> list[Measurement]:
    """The absolute error that half of the rows, and nine in ten, do not exceed.

    Definition: absolute_error_quantile, slice "q=0.50" and "q=0.90" = quantile q of |predictions - labels|, linear
        between order statistics. An errored example (NaN) counts as larger than any error.
    Shapes: labels (N,), predictions (N,).
    Direction: lower is better; in the unit of the target.
    Limits: says nothing about errors beyond the quantile. With few rows there is no upper limit: the largest error
        seen need not exceed the quantile. Undefined where errored examples reach down to the quantile.
    Source: scikit-learn user guide 3.4.6.5 (median absolute error); David & Nagaraja (2003), section 7.1 (interval).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> draws = make_draws(b"key", "split", [np.zeros(5, dtype=int)])
    >>> found = absolute_error_quantiles(np.zeros(5), np.array([1.0, -2, 3, 4, -10]), draws)
    >>> found[0].value
    3.0
    """
    failed = ~(np.isfinite(predictions) & np.isfinite(labels))
    errors = np.where(failed, np.inf, np.abs(predictions.astype(np.float64) - labels))
    ordered = np.sort(errors)
    found = []
    for q in QUANTILES:
        one = _estimate(errors, ordered, q, draws)
        found.append(
            measured(
                one,
                "absolute_error_quantile",
                unit="target",
                better="lower",
                slice=f"q={q:.2f}",
                attempted=len(labels),
                errored=int(failed.sum()),
            )
        )
    return found


def _estimate(errors: Array, ordered: Array, q: float, draws: Draws) -> Estimate:
    num, level = len(ordered), draws.level
    at = q * (num - 1)
    if not num or not np.isfinite(ordered[int(np.ceil(at))]):
        reason = "errored examples reach down to the quantile" if num else "no examples"
        return Estimate(None, None, None, METHOD, reason=reason, level=level)
    below, above = ordered[int(at)], ordered[int(np.ceil(at))]
    value = float(below + (at - int(at)) * (above - below))
    # Rows below the true quantile are binomial: between order statistics l and u with the chance asked for.
    tail = (1 - level) / 2
    first, last = int(binom.ppf(tail, num, q)), int(binom.ppf(1 - tail, num, q)) + 1
    low = float(ordered[first - 1]) if first >= 1 else 0.0
    high = float(ordered[last - 1]) if last <= num else np.inf
    replicates = value + _moved(errors, ordered, q, draws)
    if not np.isfinite(high):
        reason = "no upper limit: too few rows lie beyond the quantile"
        return Estimate(value, min(low, value), None, METHOD, replicates, reason, level)
    return Estimate(value, min(low, value), max(high, value), METHOD, replicates, "", level)


def _moved(errors: Array, ordered: Array, q: float, draws: Draws) -> Array:
    """How far the quantile moves in each draw `(B,)`: from counts between steps of the errors, linear within one."""
    finite = ordered[np.isfinite(ordered)]
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, NUM_STEPS + 1)))
    codes = np.searchsorted(edges, errors, side="left")
    share = draws.counts(codes, len(edges) + 1)[:, :-1].cumsum(axis=1) / max(1, len(errors))
    place = np.minimum((share < q).sum(axis=1), len(edges) - 1)
    before = np.maximum(place - 1, 0)
    rows = np.arange(len(share))
    step = share[rows, place] - share[rows, before]
    part = np.divide(q - share[rows, before], step, out=np.zeros_like(step), where=step > 0).clip(0, 1)
    quantile = edges[before] + part * (edges[place] - edges[before])
    moved: Array = quantile[1:] - quantile[0]
    return moved
