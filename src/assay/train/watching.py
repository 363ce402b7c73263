"""Early stopping: the validation loss of every epoch, and the weights that gave the best one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.models import tensors
from assay.models.adapters.module import evaluation, rows_a_batch
from assay.train.objectives import task_loss
from assay.values import Split, Task

# The figure beside the validation loss.
METRICS = {
    "classification": "accuracy",
    "multi_label": "share of labels right",
    "regression": "root_mean_squared_error",
}


class Watch:
    """Measures a module on the validation split after every epoch; with `patience`, keeps the best weights.

    Limits: the choice is by loss alone, and the loss of the chosen epoch is a little too good, being the least of many.
    """

    def __init__(self, module: nn.Module, validation: Split | None, task: Task, patience: int) -> None:
        self.best: float | None = None
        self.waited = 0
        self.weights: dict[str, Tensor] = {}
        validation = validation if validation is not None and len(validation) else None  # of no rows there is no mean
        self.validation, self.task, self.patience = validation, task, patience
        if validation is not None:
            self.loss = task_loss(validation, task)
            self.inputs = tensors(module, validation.inputs, is_shared=True)
            self.labels = torch.from_numpy(validation.labels)
            self.size = rows_a_batch(validation.inputs)

    @property
    def is_over(self) -> bool:
        """Whether `patience` epochs have passed without a better loss."""
        return 0 < self.patience <= self.waited

    def look(self, module: nn.Module) -> tuple[float | None, float | None]:
        """Validation loss, and the figure of METRICS; None without a validation split."""
        if self.validation is None:
            return None, None
        losses, figures = [], []
        device = next((one.device for one in module.parameters()), torch.device("cpu"))
        with evaluation(module), torch.no_grad():
            for rows in torch.split(torch.arange(len(self.inputs)), self.size):
                outputs = module(self.inputs[rows].to(device)).float().cpu()
                losses.append(self.loss(outputs, rows))
                figures.append(_figures(outputs, self.labels[rows], self.task))
        now = torch.cat(losses).mean().item()
        if self.best is None or now < self.best:
            self.best, self.waited = now, 0
            if self.patience:
                self.weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        else:
            self.waited += 1
        mean = torch.cat(figures).double().mean()
        return now, (mean.sqrt() if self.task.name == "regression" else mean).item()

    def restore(self, module: nn.Module) -> None:
        """The best epoch's weights, where any were kept."""
        if self.weights:
            module.load_state_dict(self.weights)


def _figures(outputs: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Per row: squared error in target units, share of its labels right, or 1 where the largest output is the label."""
    if task.name == "regression":
        return (outputs - labels.reshape(len(labels), -1)).square().mean(dim=1)
    if task.label_names:
        return ((outputs > 0) == (labels > 0)).float().mean(dim=1)
    right = labels.argmax(dim=1) if labels.ndim == 2 else labels
    return (outputs.argmax(dim=1) == right).float()
