"""How often each group is answered wrongly, and how the worst group and its worst class fare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from assay.probes.fairness._groups import Partition, every, is_headline
from assay.registry import probe
from assay.stats import Draws, Estimate, rate, worst
from assay.values import Array, Better, Groups, Measurement, Task

Rate = tuple[str, Better, Array, Array, Array]  # metric, direction, hits and totals (1+B, G), errored rows (G,)


@probe("fairness", version=2)
def group_error_rates(labels: Array, predictions: Array, groups: Groups, task: Task, draws: Draws) -> list[Measurement]:
    """Accuracy of the worst group, and of its worst class; error, true and false positive rate of every group.

    Definition: error_rate(g) = #{i in g: predictions[i] != labels[i]} / #g; worst_group_accuracy = min_g (1 -
        error_rate(g)); worst_cell_accuracy = min_{g,y} of the share of rows of g and label y that are answered y; two
        classes also true_positive_rate(g) = share of the positive rows of g that are selected, and
        false_positive_rate(g) of the negative rows. An errored example (-1) is an error and not selected.
    Shapes: labels (N,), predictions (N,), groups codes (N, G).
    Direction: accuracy and true positive rate higher, error rate and false positive rate lower; unit share, 0 to 1.
    Limits: groups are of at most three columns together. A group with few rows has a wide interval and may look best or
        worst by chance; without rows its rates are undefined, and it cannot be the worst, nor a class it lacks. Rows
        without a known label are in no cell.
    Source: fairlearn 0.15 MetricFrame (by_group); Sagawa et al. (2020), worst-group accuracy (there over cells
        of group and label); intervals: Wilson (1927), for the worst group or cell simultaneous over all of them.

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
    [('worst_group_accuracy', 0.5), ('worst_cell_accuracy', 0.5), ('error_rate', 0.5), ('true_positive_rate', 0.5),
    ('false_positive_rate', 0.5)]
    """
    failed, num = predictions < 0, task.num_outputs
    truth = np.where(labels < 0, num, labels)  # one more than there are classes: not known
    outcomes = truth * 4 + (predictions == task.positive_index) * 2 + ((predictions != labels) | failed)
    found = []
    for order, part in enumerate(every(groups)):
        counts = part.counts(outcomes.astype(np.int64), 4 * (num + 1), draws)
        cells = counts.reshape(*counts.shape[:2], num + 1, 2, 2)  # truth x selected x wrong
        totals, errors = counts.sum(axis=2), cells[..., 1].sum(axis=(2, 3))
        accuracy = worst(totals - errors, totals, better="higher", level=draws.level)
        headline = is_headline(order, groups)
        found.append(
            part.measured(accuracy, "worst_group_accuracy", better="higher", errored=failed, headline=headline)
        )
        labelled = replace(part, codes=np.where(truth < num, part.codes, len(part.slices)))
        cell = _worst_cell(part, cells[:, :, :num].sum(axis=3), task, draws.level)
        found.append(labelled.measured(cell, "worst_cell_accuracy", better="higher", errored=failed, headline=False))
        rates: list[Rate] = [("error_rate", "lower", errors, totals, part.num_rows(failed))]
        if task.positive_index is not None:
            rates += _given_the_label(part, cells, truth, (failed, task.positive_index))
        found.extend(_by_group(part, rates, draws.level))
    return found


def _given_the_label(part: Partition, cells: Array, truth: Array, known: tuple[Array, int]) -> list[Rate]:
    """True and false positive rate of every group, of cells `(1+B, G, 3, 2, 2)`: truth x selected x wrong."""
    failed, positive = known
    chosen, rows = cells.sum(axis=4)[..., 1], cells.sum(axis=(3, 4))
    lost = [part.num_rows(failed & (truth == given)) for given in (0, 1)]
    return [
        ("true_positive_rate", "higher", chosen[..., positive], rows[..., positive], lost[positive]),
        ("false_positive_rate", "lower", chosen[..., 1 - positive], rows[..., 1 - positive], lost[1 - positive]),
    ]


def _worst_cell(part: Partition, cells: Array, task: Task, level: float) -> Estimate:
    """The least accuracy over groups and classes, of cells `(1+B, G, K, 2)`: right and wrong rows."""
    both = cells.reshape(len(cells), -1, 2)
    right, totals = both[..., 0], both.sum(axis=2)
    one = worst(right, totals, better="higher", level=level)
    if one.value is None:
        return one
    place = int(np.where(totals[0] > 0, right[0] / np.maximum(totals[0], 1), np.inf).argmin())
    group, label = divmod(place, cells.shape[2])
    name = f"worst for {part.slices[group]} & class={task.classes[label]}, {int(totals[0, place])} rows"
    return replace(one, reason="; ".join([name, one.reason] if one.reason else [name]))


def _by_group(part: Partition, rates: list[Rate], level: float) -> list[Measurement]:
    found = []
    for index in range(len(part.slices)):
        for metric, better, hits, totals, errored in rates:
            one = rate(hits[:, index], totals[:, index], level=level)
            rows = (totals[0, index], errored[index])
            found.append(part.measured_in(index, one, metric, better=better, rows=rows))
    return found
