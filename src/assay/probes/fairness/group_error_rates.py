"""How often each group is answered wrongly, and how the worst group fares."""

from __future__ import annotations

import numpy as np

from assay.probes.fairness._groups import Partition, every, is_headline
from assay.registry import probe
from assay.stats import Draws, rate, worst
from assay.values import Array, Better, Groups, Measurement, Task

Rate = tuple[str, Better, Array, Array, Array]  # metric, direction, hits and totals (1+B, G), errored rows (G,)


@probe("fairness")
def group_error_rates(labels: Array, predictions: Array, groups: Groups, task: Task, draws: Draws) -> list[Measurement]:
    """Accuracy of the worst group, and error rate, true and false positive rate of every group.

    Definition: error_rate(g) = #{i in g: predictions[i] != labels[i]} / #g; worst_group_accuracy = min_g (1 -
        error_rate(g)); two classes also true_positive_rate(g) = share of the positive rows of g that are selected, and
        false_positive_rate(g) of the negative rows. An errored example (-1) is an error and not selected.
    Shapes: labels (N,), predictions (N,), groups codes (N, G).
    Direction: accuracy and true positive rate higher, error rate and false positive rate lower; unit share, 0 to 1.
    Limits: groups are of at most three columns together. A group with few rows has a wide interval and may look best or
        worst by chance; without rows its rates are undefined, and it cannot be the worst.
    Source: fairlearn 0.15 MetricFrame (by_group); Sagawa et al. (2020), worst-group accuracy; intervals: Wilson (1927),
        for the worst group simultaneous over groups.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import Classification
    >>> from assay.values import Column
    >>> sex, labels = np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2)
    >>> predictions = np.array([0, 0, 1, 1, 0, 1, 1, 0])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> draws = make_draws(b"key", "split", [sex, labels, predictions])
    >>> found = group_error_rates(labels, predictions, groups, Classification(("no", "yes")), draws)
    >>> [(one.metric, one.value) for one in found if one.slice in ("sex", "sex=m")]  # doctest: +NORMALIZE_WHITESPACE
    [('worst_group_accuracy', 0.5), ('error_rate', 0.5), ('true_positive_rate', 0.5), ('false_positive_rate', 0.5)]
    """
    positive, failed = task.positive_index, predictions < 0
    wrong = (predictions != labels) | failed
    # what is true (negative, positive, neither known nor binary) x selected x wrong: 12 cells a group
    truth = np.full(len(labels), 2) if positive is None else np.where(labels < 0, 2, labels == positive)
    outcomes = (truth * 4 + (predictions == positive) * 2 + wrong).astype(np.int64)
    found = []
    for order, part in enumerate(every(groups)):
        counts = part.counts(outcomes, 12, draws)
        cells = counts.reshape(*counts.shape[:2], 3, 2, 2)
        totals, errors = counts.sum(axis=2), cells[..., 1].sum(axis=(2, 3))
        accuracy = worst(totals - errors, totals, better="higher", level=draws.level)
        headline = is_headline(order, groups)
        found.append(
            part.measured(accuracy, "worst_group_accuracy", better="higher", errored=failed, headline=headline)
        )
        rates: list[Rate] = [("error_rate", "lower", errors, totals, part.num_rows(failed))]
        if positive is not None:
            chosen, rows = cells.sum(axis=4), cells.sum(axis=(3, 4))
            lost = [part.num_rows(failed & (truth == given)) for given in (0, 1)]
            rates.append(("true_positive_rate", "higher", chosen[:, :, 1, 1], rows[:, :, 1], lost[1]))
            rates.append(("false_positive_rate", "lower", chosen[:, :, 0, 1], rows[:, :, 0], lost[0]))
        found.extend(_by_group(part, rates, draws.level))
    return found


def _by_group(part: Partition, rates: list[Rate], level: float) -> list[Measurement]:
    found = []
    for index in range(len(part.slices)):
        for metric, better, hits, totals, errored in rates:
            one = rate(hits[:, index], totals[:, index], level=level)
            rows = (totals[0, index], errored[index])
            found.append(part.measured_in(index, one, metric, better=better, rows=rows))
    return found
