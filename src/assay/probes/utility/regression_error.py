"""How far predicted numbers are from the truth."""

from __future__ import annotations

import numpy as np

from assay.registry import probe
from assay.stats import Draws, Estimate, measured, statistic
from assay.values import Array, Measurement


@probe("utility", tasks=("regression",))
def regression_error(labels: Array, predictions: Array, draws: Draws) -> list[Measurement]:
    """Mean absolute error, root mean squared error and share of variance explained.

    Definition: with e = predictions - labels: mean_absolute_error = mean |e|; root_mean_squared_error = sqrt(mean e^2);
        r_squared = 1 - sum e^2 / sum (labels - mean labels)^2.
    Shapes: labels (N,), predictions (N,).
    Direction: errors lower, r_squared higher; errors in the unit of the target, r_squared 1 at best, unbounded below.
    Limits: an errored example (NaN) has no largest error, so with any errored example all three are undefined and the
        reason gives the value over the others. r_squared is undefined when all labels are equal. Heavy tails make the
        bootstrap interval of the squared error too narrow.
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
    centred = np.where(scored, labels - labels[scored].mean() if scored.any() else 0.0, 0.0)
    sums = draws.sums(np.column_stack([np.abs(errors), errors**2, centred, centred**2, scored]))
    totals = sums[:, 4]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = sums[:, 3] - sums[:, 2] ** 2 / totals
        values = (
            sums[:, 0] / totals,
            np.sqrt(sums[:, 1] / totals),
            np.where(spread > 0, 1 - sums[:, 1] / spread, np.nan),
        )
    found = []
    num_errored = len(labels) - int(scored.sum())
    for metric, column in zip(("mean_absolute_error", "root_mean_squared_error", "r_squared"), values, strict=True):
        unit, better = ("share", "higher") if metric == "r_squared" else ("target", "lower")
        found.append(
            measured(
                _unless_errored(statistic(column, level=draws.level), num_errored, len(labels)),
                metric,
                unit=unit,
                better=better,  # type: ignore[arg-type]
                attempted=len(labels),
                errored=num_errored,
                headline=metric != "mean_absolute_error",
            )
        )
    return found


def _unless_errored(estimate: Estimate, num_errored: int, num_rows: int) -> Estimate:
    if num_errored == 0:
        if estimate.value is None:
            reason = "all labels are equal" if num_rows else "no examples"
            return Estimate(None, None, None, estimate.method, reason=reason, level=estimate.level)
        return estimate
    rest = f"; over the others it is {estimate.value:.6g}" if estimate.value is not None else ""
    reason = f"{num_errored} of {num_rows} examples errored, and their error has no bound{rest}"
    return Estimate(None, None, None, estimate.method, reason=reason, level=estimate.level)
