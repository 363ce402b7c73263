"""How many answers stay right when inputs are corrupted as they are in practice, at five severities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.probes.robustness._corrupted import accuracies, answered, num_copies, rightness, rows_of
from assay.registry import ANY_CLASSES, Sizes, probe
from assay.stats import Draws
from assay.values import Array, Measurement, modality

if TYPE_CHECKING:
    from assay.access.handles import Query

NUM_ROWS = {"table": 1000, "image": 200, "text": 300}


def corrupted_copies(sizes: Sizes) -> dict[str, int]:
    """Every copy of every row of the sample."""
    num = rows_of(sizes.modality, NUM_ROWS, sizes.num_test)
    return {"corruption_accuracy": num * num_copies(sizes.modality)}


@probe("robustness", tasks=ANY_CLASSES, cost=corrupted_copies)
def corruption_accuracy(query: Query, predictions: Array, labels: Array, draws: Draws) -> list[Measurement]:
    r"""Accuracy on corrupted copies of test rows: by severity, by kind, over all, and of the worst kind.

    Definition: corruption_accuracy = mean over C kinds, S = 5 severities and rows of [answer(x') = label], x' the
        corrupted copy; relative_corruption_accuracy divides it by the accuracy of the same rows uncorrupted;
        worst_corruption_accuracy is the lowest mean over severities of any kind. Pictures: the twelve kinds of
        `assay.units.corrupted_pixels`; texts: six (Chinese: five), `corrupted_texts`; tables: five, `corrupted_rows`,
        those that the columns can suffer. A row that errors counts as wrong. Of several labels a row, the share of
        them that is right stands in the place of [answer(x') = label].
    Shapes: predictions and labels (N,) or (N, L); keyed rows, at most 1,000 of a table, 200 pictures, 300 texts, each
        copied C x 5 times. Slices `corruption=<kind>` and `severity=<1..5>`.
    Direction: higher is better; unit fraction, the relative one of the clean accuracy.
    Limits: a mean over made-up kinds: none is the shift that will come, and kinds weigh alike however likely they are.
        Severities are those of grey or colour pictures of about 30 pixels a side, scaled. A word lost or an empty cell
        may change what is right. Intervals are of the rows, with the noise they met.
    Source: Hendrycks and Dietterich 2019, section 4; Mu and Gilmer 2019 (MNIST-C), section 3.

    >>> import numpy as np
    >>> from assay.probes.robustness._corrupted import lowest
    >>> hits = np.array([[8.0, 5.0], [7.0, 5.0], [8.0, 6.0]])
    >>> lowest(("fog", "jpeg"), hits, np.full(3, 10.0), level=0.95).value
    0.5
    """
    kind = modality(query.columns)
    rows = query.rows(NUM_ROWS[kind])
    clean = rightness(predictions[rows], labels[rows])
    return accuracies(answered(query, rows, labels[rows]), clean, draws.of(rows))
