"""Accuracy on corrupted copies of every test row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assay.probes.robustness._corrupted import accuracies, answered, num_copies, rightness
from assay.registry import ANY_CLASSES, Sizes, probe
from assay.stats import Draws
from assay.values import Array, Measurement

if TYPE_CHECKING:
    from assay.access.handles import Query


def every_copy(sizes: Sizes) -> dict[str, int]:
    """Every copy of every row."""
    return {"corruption_accuracy_of_all_rows": sizes.num_test * num_copies(sizes.modality)}


@probe("robustness", tasks=ANY_CLASSES, cost=every_copy, deep=True)
def corruption_accuracy_of_all_rows(query: Query, predictions: Array, labels: Array, draws: Draws) -> list[Measurement]:
    """The measurements of `corruption_accuracy`, on all test rows instead of a sample.

    Definition: see `corruption_accuracy`; the rows are all N.
    Shapes: predictions and labels (N,) or (N, L), each row copied C x 5 times.
    Direction: higher is better; unit fraction.
    Limits: those of `corruption_accuracy`; it costs 25 (tables), 30 (texts) or 60 (pictures) passes over the test rows.
    Source: Hendrycks and Dietterich 2019, section 4; Mu and Gilmer 2019 (MNIST-C), section 3.

    >>> import numpy as np
    >>> from assay.probes.robustness._corrupted import Answered
    >>> from assay.stats import make_draws
    >>> right = np.array([[[True] * 5], [[False] * 5]])
    >>> found = accuracies(Answered(("fog",), right, right & False), np.array([True, True]), make_draws(b"", "", [
    ...     np.array([0, 0])]))
    >>> [one.value for one in found[:3]]
    [0.5, 0.5, 0.5]
    """
    found = answered(query, np.arange(len(labels)), labels)
    return accuracies(found, rightness(predictions, labels), draws)
