"""What training minimises: one loss per row, row weights, and the splits it can be computed on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from assay.errors import ModelError, Problem, UsageError
from assay.train.settings import ClassWeights
from assay.values import Split, Task

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs (n, K), rows (n,) positions in the split) -> losses (n,)


def task_loss(split: Split, task: Task, *, label_smoothing: float = 0.0) -> Loss:
    """Losses `(n,)` of rows by position: cross-entropy in nats, or squared error over the variance of the labels.

    Labels of a classification may be class indices `(N,)` or target probabilities `(N, K)` (soft targets).
    """
    if task.name == "regression":
        targets = torch.from_numpy(np.asarray(split.labels, dtype=np.float32)).reshape(len(split), -1)
        variance = targets.var(dim=0, correction=0).clamp_min(torch.finfo(torch.float32).tiny)
        variance = torch.where(variance > 1e-30, variance, 1.0)

        def squared_error(outputs: Tensor, rows: Tensor) -> Tensor:
            _same_shape(outputs, (len(rows), targets.shape[1]))
            return ((outputs - targets[rows]).square() / variance).mean(dim=1)

        return squared_error
    soft = split.labels.ndim == 2
    labels = torch.from_numpy(np.asarray(split.labels, dtype=np.float32 if soft else np.int64))

    def cross_entropy(outputs: Tensor, rows: Tensor) -> Tensor:
        _same_shape(outputs, (len(rows), task.num_outputs))
        return functional.cross_entropy(outputs, labels[rows], reduction="none", label_smoothing=label_smoothing)

    return cross_entropy


def check_split(split: Split, task: Task) -> None:
    """Raise ModelError, with every problem at once, for a split that cannot be trained on."""
    wrong = []
    labels = np.asarray(split.labels)
    if not len(split):
        wrong.append(Problem("the training split has no rows"))
    elif task.name == "regression" or labels.ndim == 2:
        if not np.isfinite(labels).all():
            row = split.rows[~np.isfinite(labels).reshape(len(labels), -1).all(axis=1)][0]
            wrong.append(Problem(f"the label of row {row} is not a finite number", next="Drop or repair such rows"))
    elif labels.min() < 0 or labels.max() >= task.num_outputs:
        row = split.rows[(labels < 0) | (labels >= task.num_outputs)][0]
        wrong.append(Problem(f"the label of row {row} is not a class index", f"0 to {task.num_outputs - 1}"))
    weights = split.weights
    if weights is not None and (not np.isfinite(weights).all() or weights.min() < 0 or not weights.sum() > 0):
        wrong.append(Problem("row weights hold a negative or non-finite number, or only zeros", "0 or more, not all 0"))
    if wrong:
        raise ModelError(wrong)


def row_weights(split: Split, task: Task, class_weights: ClassWeights = "none") -> Tensor | None:
    """Weights `(N,)` of mean 1 that multiply the losses; None where all are 1.

    balanced: the split's own weights times W / (K * W_c), W their sum and W_c the sum in the row's class, so that
    every class that occurs weighs the same; a soft target weighs as the mixture it is. Raises UsageError for a
    regression, which has no classes.
    """
    weights = None if split.weights is None else split.weights.astype(np.float64)
    if class_weights == "balanced":
        if task.name == "regression":
            raise UsageError(Problem("class_weights is 'balanced', and a regression has no classes", "none"))
        labels = np.asarray(split.labels)
        shares = labels if labels.ndim == 2 else np.eye(task.num_outputs)[labels]
        own = np.ones(len(split)) if weights is None else weights
        totals = own @ shares
        weights = own * (shares @ np.divide(1.0, totals, out=np.zeros(task.num_outputs), where=totals > 0))
    return None if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))


def _same_shape(outputs: Tensor, expected: tuple[int, int]) -> None:
    if tuple(outputs.shape) != expected:
        raise ModelError(Problem(f"the module answered with shape {tuple(outputs.shape)}", f"{expected}"))
