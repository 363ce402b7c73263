"""Whether groups meet the same share of wrong labels, and each label at the same rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from assay.probes.fairness._groups import Partition, every, is_headline, largest_of, share_of_level
from assay.probes.fairness._means import gap_of_means
from assay.registry import probe
from assay.stats import Draws, Estimate, largest_gaps, mean, rate
from assay.values import Array, Groups, Measurement, Task

PARITY, ODDS = "demographic_parity_difference", "equalized_odds_difference"


@probe("fairness", tasks=("multi_label",))
def multi_label_gaps(labels: Array, predictions: Array, groups: Groups, task: Task, draws: Draws) -> list[Measurement]:
    """Largest difference between groups in Hamming loss, and per label in the rates of one, two or three columns.

    Definition: hamming_loss_difference = max_g - min_g of group_hamming_loss(g), the share of the labels of g's rows
        that are wrong. For each label l: demographic_parity_difference = max_g - min_g of the share of rows that get l;
        equalized_odds_difference = the larger of the gaps in the share of rows of l that get it (true positive rate)
        and of other rows that do (false positive rate). Without a slice for a label: the largest over the labels. An
        errored example (-1) has every label wrong and gets none.
    Shapes: labels (N, L) of 0 and 1, predictions (N, L), groups codes (N, G).
    Direction: lower is better; unit share, 0 to 1. A selection rate alone is neither.
    Limits: trusts the labels. The largest over labels is found among all of them, so its lower limit is corrected for
        their number and low with many labels: look at each. Groups without rows (of the label) are left out.
    Source: Hardt, Price & Srebro (2016), definition 2.1, and fairlearn 0.15, label by label; intervals: simultaneous
        Newcombe (1998) limits over all pairs of groups, Bonferroni over rates and labels; of means: over groups.

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.tasks import MultiLabel
    >>> from assay.values import Column
    >>> sex, labels = np.repeat([0, 1], 4), np.tile([[0, 1], [0, 1], [1, 0], [1, 0]], (2, 1))
    >>> predictions = np.concatenate([labels[:4], labels[4:] * [1, 0]])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> draws = make_draws(b"key", "split", [sex, *labels.T, *predictions.T])
    >>> found = multi_label_gaps(labels, predictions, groups, MultiLabel(("sad", "quiet")), draws)
    >>> [(one.metric, one.value) for one in found if one.slice == "sex & label=quiet"]
    [('demographic_parity_difference', 0.5), ('equalized_odds_difference', 1.0)]
    """
    failed = np.asarray((predictions < 0).any(axis=1))
    cells = np.maximum(predictions, 0) * 2 + labels  # of each label: neither, labelled, answered, both
    found = []
    for order, part in enumerate(every(groups)):
        headline = is_headline(order, groups)
        found += _hamming(part, predictions != labels, failed, draws, headline=headline)
        counts = [part.counts(cells[:, place].astype(np.int64), 4, draws) for place in range(labels.shape[1])]
        for metric, gaps in (
            (PARITY, [_parity(one, len(counts), draws.level) for one in counts]),
            (ODDS, [_odds(one, len(counts), draws.level) for one in counts]),
        ):
            found += _of_labels(part, metric, gaps, (task, failed), draws.level)
        for name, one in zip(task.label_names, counts, strict=True):
            found += _rates(part, name, one, draws.level)
    return found


def _hamming(part: Partition, wrong: Array, failed: Array, draws: Draws, *, headline: bool) -> list[Measurement]:
    """The share of wrong labels in each group, and the largest difference."""
    num = wrong.shape[1]
    counts = part.counts(wrong.sum(axis=1).astype(np.int64), num + 1, draws)  # (1+B, G, L+1)
    sums, rows, lost = counts @ (np.arange(num + 1) / num), counts.sum(axis=2), part.num_rows(failed)
    kept = np.flatnonzero(rows[0] > 0)
    joint = share_of_level(draws.level, max(1, len(kept)))
    gap = gap_of_means([mean(sums[:, g], rows[:, g], level=joint, bounds=(0.0, 1.0)) for g in kept], draws.level)
    found = [part.measured(gap, "hamming_loss_difference", better="lower", errored=failed, headline=headline)]
    for g in range(len(part.slices)):
        one = mean(sums[:, g], rows[:, g], level=draws.level, bounds=(0.0, 1.0))
        found.append(part.measured_in(g, one, "group_hamming_loss", better="lower", rows=(rows[0, g], lost[g])))
    return found


def _parity(counts: Array, num: int, level: float) -> tuple[Estimate, Estimate]:
    """The gap in selection of one label from counts `(1+B, G, 4)`: for it alone, and corrected for `num` labels."""
    chosen, totals = counts[:, :, 2:].sum(axis=2)[:, None], counts.sum(axis=2)[:, None]
    alone, jointly = (largest_gaps(chosen, totals, level=one)[0] for one in (level, share_of_level(level, num)))
    return alone, jointly


def _odds(counts: Array, num: int, level: float) -> tuple[Estimate, Estimate]:
    """The larger gap of the two error rates of one label, likewise."""
    hits = np.stack([counts[:, :, 2], counts[:, :, 3]], axis=1)
    totals = np.stack([counts[:, :, 0] + counts[:, :, 2], counts[:, :, 1] + counts[:, :, 3]], axis=1)
    names = ["false positive rate", "true positive rate"]
    alone, jointly = (
        largest_of(largest_gaps(hits, totals, level=share_of_level(one, 2)), names, level=one)
        for one in (level, share_of_level(level, num))
    )
    return alone, jointly


def _of_labels(
    part: Partition, metric: str, gaps: Sequence[tuple[Estimate, Estimate]], about: tuple[Task, Array], level: float
) -> list[Measurement]:
    """The largest gap over the labels, and that of each."""
    task, failed = about
    whole = largest_of([one for _, one in gaps], [f"label={name}" for name in task.label_names], level=level)
    found = [part.measured(whole, metric, better="lower", errored=failed, headline=False)]
    for name, (alone, _) in zip(task.label_names, gaps, strict=True):
        one = part.measured(alone, metric, better="lower", errored=failed, headline=False)
        found.append(replace(one, slice=f"{one.slice} & label={name}"))
    return found


def _rates(part: Partition, name: str, counts: Array, level: float) -> list[Measurement]:
    """How often each group gets the label."""
    chosen, totals = counts[:, :, 2:].sum(axis=2), counts.sum(axis=2)
    found = []
    for g in range(len(part.slices)):
        one = rate(chosen[:, g], totals[:, g], level=level)
        each = part.measured_in(g, one, "selection_rate", better="neither", rows=(totals[0, g], 0))
        found.append(replace(each, slice=f"{each.slice} & label={name}"))
    return found
