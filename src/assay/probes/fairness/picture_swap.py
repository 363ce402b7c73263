"""Does the answer to a picture change when only the skin tone in it is changed?"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from assay.probes.fairness._swaps import Answers, nothing
from assay.registry import Sizes, probe
from assay.stats import Draws, exact_rate, mean, measured
from assay.tasks.decisions import REFUSED
from assay.values import Array, Measurement, Task

if TYPE_CHECKING:
    from assay.access.handles import Query


def no_rows(sizes: Sizes) -> dict[str, int]:
    """None: the answers to all test rows are there already."""
    return {"picture_swap": 0 * sizes.num_test}


@probe("fairness", cost=no_rows, modalities=("image",))
def picture_swap(query: Query, probabilities: Array, predictions: Array, task: Task, draws: Draws) -> list[Measurement]:
    """How often the answer depends on which version of a picture is shown, and how far the output moves.

    Definition: families of test rows that are one picture in several versions, as the data say (of emoji: skin tones).
        swap_flip_rate = share of families in which not all answers are equal; swap_mean_change = mean over families of
        the mean over pairs of versions of half the summed |p - p'|. A family with an errored answer counts as flipped,
        and has no change; one that is refused (-2) in every version has not flipped.
    Shapes: probabilities (N, K), predictions (N,). Slice: the column whose value differs.
    Direction: lower is better; unit share, 0 to 1.
    Limits: only for data that say which rows belong together (source["counterfactuals"]). More versions of a picture
        give more chances to differ. Drawings in five tones say nothing of people in photographs.
    Source: Kusner et al. (2017), section 3.1; Buolamwini & Gebru (2018), section 4.6 (tone as the axis); interval of
        flips: Clopper & Pearson (1934), over families, which share no picture.

    >>> members([[1, 2], [7, 9]], np.array([9, 2, 5, 7, 1]))
    [[4, 1], [3, 0]]
    """
    families = query.system.data.source.get("counterfactuals", {})
    found: list[Measurement] = []
    for name, rows in families.items():
        told = [one for one in members(rows, query.system.data.splits["test"].rows) if len(one) > 1]
        if told:
            found += _of_families(told, name, Answers(predictions, probabilities), draws)
    reason = "the data do not say which pictures differ in one thing alone"
    return found or nothing("", reason, draws.level, is_classes=bool(task.classes))


def members(families: list[list[int]], rows: Array) -> list[list[int]]:
    """Places of the rows of each family among `rows (N,)`; what is not there is left out."""
    place = {int(number): at for at, number in enumerate(rows)}
    return [[place[number] for number in one if number in place] for one in families]


def _of_families(told: list[list[int]], name: str, answers: Answers, draws: Draws) -> list[Measurement]:
    failed = (answers.predictions < 0) | ~np.isfinite(answers.outputs).all(axis=1)
    broken = failed & (answers.predictions != REFUSED)  # refused in every version is the same answer
    outputs = answers.outputs.astype(np.float64)
    flips, moved, lost = (np.zeros(len(told)) for _ in range(3))
    for at, rows in enumerate(told):
        lost[at] = failed[rows].any()
        flips[at] = broken[rows].any() or len(set(answers.predictions[rows].tolist())) > 1
        apart = [np.abs(outputs[a] - outputs[b]).sum() / 2 for a, b in combinations(rows, 2)]
        moved[at] = 0.0 if lost[at] else np.mean(apart)
    sample = draws.of(np.array([rows[0] for rows in told]))  # a family is drawn as one
    sums = sample.sums(np.stack([moved, 1 - lost, flips, np.ones(len(told))], axis=1))
    change = mean(sums[:, 0], sums[:, 1], level=draws.level, bounds=(0.0, 1.0))
    rate = exact_rate(int(flips.sum()), len(told), level=draws.level)
    rate = replace(rate, replicates=sums[1:, 2] / sums[1:, 3])
    estimates = (("swap_flip_rate", rate), ("swap_mean_change", change))
    return [
        measured(
            one, metric, unit="share", better="lower", slice=name, attempted=len(told), errored=int(lost.sum()),
            headline=metric == "swap_flip_rate",
        )
        for metric, one in estimates
    ]  # fmt: skip
