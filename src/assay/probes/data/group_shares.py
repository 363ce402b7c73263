"""Who is in the test split, and how many."""

from __future__ import annotations

import numpy as np

from assay.registry import EVERY_TASK, probe
from assay.stats import Draws, measured, rate
from assay.values import Groups, Measurement


@probe("data", tasks=EVERY_TASK)
def group_shares(groups: Groups, draws: Draws) -> list[Measurement]:
    """Share of every group among the test rows, and share of rows where the sensitive column is missing.

    Definition: group_share(g) = #g / N; missing_share(column) = #{i: column missing} / N.
    Shapes: groups codes (N, G).
    Direction: a group's share is neither; missing lower is better; unit share, 0 to 1.
    Limits: says who is in the test rows, not whether they resemble the people the system will meet. The interval is for
        the population the rows were drawn from, as if drawn at random.
    Source: Gebru et al. (2021), Datasheets for datasets, section 3.2; interval: Wilson (1927).

    >>> import numpy as np
    >>> from assay.stats import make_draws
    >>> from assay.values import Column
    >>> sex = np.array([0, 0, 0, 1, -1])
    >>> groups = Groups(sex[:, None], (Column("sex", "categorical", ("f", "m")),))
    >>> [(one.metric, one.slice, one.value) for one in group_shares(groups, make_draws(b"key", "split", [sex]))]
    [('missing_share', 'sex', 0.2), ('group_share', 'sex=f', 0.6), ('group_share', 'sex=m', 0.2)]
    """
    found = []
    for index, column in enumerate(groups.columns):
        num = len(column.categories)
        codes = groups.codes[:, index].astype(np.int64)
        counts = draws.counts(np.where((codes < 0) | (codes >= num), num, codes), num + 1)
        totals = counts.sum(axis=1)
        missing = rate(counts[:, num], totals, level=draws.level)
        rows = len(codes)
        found.append(
            measured(missing, "missing_share", unit="share", better="lower", slice=column.name, attempted=rows)
        )
        for category, hits in zip(column.categories, counts.T[:num], strict=True):
            share = rate(hits, totals, level=draws.level)
            where = f"{column.name}={category}"
            found.append(measured(share, "group_share", unit="share", better="neither", slice=where, attempted=rows))
    return found
