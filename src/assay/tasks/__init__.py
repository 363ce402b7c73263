"""What "right" means: one file per task. A task turns outputs into what probes read, and says what it cannot give."""

from assay.tasks.classification import Classification
from assay.tasks.decisions import Argmax, Identity
from assay.tasks.regression import Regression
from assay.values import Data

__all__ = ["Argmax", "Classification", "Identity", "Regression", "task_of"]


def task_of(data: Data) -> Classification | Regression:
    """The task a data set declares: classification when it names classes, else regression."""
    return Classification(data.classes, data.positive) if data.classes else Regression()
