"""Could a training row be picked out by what others know of the person?"""

from __future__ import annotations

from typing import Any

from assay.access.handles import Query
from assay.data.quality.lookalikes import known_outside, num_alike, quasi_identifiers
from assay.registry import Sizes, probe
from assay.stats import Draws, Estimate, measured
from assay.values import Array, Measurement


def _no_rows(sizes: Sizes) -> dict[str, int]:
    """It compares training rows and asks the model nothing."""
    return {}


@probe("privacy", tasks=("classification", "regression"), cost=_no_rows, modalities=("table",))
def smallest_group_of_lookalikes(query: Query, draws: Draws) -> list[Measurement]:
    """How many training rows share their quasi-identifiers: in the smallest group, and how many rows with none.

    Definition: two rows look alike when they agree on all quasi-identifiers: `Data.source["quasi_identifiers"]`, else
        the group columns and the features named for age, place, origin or marital status. With E_i the number of rows
        that look like row i, itself included: smallest_group_of_lookalikes = min E_i (the data are k-anonymous up to
        this k); unique_row_share = #{E_i = 1} / n; lookalike_risk = mean(1 / E_i), the chance that who knows that
        somebody is in the data and looks them up picks the right row. A missing value equals a missing one; no row
        can be errored.
    Shapes: quasi-identifiers (n, Q) of the n training rows, through the query handle.
    Direction: the smallest group higher, shares lower; units count and share.
    Limits: as good as the list of quasi-identifiers, which nobody can know to be complete. Of the rows that were
        trained on, not of the people they were drawn from: a row that is unique here may have many lookalikes outside.
        Says nothing of what the model gives away, nor of what is disclosed when all who look alike share an outcome.
        A count of all rows, so the bounds are the value.
    Source: Sweeney 2002, k-anonymity, section 3; risks: El Emam and Dankar 2008, section 2 (prosecutor).

    >>> import numpy as np
    >>> [one.value for one in of_rows(np.array([[30.0], [30.0], [40.0]]), 0.95)]
    [1.0, 0.3333333333333333, 0.6666666666666666]
    """
    data = query.system.data
    names = quasi_identifiers(data)
    known = {column.name for column in (*data.columns, *data.group_columns)}
    missing = ", ".join(name for name in names if name not in known)
    reason = f"declared as quasi-identifiers, and no columns: {missing}" if missing else ""
    return of_rows(known_outside(data, data.splits["train"], names), draws.level, reason)


def of_rows(rows: Array, level: float, reason: str = "") -> list[Measurement]:
    """The three measurements of quasi-identifiers `(n, Q)`; undefined where there is already a reason."""
    values: list[float | None] = [None, None, None]
    if reason:
        pass
    elif not rows.shape[1]:
        reason = "no column is a quasi-identifier: declare them in source"
    elif not len(rows):
        reason = "there are no training rows"
    else:
        alike = num_alike(rows)
        values = [float(alike.min()), float((alike == 1).mean()), float((1 / alike).mean())]
    told = [Estimate(one, one, one, "exact count", None, reason, level) for one in values]
    about: dict[str, Any] = {"attempted": len(rows)}
    return [
        measured(told[0], "smallest_group_of_lookalikes", unit="count", better="higher", **about),
        measured(told[1], "unique_row_share", unit="share", better="lower", **about),
        measured(told[2], "lookalike_risk", unit="share", better="lower", headline=True, **about),
    ]
