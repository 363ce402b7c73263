"""How far the stated probabilities are from what happened."""

from __future__ import annotations

import numpy as np

from assay.registry import ANY_CLASSES, probe
from assay.stats import Draws, Estimate, mean, measured
from assay.values import Array, Measurement, Task

MOST_CLASSES = 50  # looked at one by one


@probe("utility", tasks=ANY_CLASSES, version=2)
def probability_loss(labels: Array, probabilities: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Brier loss and log loss: the two usual proper losses of stated probabilities.

    Definition: brier_loss = mean_i sum_k (p_ik - [labels[i] = k])^2, halved for two classes (then it is the squared
        error of the positive class); log_loss = mean_i -log p_i,labels[i], with p at least the smallest float32
        spacing (1.2e-7). An errored example has the worst Brier loss, 1 (2 for more than two classes); its log loss has
        no worst value, so the mean is undefined. log_loss, slice "class=...", is over the rows labelled so. Of several
        labels a row both are means over the labels, each with the Brier loss (p - y)^2; slice "label=..." is of one.
    Shapes: labels (N,), probabilities (N, K); or both (N, L).
    Direction: lower is better; unit 1 for the Brier loss, nats for the log loss.
    Limits: mixes calibration with the power to tell cases apart; a rare positive class makes every system look good.
        The log loss is ruled by a few confident mistakes, where its interval is too narrow.
    Source: Brier (1950); scikit-learn user guide 3.4.4.12 (log loss) and 3.4.4.14 (Brier, scale_by_half="auto").

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> labels, chance = np.array([0, 1]), np.array([0.5, 0.5])
    >>> task, draws = Classification(("no", "yes")), make_draws(b"key", "split", [labels])
    >>> found = probability_loss(labels, np.column_stack([1 - chance, chance]), task, draws)
    >>> [(one.metric, round(one.value, 4)) for one in found[:2]]
    [('brier_loss', 0.25), ('log_loss', 0.6931)]
    """
    if task.label_names:
        return _of_labels(labels, probabilities, task, draws)
    errored = ~np.isfinite(probabilities).all(axis=1) | (labels < 0)
    scale = 0.5 if task.num_outputs == 2 else 1.0
    safe = np.where(errored[:, None], 0.0, probabilities.astype(np.float64))
    own = safe[np.arange(len(labels)), np.maximum(labels, 0)]
    # sum_k (p_k - [y = k])^2 = sum_k p_k^2 - 2 p_y + 1
    brier = np.where(errored, 2.0, (safe**2).sum(axis=1) - 2 * own + 1) * scale
    logs = np.where(errored, 0.0, -np.log(np.maximum(own, np.finfo(np.float32).eps)))
    return _means(brier, logs, errored, "", draws) + _by_class(labels, logs, errored, task, draws)


def _of_labels(labels: Array, probabilities: Array, task: Task, draws: Draws) -> list[Measurement]:
    """The mean over several labels a row, and each label."""
    errored = np.asarray(~np.isfinite(probabilities).all(axis=1))
    safe = np.where(errored[:, None], 0.5, probabilities.astype(np.float64))
    brier = np.where(errored[:, None], 1.0, (safe - labels) ** 2)
    own = np.where(errored[:, None], 1.0, np.where(labels == 1, safe, 1 - safe))
    logs = -np.log(np.maximum(own, np.finfo(np.float32).eps))
    found = _means(brier.mean(axis=1), logs.mean(axis=1), errored, "", draws)
    for place, name in enumerate(task.label_names):
        found += _means(brier[:, place], logs[:, place], errored, f"label={name}", draws)
    return found


def _means(brier: Array, logs: Array, errored: Array, where: str, draws: Draws) -> list[Measurement]:
    """Both losses of rows `(N,)`, averaged."""
    num_rows = len(errored)
    sums = draws.sums(np.column_stack([brier, logs]))
    totals = np.full(len(sums), float(num_rows))
    num_errored = int(errored.sum())
    found = [mean(sums[:, 0], totals, level=draws.level), mean(sums[:, 1], totals, level=draws.level)]
    if num_errored:
        scored = num_rows - num_errored
        rest = f"; over the other {scored} it is {logs.sum() / scored:.6g}" if scored else ""
        reason = f"{num_errored} of {num_rows} examples errored, and their log loss has no bound{rest}"
        found[1] = Estimate(None, None, None, "skewness-corrected t", reason=reason, level=draws.level)
    return [
        measured(one, metric, unit=unit, better="lower", slice=where, attempted=num_rows, errored=num_errored)
        for one, metric, unit in zip(found, ("brier_loss", "log_loss"), ("1", "nats"), strict=True)
    ]


def _by_class(labels: Array, logs: Array, errored: Array, task: Task, draws: Draws) -> list[Measurement]:
    """Log loss of the rows of each class."""
    if task.num_outputs > MOST_CLASSES:
        return []
    member = labels[:, None] == np.arange(task.num_outputs)
    sums = draws.sums(np.column_stack([member * logs[:, None], member]))
    found = []
    for k, name in enumerate(task.classes):
        rows, lost = int(member[:, k].sum()), int((member[:, k] & errored).sum())
        one = mean(sums[:, k], sums[:, task.num_outputs + k], level=draws.level, bounds=(0.0, None))
        if lost:
            reason = f"{lost} of {rows} examples errored, and their log loss has no bound"
            one = Estimate(None, None, None, one.method, reason=reason, level=draws.level)
        where = f"class={name}"
        found.append(measured(one, "log_loss", unit="nats", better="lower", slice=where, attempted=rows, errored=lost))
    return found
