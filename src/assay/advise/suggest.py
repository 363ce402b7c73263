"""Which treatments move what did not pass: tried on this system, ranked by what they did, never by promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay import registry
from assay.errors import Problem, UsageError
from assay.estimation.effects import Effect
from assay.matrix import Matrix
from assay.observe import Workspace
from assay.policy import Policy, load_policy
from assay.story import Comparison, Judged, audit, compare_treatments
from assay.values import Finding, System, Verdict

ORDER = ("better", "no detectable change", "changed", "not comparable", "worse", "errored")


@dataclass(frozen=True)
class Suggestion:
    """One treatment for one finding: what it did to that measurement here, and what else it moved."""

    rule: str
    metric: str
    slice: str
    treatment: str
    effect: Effect | None  # None where the treatment, or the measurement after it, failed
    verdict: Verdict | None  # of the same rule and slice afterwards, judged together with all that was tried
    side_effects: str
    reason: str = ""

    @property
    def standing(self) -> str:
        """One of ORDER."""
        return "errored" if self.effect is None else self.effect.verdict


@dataclass(frozen=True)
class Advice:
    """What did not pass, and for each what was tried, best first. `without` has what no treatment says it moves."""

    judged: Judged
    findings: tuple[Finding, ...]
    suggestions: tuple[Suggestion, ...]
    without: tuple[Finding, ...]
    comparison: Comparison | None = None
    not_tried: tuple[str, ...] = ()  # that were asked for, or declare to move something: more than `most`


def suggest(
    system: System,
    *,
    policy: Policy | str | Path = "default",
    treatments: Sequence[str] | None = None,
    most: int | None = None,
    workspace: Workspace | None = None,
) -> Advice:
    """Try the treatments that could move each finding that is not a pass, and rank them by their measured effect.

    Tried are the treatments that `treatments` names and no others; where it names none, those that declare to move a
    finding's metric in the direction the rule asks for. Cheap ones come first: those that train nothing, then those
    that train once, then the others; `most` ends it after so many, and `not_tried` has the rest. Effects are paired by
    row, and with those of all treatments tried they form one family, as in `assay.matrix.compare`; verdicts afterwards
    share the policy's level. Ranked: shown better first, by size; then what shows no change; what makes it worse last.
    Limits: only the probes of the policy's rules are measured, so side effects elsewhere are seen by `assay compare`;
    a chain is tried only when named. Raises UsageError for unknown names and for `most` below 1.
    """
    if most is not None and most < 1:
        raise UsageError(Problem(f"at most {most} treatments are to be tried", "1 or more"))
    _require(treatments or ())
    rules = policy if isinstance(policy, Policy) else load_policy(policy)
    judged = audit(system, policy=rules, workspace=workspace)
    open_ = tuple(one for one in judged.findings if one.verdict != "pass" and one.measurement)
    wanted = {one: _movers(one) if treatments is None else tuple(treatments) for one in open_}
    without = tuple(one for one in open_ if not wanted[one])
    named = sorted(dict.fromkeys(name for found in wanted.values() for name in found), key=_cost)
    names, left = named[:most], named[len(named[:most]) :]
    if not names:
        return Advice(judged, open_, (), without)
    probes = sorted({one.probe for one in judged.audit.measurements if _is_judged(one.metric, one.probe, rules)})
    comparison = compare_treatments(system, names, policy=rules, probes=probes, workspace=workspace)
    found = [_one(one, name, judged, comparison) for one in open_ for name in names if name in wanted[one]]
    found.sort(key=lambda one: (one.rule, one.slice, ORDER.index(one.standing), -_size(one.effect)))
    return Advice(judged, open_, tuple(found), without, comparison, tuple(left))


def _movers(finding: Finding) -> tuple[str, ...]:
    direction = "lower" if finding.bound.startswith("at_most") else "higher"
    registry.load()
    wanted = f"{direction}:{finding.metric.rpartition('.')[2]}"
    return tuple(name for name, one in sorted(registry.TREATMENTS.items()) if wanted in one.moves)


def _cost(chain: str) -> tuple[int, str]:
    """What a treatment, or the dearest of a chain, trains: nothing, once, or more."""
    found = [registry.TREATMENTS[part.strip()] for part in chain.split("+")]
    return max(one.trainings for one in found), chain


def _require(treatments: Sequence[str]) -> None:
    registry.load()
    parts = [part.strip() for chain in treatments for part in chain.split("+")]
    unknown = [Problem(f"{part!r} is not known", ", ".join(sorted(registry.TREATMENTS))) for part in parts
               if part not in registry.TREATMENTS]  # fmt: skip
    if unknown:
        raise UsageError(unknown)


def _is_judged(metric: str, probe: str, rules: Policy) -> bool:
    return any(rule.metric in (metric, f"{probe}.{metric}") for rule in rules.rules)


def _one(finding: Finding, treatment: str, before: Judged, comparison: Comparison) -> Suggestion:
    name = f"{before.audit.system.name}+{treatment}"
    about = (finding.rule, finding.metric, finding.slice, treatment)
    after = next((one for one in comparison.judged if one.audit.system.name == name), None)
    if after is None:
        return Suggestion(*about, None, None, "", comparison.matrix.errored.get(treatment, "it was not made"))
    key = next((one.key for one in before.audit.measurements if one.digest == finding.measurement), None)
    effect = _effects(comparison.matrix, name).get(key) if key is not None else None
    same = [one for one in after.findings if (one.rule, one.slice) == (finding.rule, finding.slice)]
    reason = "" if effect is not None else "it is not measured on both systems"
    told = comparison.matrix.sentences.get(name, "").removeprefix(f"{name}: ")
    return Suggestion(*about, effect, same[0].verdict if same else None, told, reason)


def _effects(matrix: Matrix, name: str) -> Mapping[tuple[str, str, str], Effect]:
    shown = {key: cell.effect for key, cell in matrix.cells[name].items() if cell.effect is not None}
    return {effect.key: effect for effect in matrix.details.get(name, ())} | shown


def _size(effect: Effect | None) -> float:
    return 0.0 if effect is None or effect.value is None else abs(effect.value)
