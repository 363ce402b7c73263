"""The cheapest system whose own evidence still passes: treatments and their parameters, searched with few audits."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from assay import engine, registry
from assay.errors import AssayError, Problem, UsageError
from assay.evidence.receipts import Receipt, record_plan
from assay.evidence.signing import home
from assay.meter import EnergyMeter
from assay.observe import Workspace
from assay.policy import Policy, judge, load_policy, overall
from assay.story import Judged, owner_workspace, treat
from assay.values import Audit, Finding, System, Verdict

Target = Literal["bytes", "latency", "joules"]
Chain = tuple[tuple[str, Mapping[str, Any]], ...]
CHEAPER = ("lower:model_bytes", "lower:latency_p50", "lower:joules_per_1000_predictions")
# Parameters that are worth trying, from mild to strong; a treatment that is not here is tried as it comes.
GRID: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "prune_magnitude": ({"sparsity": 0.5}, {"sparsity": 0.8}),
    "prune_and_retrain": ({"sparsity": 0.5}, {"sparsity": 0.8}),
    "distill": ({"hidden": [32]}, {"hidden": [16]}, {"hidden": [8]}),
}
ROUNDS, SAME = 200, 0.02  # timing rounds; costs closer than this are told apart by bytes


@dataclass(frozen=True)
class Attempt:
    """One chain of treatments: what the system costs, how far it came, and why it was not chosen."""

    chain: str  # "prune_magnitude sparsity=0.5 + quantize_int8"; "" is the system as it is
    cost: float | None
    num_bytes: int | None
    verdict: Verdict | None  # of the last audit it had; None when it had none
    fate: str


@dataclass(frozen=True)
class Slimmed:
    """What was found. `chosen` is None when nothing passed; `attempts` has every chain, cheapest first."""

    target: Target
    unit: str
    chosen: Judged | None
    chain: str
    attempts: tuple[Attempt, ...]
    num_audits: int  # whole audits spent


@dataclass
class _Candidate:
    system: System
    chain: str
    cost: float
    passive: Audit | None = None


def slim(
    system: System,
    *,
    policy: Policy | str | Path = "default",
    target: Target = "bytes",
    accept: Sequence[Verdict] = ("pass",),
    treatments: Sequence[str] | None = None,
    workspace: Workspace | None = None,
) -> Slimmed:
    """Find the cheapest of many treated systems whose own dossier gets an accepted verdict by the policy.

    Candidates are the treatments that declare to lower bytes, latency or joules (or those in `treatments`), alone and
    two in a row, over a small grid of parameters, and the system as it is. Audits are spent by successive halving: all
    are made and costed; those that are no cheaper than the system fall out; the rest are measured by the probes that
    read one pass over the test rows, and fall out when a rule fails on those; what is left gets a whole audit, cheapest
    first, until one is accepted. Every verdict shares the policy's level with all candidates, so that trying many does
    not make a false pass likelier. Costs: bytes of the weights; seconds of one row, timed in turns; joules likewise.
    Limits: parameters are a grid, not an optimum; a cost is of this machine. Raises UsageError for unknown names.
    """
    if target not in get_args(Target):
        raise UsageError(Problem(f"target {target!r}", ", ".join(get_args(Target))))
    rules = policy if isinstance(policy, Policy) else load_policy(policy)
    workspace = workspace or owner_workspace()
    chains = chains_of(treatments)
    receipt = record_plan(home() / "plans", policy_digest=rules.digest)
    made, fates = _make(system, chains, workspace)
    costs = _costs([one.system for one in made], target)
    for one, cost in zip(made, costs, strict=True):
        one.cost = cost
    own = made[0].cost
    made.sort(key=lambda one: (one.chain != "" and one.cost >= own * (1 - SAME), one.cost))
    search = _Search(rules, receipt, workspace, len(made), tuple(accept))
    chosen = search.run(made, own, fates)
    attempts = [*search.attempts, *fates]
    unit = {"bytes": "bytes", "latency": "seconds", "joules": "joules"}[target]
    chain = next((one.chain for one in attempts if one.fate == "chosen"), "")
    return Slimmed(target, unit, chosen, chain, tuple(attempts), search.num_audits)


def chains_of(treatments: Sequence[str] | None) -> list[Chain]:
    """Every treatment of the grid alone, and every two of different names in the order of their stages.

    >>> [" + ".join(name for name, _ in chain) for chain in chains_of(["prune_magnitude", "quantize_int8"])][-1]
    'prune_magnitude + quantize_int8'
    """
    registry.load()
    known = registry.TREATMENTS
    asked = treatments if treatments is not None else [
        name for name, one in known.items() if any(move in CHEAPER for move in one.moves)
    ]  # fmt: skip
    unknown = [Problem(f"{name!r} is not known", ", ".join(sorted(known))) for name in asked if name not in known]
    if unknown:
        raise UsageError(unknown)
    # Rounding weights comes last: what is rounded can no longer be pruned or trained.
    names = sorted(asked, key=lambda name: (registry.STAGES.index(known[name].stage), "quantize" in name, name))
    single: list[Chain] = [((name, options),) for name in names for options in GRID.get(name, ({},))]
    return single + [a + b for a, b in itertools.combinations(single, 2) if a[0][0] != b[0][0]]


def _told(chain: Chain) -> str:
    return " + ".join(
        " ".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in chain
    )


def _make(system: System, chains: Sequence[Chain], workspace: Workspace) -> tuple[list[_Candidate], list[Attempt]]:
    """Every system that could be made, the one there is first; and those that could not, with the reason."""
    made, failed = [_Candidate(system, "", 0.0)], []
    ready: dict[str, System] = {"": system}
    for number, chain in enumerate(chains):
        told = _told(chain)
        workspace.progress(f"treating: {told}", number, len(chains))
        before = ready.get(_told(chain[:-1]))
        if before is None:
            failed.append(Attempt(told, None, None, None, "errored: the treatment before it did"))
            continue
        try:
            treated = treat(before, chain[-1][0], options=chain[-1][1])
        except AssayError as error:
            failed.append(Attempt(told, None, None, None, "errored: " + str(error).replace("\n", " ")))
            continue
        ready[told] = treated = replace(treated, name=f"{system.name}+{told}")
        made.append(_Candidate(treated, told, 0.0))
    return made, failed


def _costs(systems: Sequence[System], target: Target) -> list[float]:
    """Bytes, or the median seconds or joules of one row, every system in each round."""
    if target == "bytes":
        return [float(one.model.num_bytes or 0) for one in systems]
    rows = systems[0].data.splits["validation" if "validation" in systems[0].data.splits else "test"].inputs
    found: list[list[float]] = [[] for _ in systems]
    for number in range(ROUNDS):
        batch = rows[np.arange(number, number + 1) % len(rows)]
        for turn in range(len(systems)):
            index = (turn + number) % len(systems)
            meter = EnergyMeter()
            if target == "joules":
                meter.start()
            began = time.perf_counter()
            systems[index].model.outputs(batch)
            seconds = time.perf_counter() - began
            found[index].append(float(meter.stop().joules or seconds) if target == "joules" else seconds)
    return [statistics.median(one) for one in found]


@dataclass
class _Search:
    """Audits in the order of cost, with the level shared by all candidates."""

    rules: Policy
    receipt: Receipt
    workspace: Workspace
    num_systems: int
    accept: tuple[Verdict, ...]
    num_audits: int = 0

    def __post_init__(self) -> None:
        self.attempts: list[Attempt] = []

    def run(self, made: Sequence[_Candidate], own: float, fates: Sequence[Attempt]) -> Judged | None:
        """The first candidate that is accepted; every other gets its fate."""
        chosen: Judged | None = None
        for one in made:
            if chosen is not None:
                self._note(one, None, "not audited: a cheaper one is accepted")
            elif one.chain and one.cost >= own * (1 - SAME):
                self._note(one, None, "no cheaper than the system as it is")
            else:
                chosen = self._try(one)
        return chosen

    def _try(self, one: _Candidate) -> Judged | None:
        for probes in (self._passive(), None):
            found = engine.audit(one.system, probes=probes, workspace=self.workspace, policy_digest=self.rules.digest)
            findings = judge(self.rules, found.measurements, found.not_applicable, num_systems=self.num_systems)
            failed = [finding for finding in findings if finding.verdict == "fail" and finding.rule in self._required]
            if probes is not None and failed and "fail" not in self.accept:
                self._note(one, "fail", f"one pass shows that it fails {_rules(failed)}")
                return None
        self.num_audits += 1
        verdict = overall(self.rules, findings)
        if verdict in self.accept:
            self._note(one, verdict, "chosen")
            return Judged(found, findings, verdict, self.rules, self.receipt, self.num_systems, self.workspace)
        wrong = [finding for finding in findings if finding.verdict == verdict]
        self._note(one, verdict, f"its audit is {verdict}: {_rules(wrong)}")
        return None

    @property
    def _required(self) -> frozenset[str]:
        return frozenset(rule.id for rule in self.rules.rules if rule.required)

    def _passive(self) -> list[str]:
        registry.load()
        return [name for name, one in registry.PROBES.items() if not one.access]

    def _note(self, one: _Candidate, verdict: Verdict | None, fate: str) -> None:
        self.attempts.append(Attempt(one.chain, one.cost, one.system.model.num_bytes, verdict, fate))


def _rules(findings: Sequence[Finding]) -> str:
    return ", ".join(dict.fromkeys(f"{one.rule} {one.slice}".strip() for one in findings))
