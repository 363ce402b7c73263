"""How far predicted numbers are from the truth."""

from __future__ import annotations

import numpy as np

from assay.registry import probe
from assay.stats import Draws, Estimate, mean, measured, statistic
from assay.values import Array, Better, Measurement


@probe("utility", tasks=("regression",))
def regression_error(labels: Array, predictions: Array, draws: Draws) -> list[Measurement]:
    """Mean absolute error, root mean squared error and share of variance explained.

    Definition: with e = predictions - labels: mean_absolute_error = mean |e|; root_mean_squared_error = sqrt(mean e^2);
        r_squared = 1 - sum e^2 / sum (labels - mean labels)^2.
    Shapes: labels (N,), predictions (N,).
    Direction: errors lower, r_squared higher; errors in the unit of the target, r_squared 1 at best, unbounded below.
    Limits: an errored example (NaN) has no largest error, so with any errored example all three are undefined and the
        reason gives the value over the others. r_squared is undefined when all labels are equal. Heavy tails make the
        interval of the squared error too narrow.
    Source: scikit-learn user guide 3.4.6.1, 3.4.6.2 and 3.4.6.3.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> labels, predictions = np.array([3, -0.5, 2, 7]), np.array([2.5, 0.0, 2, 8])
    >>> draws = make_draws(b"key", "split", [np.zeros(4, dtype=int)])
    >>> [(one.metric, round(one.value, 3)) for one in regression_error(labels, predictions, draws)]
    [('mean_absolute_error', 0.5), ('root_mean_squared_error', 0.612), ('r_squared', 0.949)]
    """
    scored = np.isfinite(predictions) & np.isfinite(labels)
    errors = np.where(scored, predictions, 0.0) - np.where(scored, labels, 0.0).astype(np.float64)
    centred = np.where(scored, labels - labels[scored].astype(np.float64).mean() if scored.any() else 0.0, 0.0)
    sums = draws.sums(np.column_stack([np.abs(errors), errors**2, centred, centred**2, scored]))
    totals, level, num_errored = sums[:, 4], draws.level, len(labels) - int(scored.sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = sums[:, 3] - sums[:, 2] ** 2 / totals
        explained = np.where(spread > 0, 1 - sums[:, 1] / spread, np.nan)
    found: list[tuple[str, str, Better, Estimate]] = [
        ("mean_absolute_error", "target", "lower", mean(sums[:, 0], totals, level=level, bounds=(0.0, None))),
        (
            "root_mean_squared_error",
            "target",
            "lower",
            _root(mean(sums[:, 1], totals, level=level, bounds=(0.0, None))),
        ),
        ("r_squared", "share", "higher", statistic(explained, level=level, bounds=(None, 1.0))),
    ]
    return [
        measured(
            _unless_errored(estimate, num_errored, len(labels)),
            metric,
            unit=unit,
            better=better,
            attempted=len(labels),
            errored=num_errored,
            headline=metric != "mean_absolute_error",
        )
        for metric, unit, better, estimate in found
    ]


def _root(one: Estimate) -> Estimate:
    value, low, high = (None if end is None else float(np.sqrt(end)) for end in (one.value, one.low, one.high))
    replicates = None if one.replicates is None else np.sqrt(one.replicates)
    return Estimate(value, low, high, one.method, replicates, one.reason, one.level)


def _unless_errored(one: Estimate, num_errored: int, num_rows: int) -> Estimate:
    if num_errored:
        rest = f"; over the others it is {one.value:.6g}" if one.value is not None else ""
        reason = f"{num_errored} of {num_rows} examples errored, and their error has no bound{rest}"
    elif one.value is None:
        reason = "all labels are equal" if num_rows else "no examples"
    else:
        return one
    return Estimate(None, None, None, one.method, reason=reason, level=one.level)
