"""Each key gets so many answers and no more: less to copy the model from."""

from __future__ import annotations

from assay.models.query_limit import LIMIT, MOST, PERIODS
from assay.registry import EVERY_TASK, treatment
from assay.treatments import _common
from assay.values import System


@treatment("serve", moves=("lower:extraction_area",), tasks=EVERY_TASK)
def limit_queries(system: System, *, rows: int = 100, per: str = "total") -> System:
    r"""Answer each key at most `rows` rows, $\sum_t m_t \le B$: in all ("total"), or each "day" of UTC.

    No answer changes. The limit is in the lineage, so in the digest that a dossier signs, and the service holds to it:
    a request of m rows counts m, an explanation as many rows as it tells numbers, and what would go beyond is refused
    (429), with the time from which it may be asked again. How counts are kept and what they survive: docs/serving.md.
    Model extraction asks no more than this, once. Limits: holds where `assay serve` answers, not for whoever has the
    files; k keys get k times the rows, and "day" gives d times the rows in d days (twice within a minute at midnight),
    while model extraction measures one key and one day; the other probes are the owner's and ask as many rows as
    before. A copy learnt from public rows needs no answers at all: compare with the student that never asked. On Adult
    a copy agreed on 0.958 of the rows after 5,000 answers, 0.951 after 1,000, 0.931 after 300 and 0.905 after 100, and
    on 0.952 after 5,000 public rows and no answer: a limit that is felt there is small, and keeps out only those who
    have no such rows. Measured for classification only. Raises TreatmentError for other numbers, other periods, or a
    system that has a limit.

    Source: Tramer et al. 2016, section 7 (what extraction needs is answers); OWASP Machine Learning Security Top 10,
    ML05:2023 Model theft.
    """
    fine = type(rows) is int and 0 <= rows <= MOST
    has_limit = any(step.treatment == LIMIT for step in system.lineage)
    problems = [
        _common.unless(fine, f"rows is {rows}", f"a whole number, 0 to {MOST:,}"),
        _common.unless(per in PERIODS, f"per is {per!r}", ", ".join(PERIODS)),
        _common.unless(not has_limit, "it has a limit already", following="Apply it to the system before"),
    ]
    _common.refuse(LIMIT, system, problems)
    return _common.grown(system, treatment=LIMIT, stage="serve", parameters={"rows": rows, "per": per}, outcome={})
