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


class TaskLoss:
    """Cross-entropy in nats, or squared error over the variance of the labels: of each row, and its mean.

    Labels of a classification may be class indices `(N,)` or target probabilities `(N, K)` (soft targets). Of several
    labels a row `(N, L)`: the mean over them of the binary cross-entropy.
    """

    def __init__(self, split: Split, task: Task, *, label_smoothing: float = 0.0) -> None:
        self.is_regression, self.label_smoothing = task.name == "regression", label_smoothing
        self.is_multi_label = bool(task.label_names)
        labels = np.asarray(split.labels)
        floating = self.is_regression or labels.ndim == 2
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.float32 if floating else np.int64))
        self.num_outputs = task.num_outputs
        if self.is_regression:
            self.labels = self.labels.reshape(len(split), -1)
            self.num_outputs = self.labels.shape[1]
            variance = self.labels.var(dim=0, correction=0).clamp_min(torch.finfo(torch.float32).tiny)
            self.variance = torch.where(variance > 1e-30, variance, 1.0)

    def __call__(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Losses `(n,)` of outputs `(n, K)`, of the rows `(n,)` by position in the split."""
        return self._of(outputs, rows, "none")

    def mean(self, outputs: Tensor, rows: Tensor) -> Tensor:
        """Their mean, with the same gradient to the bit: in one operation where there is one."""
        return self._of(outputs, rows, "mean")

    def _of(self, outputs: Tensor, rows: Tensor, reduction: str) -> Tensor:
        if tuple(outputs.shape) != (len(rows), self.num_outputs):
            expected = (len(rows), self.num_outputs)
            raise ModelError(Problem(f"the module answered with shape {tuple(outputs.shape)}", f"{expected}"))
        labels = self.labels.index_select(0, rows)
        if self.is_multi_label:
            wanted = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(dim=1)
            return each.mean() if reduction == "mean" else each
        if not self.is_regression:
            smoothing = self.label_smoothing
            return functional.cross_entropy(outputs, labels, reduction=reduction, label_smoothing=smoothing)
        losses = ((outputs - labels).square() / self.variance).mean(dim=1)
        return losses.mean() if reduction == "mean" else losses


def task_loss(split: Split, task: Task, *, label_smoothing: float = 0.0) -> Loss:
    """Losses `(n,)` of rows by position, of the task's own kind; see `TaskLoss`."""
    return TaskLoss(split, task, label_smoothing=label_smoothing)


def check_split(split: Split, task: Task) -> None:
    """Raise ModelError, with every problem at once, for a split that cannot be trained on."""
    wrong = []
    labels = np.asarray(split.labels)
    if not len(split):
        wrong.append(Problem("the training split has no rows"))
    elif task.label_names and (labels.shape != (len(split), task.num_outputs) or not np.isin(labels, (0, 1)).all()):
        what = f"the labels are {labels.dtype} {labels.shape}"
        wrong.append(Problem(what, f"0 or 1, ({len(split)}, {task.num_outputs})", "One column a label"))
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
    regression, which has no classes, and for several labels a row, of which none excludes another.
    """
    weights = None if split.weights is None else split.weights.astype(np.float64)
    if class_weights == "balanced":
        if not task.classes:
            what = f"class_weights is 'balanced', and a {task.name} task has no classes"
            raise UsageError(Problem(what, "none"))
        labels = np.asarray(split.labels)
        shares = labels if labels.ndim == 2 else np.eye(task.num_outputs)[labels]
        own = np.ones(len(split)) if weights is None else weights
        totals = own @ shares
        weights = own * (shares @ np.divide(1.0, totals, out=np.zeros(task.num_outputs), where=totals > 0))
    return None if weights is None else torch.from_numpy((weights / weights.mean()).astype(np.float32))
