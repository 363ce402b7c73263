"""What "right" means: one file per task. A task turns outputs into what probes read, and says what it cannot give."""

from assay.tasks.classification import Classification
from assay.tasks.decisions import Argmax, Identity
from assay.tasks.multi_label import LabelThresholds, MultiLabel
from assay.tasks.regression import Regression
from assay.values import Data, Decision, Task

__all__ = [
    "Argmax",
    "Classification",
    "Identity",
    "LabelThresholds",
    "MultiLabel",
    "Regression",
    "decision_of",
    "task_of",
]


def task_of(data: Data) -> Classification | MultiLabel | Regression:
    """The task a data set declares: by its classes, by the names of several labels a row, else regression."""
    if data.label_names:
        return MultiLabel(data.label_names)
    return Classification(data.classes, data.positive) if data.classes else Regression()


def decision_of(task: Task) -> Decision:
    """The plain decision rule of a task: the likeliest class, every label more likely than not, or the number itself.

    >>> decision_of(Regression()).to_json()
    {'name': 'identity'}
    """
    if task.label_names:
        return LabelThresholds()
    return Argmax() if task.classes else Identity()
