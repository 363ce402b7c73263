"""What each row adds to a metric, so that two models can be compared row by row; more is always better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from assay.errors import Problem, UsageError
from assay.values import Array, Model, Split, Task

Metric = Literal["accuracy", "balanced_accuracy", "log_loss", "squared_error", "absolute_error"]
OF_CLASSES: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "log_loss")
OF_NUMBERS: tuple[Metric, ...] = ("squared_error", "absolute_error")
OF_LABELS: tuple[Metric, ...] = ("log_loss",)  # several a row


@dataclass(frozen=True)
class Target:
    """What to be good at, and how much worse than the best the chosen model may be shown to be (`margin`).

    Raises UsageError for a margin below 0 or a metric that does not exist.

    >>> Target("accuracy", margin=0.01).margin
    0.01
    """

    metric: Metric
    margin: float = 0.0

    def __post_init__(self) -> None:
        known = (*OF_CLASSES, *OF_NUMBERS)
        wrong = [] if self.metric in known else [Problem(f"metric {self.metric!r} is not known", ", ".join(known))]
        if not 0 <= self.margin < np.inf:
            wrong.append(Problem(f"margin is {self.margin}", "0 or more, in the unit of the metric"))
        if wrong:
            raise UsageError(wrong)

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, -1 where less is."""
        return 1 if self.metric in ("accuracy", "balanced_accuracy") else -1


def check_target(target: Target, task: Task) -> None:
    """Raise UsageError for a metric that this task does not have."""
    allowed = OF_LABELS if task.label_names else OF_CLASSES if task.classes else OF_NUMBERS
    if target.metric not in allowed:
        raise UsageError(Problem(f"a {task.name} task has no {target.metric}", ", ".join(allowed)))


def gains(target: Target, model: Model, split: Split, task: Task) -> Array:
    """What each row adds `(N,)`: their mean is the metric, times -1 where less is better.

    A row whose answer errored counts as wrong, or, where the metric has no bound, as the worst of the others.
    `balanced_accuracy` weighs a row of class k by N / (K N_k).
    """
    logits = task.logits(model.outputs(split.inputs), model.outputs_are)
    if target.metric in ("accuracy", "balanced_accuracy"):
        errored = np.logical_not(np.isfinite(logits).all(axis=1))
        answers = np.where(errored[:, None], 0, logits).argmax(axis=1)
        correct: Array = np.where(errored, 0.0, answers == split.labels)
        return correct if target.metric == "accuracy" else correct * _weights(split.labels, len(task.classes))
    if target.metric == "absolute_error":
        lost = np.abs(logits[:, 0].astype(np.float64) - split.labels)
    else:
        lost = task.losses(split.labels, logits).astype(np.float64)
    known = lost[np.isfinite(lost)]
    found: Array = -np.where(np.isfinite(lost), lost, known.max() if len(known) else 0.0)
    return found


def _weights(labels: Array, num_classes: int) -> Array:
    counts = np.bincount(labels, minlength=num_classes)
    present = int((counts > 0).sum())
    weights: Array = len(labels) / (present * np.maximum(counts, 1))
    return weights[labels]
