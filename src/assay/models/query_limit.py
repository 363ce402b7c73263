"""How many rows one key may ask of a system: what `limit_queries` leaves in the lineage, and the service holds to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assay.errors import ModelError, Problem
from assay.values import Step

__all__ = ["LIMIT", "MOST", "PERIODS", "QueryLimit", "limit_of"]

LIMIT = "limit_queries"  # the treatment whose step decides
PERIODS = ("total", "day")
MOST = 10**9


@dataclass(frozen=True)
class QueryLimit:
    """At most `rows` rows a key, for good ("total") or each day of UTC ("day"). Raises ModelError for others."""

    rows: int
    per: str

    def __post_init__(self) -> None:
        if type(self.rows) is not int or not 0 <= self.rows <= MOST or self.per not in PERIODS:
            what = f"a limit of {self.rows!r} rows a key per {self.per!r} cannot be held to"
            raise ModelError(Problem(what, f"0 to {MOST:,} rows, per {' or '.join(PERIODS)}"))


def limit_of(lineage: Sequence[Step]) -> QueryLimit | None:
    """The limit that a lineage holds, None where there is none. Raises ModelError for one that cannot be read.

    >>> limit_of([Step("limit_queries", "serve", {"rows": 500, "per": "day"}, "")])
    QueryLimit(rows=500, per='day')
    """
    steps = [step for step in lineage if step.treatment == LIMIT]
    if len(steps) > 1:
        raise ModelError(Problem(f"the lineage holds {len(steps)} limits of rows a key", "one"))
    return QueryLimit(steps[0].parameters.get("rows", -1), steps[0].parameters.get("per", "")) if steps else None
