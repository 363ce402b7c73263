"""Whether what is called 80 % likely happens 80 % of the time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import ndtr

from assay.probes.utility._classes import named_classes, share
from assay.probes.utility._kernel import kernel_errors
from assay.registry import ANY_CLASSES, probe
from assay.stats import Draws, Estimate, mean, rate, statistic
from assay.values import Array, Measurement, Task

MOST_CLASSES = 20  # looked at one by one
_CHUNK = 1 << 22  # numbers held at a time: memory must not grow with the rows


@probe("utility", tasks=ANY_CLASSES, version=2)
def calibration_error(
    labels: Array, probabilities: Array, predictions: Array, task: Task, draws: Draws, *, num_bins: int = 15
) -> list[Measurement]:
    """Mean distance between stated and observed frequency, less the distance that chance alone would show.

    Definition: rows sorted by stated probability c into at most 15 bins of equal mass; gap_b = |mean c - mean h|, h = 1
        where it happened, v_b = h(1 - h) / (n_b - 1). calibration_error = sqrt(sum_b w_b (gap_b^2 - v_b)), the debiased
        root mean square; expected_calibration_error = 2 sum_b w_b gap_b - sum_b w_b E|N(gap_b, v_b)|; both at least 0.
        Two classes: c is the probability of the positive class. More: of the answer given. One without an answer
        (errored, refused) is a bin with gap 1. Of several labels a row each is like a positive class, and over all the
        mean over labels stands for the sum over bins. kernel_calibration_error = |E (happened - c) f(c)|, f the
        features of the Gaussian kernel exp(-(c - c')^2 / 0.02), no bins: the root of the unbiased estimate of its
        square, over classes the root of the sum; with more than 20 classes c is the probability of the answer given.
    Shapes: labels (N,), probabilities (N, K), predictions (N,); or all (N, L).
    Direction: lower is better; unit share, 0 to 1.
    Limits: what cancels within a bin is not seen, so the true error may be larger; classes other than the one answered
        are not looked at. expected_calibration_error keeps over half of the statistical bias of its plain form:
        judge on calibration_error. The kernel one is the largest E (happened - c) g(c) of a smooth g: never above the
        true mean gap, often well below; a calibrated system has a lower limit of 0 in 95 of 100 samples (at level
        0.95), and where it is above 0 the interval covers more than it says. Bin values (slice "bin=03") are for
        drawing, each with an interval of its own.
    Source: Kumar, Liang & Ma (2019), section 4 and their code (debiased l2 and l1); interval of the l2 form: Sun et al.
        (2024); bins of equal mass: Roelofs et al. (2022); kernel: Widmann, Lindsten & Zachariah (2019), sections 4, 5.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, chance = np.tile([0, 0, 0, 1], 100), np.full(400, 0.75)
    >>> task, draws = Classification(("no", "yes")), make_draws(b"key", "split", [labels])
    >>> found = calibration_error(labels, np.column_stack([1 - chance, chance]), labels, task, draws)
    >>> round(found[0].value, 3)
    0.5
    """
    if task.label_names:
        return _of_labels(labels, probabilities, task, draws, num_bins)
    errored = ~np.isfinite(probabilities).all(axis=1) | (predictions < 0)
    stated, happened = _claims(labels, probabilities, predictions, task.positive_index)
    stated, happened = np.where(errored, 1.0, stated), np.where(errored, 0.0, happened)
    bins, num = _equal_mass(stated, errored, num_bins)
    rows, hits, claims = (_bin_sums(draws, bins, num + 1, values) for values in (None, happened, stated))
    square, average = _debiased(rows[:, :num], hits[:, :num], claims[:, :num], len(labels))
    failed = _unanswered(rows[:, num], len(labels))
    root, plain = (_at_least(failed, *one, draws.level) for one in ((square, 0.5), (average, 1.0)))
    if root.low == 0 and plain.low is not None:  # one is 0 exactly when the other is, and root knows it better
        plain = replace(plain, low=0.0)
    everything = (len(labels), int(errored.sum()))
    found = [share(root, "calibration_error", everything, better="lower", headline=True)]
    found += [share(plain, "expected_calibration_error", everything, better="lower")]
    found += _by_kernel(labels, probabilities, predictions, task, draws)
    return found + _bins(rows, hits, claims, draws.level)


def _of_labels(labels: Array, probabilities: Array, task: Task, draws: Draws, num_bins: int) -> list[Measurement]:
    """Each of several labels by itself, and the means of their squared and absolute gaps."""
    errored = np.asarray(~np.isfinite(probabilities).all(axis=1))
    failed = _unanswered(draws.sums(errored[:, None].astype(np.float64))[:, 0], len(labels))
    everything = (len(labels), int(errored.sum()))
    squares, averages = [], []
    for column, truth in zip(probabilities.T, labels.T, strict=True):
        stated, happened = np.where(errored, 1.0, column.astype(np.float64)), np.where(errored, 0.0, truth)
        bins, num = _equal_mass(stated, errored, num_bins)
        rows, hits, claims = (_bin_sums(draws, bins, num + 1, one)[:, :num] for one in (None, happened, stated))
        square, average = _debiased(rows, hits, claims, len(labels))
        squares.append(square)
        averages.append(average)
    slices = ["", *(f"label={name}" for name in task.label_names)]
    found = []
    for metric, each, power in (("calibration_error", squares, 0.5), ("expected_calibration_error", averages, 1.0)):
        for where, values in zip(slices, [np.mean(each, axis=0), *each], strict=True):
            one = _at_least(failed, values, power, draws.level)
            headline = not where and metric == "calibration_error"
            found.append(share(one, metric, everything, where=where, better="lower", headline=headline))
    return found + _by_kernel(labels, probabilities, np.where(errored, -1, 0), task, draws)


def _bins(rows: Array, hits: Array, claims: Array, level: float) -> list[Measurement]:
    """Stated and observed frequency of each bin but the last, which has the errored rows; each `(1+B, num + 1)`."""
    found = []
    for b in range(rows.shape[1] - 1):
        claim, truth = mean(claims[:, b], rows[:, b], level=level), rate(hits[:, b], rows[:, b], level=level)
        for metric, estimate in (("mean_confidence", claim), ("observed_frequency", truth)):
            found.append(share(estimate, metric, (int(rows[0, b]), 0), where=f"bin={b:02d}", better="neither"))
    return found


def _by_kernel(labels: Array, probabilities: Array, predictions: Array, task: Task, draws: Draws) -> list[Measurement]:
    """The kernel estimate of everything, and of each class where there are three to 20."""
    errored = ~np.isfinite(probabilities).all(axis=1) | (predictions < 0)
    if not task.label_names and (task.positive_index is not None or task.num_outputs > MOST_CLASSES):
        stated, happened = (one[:, None] for one in _claims(labels, probabilities, predictions, task.positive_index))
    else:
        stated = probabilities.astype(np.float64)
        belongs = labels == 1 if task.label_names else labels[:, None] == np.arange(task.num_outputs)
        happened = belongs.astype(np.float64)
    whole, *each = kernel_errors(np.where(errored[:, None], np.nan, stated), happened, draws)
    rows = len(labels), int(errored.sum())
    found = [share(whole, "kernel_calibration_error", rows, better="lower")]
    names, kind = named_classes(task)
    for name, one in zip(names, each, strict=True) if len(each) > 1 else ():
        found.append(share(one, "kernel_calibration_error", rows, where=f"{kind}={name}", better="lower"))
    return found


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


def _bin_sums(draws: Draws, bins: Array, num: int, values: Array | None) -> Array:
    """Sum of `values (N,)` (or how many rows) in each bin under each draw, `(1 + B, num)`; a few bins at a time."""
    step = max(1, _CHUNK // max(1, len(bins)))
    found = []
    for first in range(0, num, step):
        member = (bins[:, None] == np.arange(first, min(num, first + step))).astype(np.float64)
        found.append(draws.sums(member if values is None else member * values[:, None]))
    return np.concatenate(found, axis=1)


def _debiased(rows: Array, hits: Array, claims: Array, num: int) -> tuple[Array, Array]:
    """Mean squared and mean absolute gap under each draw `(1+B,)`, less what binomial noise adds to them.

    A draw adds that noise a second time, so draws are moved to the estimate, and for the square (whose variance is
    sum w^2 (4 gap^2 v + 2 v^2)) also drawn in: gap^2 is too large by v on average, which would widen it threefold.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency = np.where(rows > 0, hits / rows, 0.0)
        gaps = np.where(rows > 0, np.abs(claims / rows - frequency), 0.0)
    weights, variance = rows / max(1, num), frequency * (1 - frequency) / np.maximum(rows - 1, 1)
    noise = np.sqrt(variance)
    standard = gaps / np.maximum(noise, 1e-12)
    # mean of |N(gap, variance)|: the folded normal distribution
    folded = noise * np.sqrt(2 / np.pi) * np.exp(-(standard**2) / 2) + gaps * (1 - 2 * ndtr(-standard))
    square, average = (weights * (gaps**2 - variance)).sum(axis=1), (weights * (2 * gaps - folded)).sum(axis=1)
    w, g, v = weights[0], gaps[0], variance[0]
    wide = (w**2 * (4 * g**2 * v + 2 * v**2)).sum()
    narrow = (w**2 * (4 * np.maximum(0, g**2 - v) * v + 2 * v**2)).sum()
    scale = np.sqrt(narrow / wide) if wide > 0 else 1.0
    square[1:] = square[0] + scale * (square[1:] - square[1:].mean())
    average[1:] += average[0] - average[1:].mean()
    return square, average


def _unanswered(rows: Array, num: int) -> Array:
    """Share of rows without an answer, under each draw `(1+B,)`."""
    return rows / num if num else np.full(len(rows), np.nan)


def _at_least(failed: Array, values: Array, power: float, level: float) -> Estimate:
    """The estimate on its own scale; errored examples add their share under each draw, each with gap 1."""
    found, alone = statistic(values + failed, level=level), float(failed[0])
    if found.value is None:
        return found
    value = max(alone, found.value) ** power
    replicates = np.maximum(failed[1:], values[1:] + failed[1:]) ** power
    told = f"rows without an answer count as a gap of 1: they alone make {alone**power:.3f}" if alone > 0 else ""
    if found.low is None or found.high is None:
        reason = "; ".join(one for one in (found.reason, told) if one)
        return Estimate(value, None, None, found.method, replicates, reason, level)
    low, high = max(0.0, found.low) ** power, max(alone, found.high) ** power
    return Estimate(value, low, high, "recentred bootstrap", replicates, told, level)
