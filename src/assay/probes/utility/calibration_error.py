"""Whether what is called 80 % likely happens 80 % of the time."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from assay.registry import probe
from assay.stats import Draws, Estimate, mean, measured, rate, statistic
from assay.values import Array, Measurement, Task


@probe("utility")
def calibration_error(
    labels: Array, probabilities: Array, predictions: Array, task: Task, draws: Draws, *, num_bins: int = 15
) -> list[Measurement]:
    """Mean distance between stated and observed frequency, less the distance that chance alone would show.

    Definition: rows sorted by stated probability c into at most 15 bins of equal mass; gap_b = |mean c - mean h|, h = 1
        where it happened. calibration_error = 2 sum_b w_b gap_b - sum_b w_b E|N(gap_b, v_b)|, v_b = h(1 - h) / (n_b - 1);
        root_mean_square_calibration_error = sqrt(sum_b w_b (gap_b^2 - v_b)); both at least 0. Two classes: c is the
        probability of the positive class. More: of the answer given. An errored example has gap 1.
    Shapes: labels (N,), probabilities (N, K), predictions (N,).
    Direction: lower is better; unit share, 0 to 1.
    Limits: what cancels within a bin is not seen, so the true error may be larger; classes other than the one answered
        are not looked at. Bin values (slice "bin=03") are for drawing, each with an interval of its own.
    Source: Kumar, Liang & Ma (2019), sections 4 and 5 and their code (debiased l1 and l2); equal mass: Roelofs et
        al. (2022).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, chance = np.tile([0, 0, 0, 1], 100), np.full(400, 0.75)
    >>> task, draws = Classification(("no", "yes")), make_draws(b"key", "split", [labels])
    >>> found = calibration_error(labels, np.column_stack([1 - chance, chance]), labels, task, draws)
    >>> round(found[0].value, 3)
    0.5
    """
    errored = ~np.isfinite(probabilities).all(axis=1) | (predictions < 0)
    stated, happened = _claims(labels, probabilities, predictions, task.positive_index)
    stated, happened = np.where(errored, 1.0, stated), np.where(errored, 0.0, happened)
    bins, num = _equal_mass(stated, errored, num_bins)
    member = (bins[:, None] == np.arange(num + 1)).astype(np.float64)
    sums = draws.sums(np.concatenate([member, member * happened[:, None], member * stated[:, None]], axis=1))
    rows, hits, claims = np.split(sums, 3, axis=1)
    average, square = _debiased(rows, hits, claims)
    level, failed = draws.level, int(errored.sum())
    rows_of = [(len(labels), failed)] * 2 + [(int(total), 0) for total in np.repeat(rows[0, :num], 2)]
    found = [("calibration_error", "", _recentred(average, 1.0, level))]
    found.append(("root_mean_square_calibration_error", "", _recentred(square, 0.5, level)))
    for b in range(num):
        found.append(("mean_confidence", f"bin={b:02d}", mean(claims[:, b], rows[:, b], level=level)))
        found.append(("observed_frequency", f"bin={b:02d}", rate(hits[:, b], rows[:, b], level=level)))
    return [
        measured(
            estimate,
            metric,
            unit="share",
            better="neither" if where else "lower",
            slice=where,
            attempted=attempted,
            errored=num_errored,
            headline=metric == "calibration_error",
        )
        for (metric, where, estimate), (attempted, num_errored) in zip(found, rows_of, strict=True)
    ]


def _claims(labels: Array, probabilities: Array, predictions: Array, positive: int | None) -> tuple[Array, Array]:
    """What was said to be how likely `(N,)`, and whether it happened `(N,)`."""
    if positive is not None:
        return probabilities[:, positive].astype(np.float64), (labels == positive).astype(np.float64)
    stated = probabilities[np.arange(len(labels)), np.maximum(predictions, 0)]
    return stated.astype(np.float64), (labels == predictions).astype(np.float64)


def _equal_mass(stated: Array, errored: Array, num_bins: int) -> tuple[Array, int]:
    """Bins `(N,)` of equal mass, at least 20 rows each, equal values together; errored rows in one more, the last."""
    scored = stated[~errored]
    num = min(num_bins, max(1, len(scored) // 20))
    edges = np.quantile(scored, np.arange(1, num) / num) if len(scored) else np.zeros(0)
    bins = np.full(len(stated), -1)
    names, bins[~errored] = np.unique(np.searchsorted(edges, scored), return_inverse=True)
    return np.where(errored, len(names), bins), len(names)


def _debiased(rows: Array, hits: Array, claims: Array) -> tuple[Array, Array]:
    """Average gap and mean squared gap under each draw `(1+B,)`, less what binomial noise adds to them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = rows / rows.sum(axis=1, keepdims=True)
        frequency = np.where(rows > 0, hits / rows, 0.0)
        gaps = np.where(rows > 0, np.abs(claims / rows - frequency), 0.0)
    noise = np.sqrt(frequency * (1 - frequency) / np.maximum(rows - 1, 1))
    standard = gaps / np.maximum(noise, 1e-12)
    # mean of |N(gap, noise^2)|: the folded normal distribution
    folded = noise * np.sqrt(2 / np.pi) * np.exp(-(standard**2) / 2) + gaps * (1 - 2 * ndtr(-standard))
    return (weights * (2 * gaps - folded)).sum(axis=1), (weights * (gaps**2 - noise**2)).sum(axis=1)


def _recentred(values: Array, power: float, level: float) -> Estimate:
    """Interval from replicates moved to the estimate: each replicate adds the binomial noise a second time."""
    found = statistic(np.append(values[:1], values[1:] + (values[0] - values[1:].mean())), level=level)
    if found.value is None or found.low is None or found.high is None or found.replicates is None:
        return found
    value, low, high = (max(0.0, number) ** power for number in (found.value, found.low, found.high))
    replicates = np.maximum(0.0, found.replicates) ** power
    return Estimate(value, low, high, "recentred bootstrap", replicates, "", level)
