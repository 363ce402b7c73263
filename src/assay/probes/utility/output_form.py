"""Whether the model's numbers are what it was declared to return: logits, or probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from assay import stats
from assay.registry import Sizes, probe
from assay.stats import Draws
from assay.values import Array, Measurement

if TYPE_CHECKING:
    from assay.access.handles import Query

TOLERANCE = 1e-3  # sums of probabilities in 16-bit arithmetic are off by about this
SUSPECT = 0.99  # share of rows from which on the declaration is doubted
SAYS = {
    "logits": "declared logits, but they look like probabilities: say outputs_are='probabilities'",
    "probabilities": "declared probabilities that do not sum to 1: scale them, or say outputs_are='logits'",
}
CERTAIN = 80.0  # the logarithm of what a probability of 0 is kept as is -87
LABELS = "the model answers 0 or 1 and nothing between: labels, of which no probability or threshold can be measured"


def _no_rows(sizes: Sizes) -> dict[str, int]:
    """It reads the recorded pass and the declaration."""
    return {}


@probe("utility", cost=_no_rows)
def output_form(query: Query, logits: Array, draws: Draws) -> list[Measurement]:
    """Share of rows whose outputs look like something else than the system declares them to be.

    Definition: misread_output_share = #{rows that look otherwise} / N. Declared logits look otherwise when they lie in
        0..1 and sum to 1 within 0.001 (K columns), or in 0..1 (one column); declared probabilities when they do not sum
        to 1 within 0.001. Errored rows count as looking as declared, and as errored. Where all are 0 or 1 they are
        labels, whatever was declared, and the reason says so.
    Shapes: logits (N, K), as the task read them; runs no row.
    Direction: lower is better; unit fraction.
    Limits: by their looks alone. Logits of one column that all happen to lie in 0..1 are suspected too. Labels and
        accuracy do not tell: a softmax taken twice ranks classes alike, but its probabilities are far too even.
    Source: none needed; a count. Interval: Wilson (1927).

    >>> import numpy as np
    >>> otherwise(np.array([[0.25, 0.75], [2.0, -1.0]]), "logits").tolist()
    [True, False]
    """
    declared = query.system.model.outputs_are
    strange = otherwise(logits, declared)
    counts = draws.counts(strange.astype(np.int64), 2)
    share = stats.rate(counts[:, 1], counts.sum(axis=1), level=draws.level)
    if are_labels(logits, declared):
        share = replace(share, reason=LABELS)
    elif share.value is not None and share.value >= SUSPECT:
        share = replace(share, reason=SAYS.get(declared, ""))
    errored = int((~np.isfinite(logits).all(axis=1)).sum())
    return [
        stats.measured(
            share, "misread_output_share", unit="fraction", better="lower", attempted=len(logits), errored=errored
        )
    ]


def otherwise(logits: Array, declared: str) -> Array:
    """`(N,)` bool: rows of logits `(N, K)`, read from outputs of the declared kind, that look like another kind."""
    rows = np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits.astype(np.float64), np.nan)
    if declared == "probabilities":
        found: Array = np.abs(np.exp(rows).sum(axis=1) - 1) > TOLERANCE
        if rows.shape[1] == 2 and (rows == 0).any(axis=1).all():  # one column, whose logit the task took
            found = np.zeros(len(rows), dtype=bool)
        return found
    inside = ((rows >= 0) & (rows <= 1)).all(axis=1)
    single = rows.shape[1] == 2 and (np.isnan(rows) | (rows == 0)).any(axis=1).all()
    sums = np.ones(len(rows)) if single else rows.sum(axis=1)
    return inside & (np.abs(sums - 1) <= TOLERANCE)


def are_labels(logits: Array, declared: str) -> bool:
    """Whether the outputs behind finite logits `(N, K)` are all 0 or 1, and both occur: no probability lies between.

    >>> are_labels(np.array([[0.0, 1.0], [1.0, 0.0]]), "logits"), are_labels(np.array([[0.2, 0.8]]), "logits")
    (True, False)
    """
    values = np.abs(np.unique(logits[np.isfinite(logits).all(axis=1)]))
    ends = (0, 1) if declared == "logits" else (0, CERTAIN)
    return (
        len(np.unique(values >= ends[1])) == 2
        and bool(((values == 0) | (values >= ends[1])).all())
        and (declared != "logits" or bool((values <= 1).all()))
    )
