"""How many test rows the training rows already hold."""

from __future__ import annotations

import numpy as np

from assay.access.handles import Query
from assay.data.quality.duplicates import copies_of_train, near_of_train
from assay.registry import EVERY_TASK, Sizes, probe
from assay.stats import Draws, measured, rate
from assay.values import Array, Measurement


def _no_rows(sizes: Sizes) -> dict[str, int]:
    """It compares inputs and asks the model nothing."""
    return {}


@probe("data", tasks=EVERY_TASK, cost=_no_rows)
def train_test_overlap(query: Query, draws: Draws) -> list[Measurement]:
    r"""Share of test rows of which a copy was trained on: exact, and exact or near.

    Definition: train_test_overlap = #{test rows whose inputs and label some training row has} / N;
        near_train_test_overlap adds the rows whose inputs are nearly those of a training row: texts with Jaccard
        similarity of letter runs >= 0.8, pictures with correlation >= 0.99 (moved by up to one pixel), table rows with
        equal categories and numbers within 0.1 % of a standard deviation. No example can be errored.
    Shapes: the raw inputs of test (N, ...) and train (M, ...), through the query handle.
    Direction: lower is better; unit share, 0 to 1.
    Limits: what a memory of the training rows would answer rightly, not what this system remembers. Equal rows of a
        coarse table may be different people. Paraphrases, translations, crops and turns are not found.
    Source: Barz and Denzler (2020), Do we train on test data?, Journal of Imaging 6(6); Broder (1997) for texts;
        interval: Wilson (1927).

    >>> from assay.data import load_wine
    >>> from assay.data.quality.duplicates import copies_of_train
    >>> data = load_wine()
    >>> int(copies_of_train(data.splits["train"], data.splits["test"]).sum())
    0
    """
    data = query.system.data
    exact = copies_of_train(data.splits["train"], data.splits["test"])
    either = exact | near_of_train(data, "test")
    return [
        _share("train_test_overlap", exact, draws, headline=True),
        _share("near_train_test_overlap", either, draws, headline=False),
    ]


def _share(metric: str, mask: Array, draws: Draws, *, headline: bool) -> Measurement:
    counts = draws.counts(mask.astype(np.int64), 2)
    share = rate(counts[:, 1], counts.sum(axis=1), level=draws.level)
    return measured(share, metric, unit="share", better="lower", attempted=len(mask), headline=headline)
