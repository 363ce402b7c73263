"""How many test rows a probe may look at when the row budget does not reach for all it would: a smaller random sample.

The share is settled before the probe runs, from the cost it declares, so that no result decides where it ends: rows
are a prefix of one keyed permutation, and what is measured on them is an honest, wider interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from assay.errors import BudgetError, Problem
from assay.values import Measurement

FEWEST = 10  # rows: of fewer nothing is worth saying


@dataclass
class Allowance:
    """The share of a sample that one probe may look at, and what it then took."""

    share: float = 1.0
    taken: dict[int, int] = field(default_factory=dict)  # rows looked at, by how many were wanted
    whole: set[tuple[str, str]] = field(default_factory=set)  # metric and slice of what rests on no such sample
    is_refused: bool = False  # there were too few
    paid: dict[str, float] = field(default_factory=dict)  # passes run by this audit, and for what share of their rows
    new: tuple[str, ...] = ()  # those of them that this probe would run first

    def of(self, wanted: int) -> int:
        """Rows of a sample of `wanted`. Raises BudgetError when they would be too few."""
        if self.share >= 1:
            return wanted
        num = int(self.share * wanted)
        if num < min(FEWEST, wanted):
            self.is_refused = True
            if not self.taken:  # it has run nothing that another could share
                for name in self.new:
                    self.paid.pop(name, None)
            what = f"the row budget reaches for {num} of {wanted} rows"
            raise BudgetError(Problem(what, f"at least {FEWEST}", "Raise the row budget or choose fewer probes"))
        self.taken[wanted] = num
        return num

    def told(self, found: Iterable[Measurement]) -> tuple[Measurement, ...]:
        """Measurements with how many rows they rest on, where that is fewer than the probe wanted for them.

        Of several samples that of the same number of rows, else the largest, is told. A probe that looks at every row
        and ran out says that it has no part to give.
        """
        if self.taken:
            fits = {num: wanted for wanted, num in sorted(self.taken.items())}
            return tuple(
                one
                if _stopped(one) or (one.metric, one.slice) in self.whole
                else self._partial(one, fits.get(one.attempted, max(self.taken)))
                for one in found
            )
        if self.share < 1 and not self.is_refused:
            note = "it looks at every row, so there is no part of it to give"
            return tuple(_noted(one, one.reason, note) if _stopped(one) else one for one in found)
        return tuple(found)

    def _partial(self, one: Measurement, wanted: int) -> Measurement:
        note = f"partial: {self.taken[wanted]} of {wanted} rows, as the row budget ends there"
        return _noted(one, note, one.reason)


def _stopped(one: Measurement) -> bool:
    return one.reason.startswith("the probe stopped")  # as the engine says of one that failed


def _noted(one: Measurement, *reasons: str) -> Measurement:
    return replace(one, reason="; ".join(filter(None, reasons)))


def allowance(costs: Mapping[str, int], left: int, shared: dict[str, float]) -> Allowance:
    """For a probe that declares `costs` by pass, with `left` rows of the budget; what earlier probes share is paid for.

    `shared` maps a pass to the share it was first run at: who looks at the same pass looks at the same rows. A later
    probe that has to look at fewer of them takes nothing from the next; nor does one that is refused.
    """
    new = tuple(name for name in costs if name not in shared)
    needed = sum(costs[name] for name in new)
    share = 1.0 if needed <= left else max(0, left) / needed
    share = min([share, *(shared[name] for name in costs if name in shared)])
    shared |= dict.fromkeys(new, share)
    return Allowance(share, paid=shared, new=new)
