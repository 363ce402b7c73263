"""Rules a system is judged by: TOML a reviewer can read and diff; three verdicts, on bounds and never on a bare value.

A rule wants a metric at most, or at least, a bound. The interval of the measurement decides: all of it on the right
side is a pass, all of it on the wrong side a fail, anything else inconclusive. The intervals of one judgement hold
together: with m measurements judged at level L, each is widened to level 1 − (1 − L)/m (Bonferroni), so that any false
pass or false fail, over all rules and slices, happens in at most 1 − L of judgements.
"""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from assay.digests import digest_of
from assay.errors import PolicyError, Problem, StorageError
from assay.estimation.needed import MOST_REQUIRED, TOO_SMALL, is_too_small, required_num, smallest_group
from assay.estimation.widen import widened
from assay.storage import read_regular
from assay.values import Finding, Measurement, NotApplicable, Verdict

__all__ = [
    "EXIT_CODES",
    "EXIT_USAGE",
    "OUTCOMES",
    "Clause",
    "Policy",
    "Rule",
    "judge",
    "load_policy",
    "outcome",
    "overall",
    "parse_policy",
    "shipped_policies",
]

EXIT_CODES: Mapping[Verdict, int] = MappingProxyType({"pass": 0, "fail": 1, "inconclusive": 3})
EXIT_USAGE = 2
OUTCOMES = ("met", "not met", "indeterminate", "not tested")
_LEVELS = (0.8, 0.9999)
_TOP = ("name", "version", "level", "about", "clause", "rule")
_RULE = ("id", "metric", "slice", "at_most", "at_least", "clauses", "required", "note")
_CLAUSE = ("cite", "applies_from", "link")
_MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Clause:
    """A text that a rule is evidence for: how to cite it, and from which day (ISO date) it applies, "" = already."""

    id: str
    cite: str
    applies_from: str = ""
    link: str = ""

    def __str__(self) -> str:
        return f"{self.cite} (applies from {self.applies_from})" if self.applies_from else self.cite


@dataclass(frozen=True)
class Rule:
    """One criterion. `metric` may be qualified, "probe.metric"; `slice` "" is every row, see `judge` for patterns."""

    id: str
    metric: str
    bound: float
    kind: Literal["at_most", "at_least"]
    slice: str = ""
    clauses: tuple[str, ...] = ()
    required: bool = True
    note: str = ""


@dataclass(frozen=True)
class Policy:
    """A named, versioned set of rules. `digest` covers what is judged; `text` is the file as read."""

    name: str
    version: str
    level: float
    rules: tuple[Rule, ...]
    clauses: tuple[Clause, ...] = ()
    about: str = ""
    text: str = field(default="", repr=False, compare=False, metadata={"open": False})

    @cached_property
    def digest(self) -> str:
        """Over every field but `text`: comments and layout do not count."""
        return digest_of(self)

    def clause_text(self, rule: Rule) -> str:
        """The citations of a rule, with the days they apply from."""
        known = {clause.id: str(clause) for clause in self.clauses}
        return "; ".join(known[name] for name in rule.clauses)


# ------------------------------------------------------------------ reading


def shipped_policies() -> tuple[str, ...]:
    """Names of the policies that come with assay."""
    folder = resources.files("assay") / "policies"
    return tuple(sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml")))


def load_policy(path_or_name: str | Path, *, metrics: Collection[str] | None = None) -> Policy:
    """Read a policy from a file, or a shipped one by name ("default", "strict").

    With `metrics` (names, bare or qualified) a rule about any other metric is a problem too. Raises PolicyError with
    every problem of the file at once.

    >>> load_policy("default").level
    0.95
    """
    shipped = shipped_policies()
    if isinstance(path_or_name, str) and path_or_name in shipped:
        data = (resources.files("assay") / "policies" / f"{path_or_name}.toml").read_bytes()
    else:
        try:
            data = read_regular(Path(path_or_name))
        except StorageError as error:
            allowed = f"a TOML file, or one of {', '.join(shipped)}"
            raise PolicyError(Problem(f"policy {str(path_or_name)!r} cannot be read", allowed)) from error
    return parse_policy(data, metrics=metrics)


def parse_policy(data: bytes, *, metrics: Collection[str] | None = None) -> Policy:
    """A policy from the bytes of its TOML file. Raises PolicyError with every problem at once."""
    if len(data) > _MAX_BYTES:
        raise PolicyError(Problem(f"the policy has {len(data)} bytes", f"at most {_MAX_BYTES}"))
    try:
        text = data.decode()
        table = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise PolicyError(Problem(f"the policy is not TOML: {error}", "UTF-8 TOML")) from error
    reader = _Reader()
    reader.only(table, _TOP, "policy")
    clauses = tuple(_clause(reader, name, item) for name, item in reader.get(table, "clause", dict, {}).items())
    entries = reader.get(table, "rule", list, [])
    rules = tuple(_rule(reader, index, item, clauses) for index, item in enumerate(entries, start=1))
    if not rules:
        reader.say("the policy has no rule", "at least one [[rule]]")
    _consistent(reader, rules, metrics)
    level = reader.get(table, "level", float, 0.95)
    if not _LEVELS[0] <= level <= _LEVELS[1]:
        reader.say(f"level is {level}", f"{_LEVELS[0]} to {_LEVELS[1]}")
    policy = Policy(
        reader.get(table, "name", str, None),
        reader.get(table, "version", str, None),
        level,
        rules,
        clauses,
        reader.get(table, "about", str, ""),
        text,
    )
    if reader.problems:
        raise PolicyError(reader.problems)
    return policy


class _Reader:
    """Takes values out of TOML tables and collects what is wrong, so that all of it is told at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def say(self, what: str, allowed: str = "") -> None:
        self.problems.append(Problem(what, allowed))

    def only(self, table: Mapping[str, Any], names: Sequence[str], where: str) -> None:
        for name in table:
            if name not in names:
                self.say(f"{where}: {name!r} is not known", ", ".join(names))

    def get(self, table: Mapping[str, Any], name: str, kind: type, default: Any, where: str = "policy") -> Any:
        """A value of one TOML type; `default=None` means that it must be there. An integer serves as a float."""
        if name not in table:
            if default is None:
                self.say(f"{where}: {name!r} is missing", f"a {_KINDS[kind]}")
                return kind()
            return default
        value: Any = table[name]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            self.say(f"{where}: {name} is {value!r}", f"a {_KINDS[kind]}")
            return kind()
        if kind is str and default is None and not str(value).strip():
            self.say(f"{where}: {name} is empty", "a text")
        return value


_KINDS = {str: "text", float: "finite number", bool: "true or false value", list: "list of tables", dict: "table"}


def _clause(reader: _Reader, name: str, item: Any) -> Clause:
    where = f"clause {name!r}"
    if not isinstance(item, dict):
        reader.say(f"{where} is {item!r}", f"a table with {', '.join(_CLAUSE)}")
        return Clause(name, "")
    reader.only(item, _CLAUSE, where)
    applies = item.get("applies_from", "")
    if applies != "" and type(applies) is not datetime.date:
        reader.say(f"{where}: applies_from is {applies!r}", "a date such as 2027-12-02, without quotes")
    cite = reader.get(item, "cite", str, None, where)
    return Clause(name, cite, str(applies), reader.get(item, "link", str, "", where))


def _rule(reader: _Reader, index: int, item: Any, clauses: Sequence[Clause]) -> Rule:
    if not isinstance(item, dict):
        reader.say(f"rule {index} is {item!r}", f"a table with {', '.join(_RULE)}")
        return Rule("", "", 0.0, "at_most")
    where = f"rule {item.get('id', index)!r}"
    reader.only(item, _RULE, where)
    bounds = [kind for kind in ("at_most", "at_least") if kind in item]
    if len(bounds) != 1:
        reader.say(f"{where} has {' and '.join(bounds) or 'no bound'}", "exactly one of at_most, at_least")
    kind: Literal["at_most", "at_least"] = "at_least" if bounds == ["at_least"] else "at_most"
    names = item.get("clauses", [])
    known = [clause.id for clause in clauses]
    if not isinstance(names, list) or not all(isinstance(name, str) and name in known for name in names):
        reader.say(
            f"{where}: clauses is {names!r}", f"a list of {', '.join(known) or 'names (no [clause.…] is given)'}"
        )
        names = []
    return Rule(
        reader.get(item, "id", str, None, where),
        reader.get(item, "metric", str, None, where),
        reader.get(item, kind, float, 0.0, where),
        kind,
        reader.get(item, "slice", str, "", where),
        tuple(names),
        reader.get(item, "required", bool, True, where),
        reader.get(item, "note", str, "", where),
    )


def _consistent(reader: _Reader, rules: Sequence[Rule], metrics: Collection[str] | None) -> None:
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            reader.say(f"rule {rule.id!r} is given twice", "a different id for each rule")
        seen.add(rule.id)
        if metrics is not None and rule.metric and rule.metric not in metrics:
            reader.say(f"rule {rule.id!r}: metric {rule.metric!r} is not known", ", ".join(sorted(metrics)))


# ------------------------------------------------------------------ judging


def judge(
    policy: Policy,
    measurements: Sequence[Measurement],
    not_applicable: Sequence[NotApplicable] = (),
    *,
    num_systems: int = 1,
) -> tuple[Finding, ...]:
    """Every rule against every measurement it names; a rule that names none that was made gives "not tested".

    A rule's slice: "" is every row; "sex=*" any value of one column; "*" any one part ("sex", "sex=Female");
    "* & *" and "sex=* & race=Black" part by part; "**" any slice of any number of parts.
    `num_systems`: how many systems are judged side by side; all their rules share the level.

    Limits: Bonferroni holds whatever the dependence, at some cost in power; see `assay.estimation.widen` for how an
    interval is brought to the wider level, and what is approximate there.
    """
    cases = [(rule, item) for rule in policy.rules for item in measurements if _concerns(rule, item)]
    random = sum(1 for _, item in cases if not _is_exact(item))
    level = 1.0 - (1.0 - policy.level) / max(1, random * num_systems)
    findings = []
    for rule in policy.rules:
        found = [_finding(policy, rule, item, level, measurements) for one, item in cases if one is rule]
        findings.extend(found or [_not_tested(policy, rule, not_applicable)])
    return tuple(findings)


def overall(policy: Policy, findings: Sequence[Finding]) -> Verdict:
    """Any fail is a fail; else any required rule that is inconclusive (or no finding at all) is inconclusive."""
    required = {rule.id for rule in policy.rules if rule.required}
    judged = {finding.rule for finding in findings}
    if any(finding.verdict == "fail" for finding in findings):
        return "fail"
    open_ones = any(finding.verdict == "inconclusive" and finding.rule in required for finding in findings)
    if open_ones or not required <= judged or not any(finding.verdict == "pass" for finding in findings):
        return "inconclusive"
    return "pass"


def outcome(finding: Finding) -> str:
    """What a reviewer reads: one of `OUTCOMES`. Indeterminate = too little data; not tested = no measurement."""
    if finding.verdict == "inconclusive":
        return "indeterminate" if finding.measurement else "not tested"
    return "met" if finding.verdict == "pass" else "not met"


def _is_exact(item: Measurement) -> bool:
    return item.value is not None and item.low == item.value == item.high


def _concerns(rule: Rule, item: Measurement) -> bool:
    return rule.metric in (item.metric, f"{item.probe}.{item.metric}") and _slice_fits(rule.slice, item.slice)


def _slice_fits(pattern: str, name: str) -> bool:
    if pattern == "**":
        return name != ""
    wanted, parts = pattern.split(" & "), name.split(" & ")
    return len(wanted) == len(parts) and all(map(_part_fits, wanted, parts))


def _part_fits(pattern: str, part: str) -> bool:
    if pattern == "*":
        return part != ""
    return pattern == part or (pattern.endswith("=*") and part.startswith(pattern[:-1]))


def _finding(policy: Policy, rule: Rule, item: Measurement, level: float, others: Sequence[Measurement]) -> Finding:
    blank = Finding(
        rule.id,
        "inconclusive",
        "",
        item.digest,
        item.metric,
        item.slice,
        item.value,
        bound=f"{rule.kind} {rule.bound!r}",
        level=level,
        clause=policy.clause_text(rule),
    )
    if item.value is None:
        return replace(blank, reason=f"undefined: {item.reason}")
    low, high = widened(item, level)
    blank = replace(blank, low=low, high=high)
    if low is None and high is None:
        return replace(blank, reason="measured without an interval, so nothing can be said about other rows")
    sign = 1.0 if rule.kind == "at_most" else -1.0
    near, far = (low, high) if rule.kind == "at_most" else (high, low)
    words, wrong = ("at most", "above") if rule.kind == "at_most" else ("at least", "below")
    shown = f"{item.value:.6g} [{_show(low)}, {_show(high)}]"
    if far is not None and sign * far <= sign * rule.bound:
        if item.attempted and not item.scored:  # a system that never answers has no gaps, which is no merit
            return replace(blank, reason=f"{shown}, but all {item.attempted} examples were errored")
        return replace(blank, verdict="pass", reason=f"{shown} is {words} {rule.bound:g} at every point")
    if near is not None and sign * near > sign * rule.bound:
        return replace(blank, verdict="fail", reason=f"{shown} is {wrong} {rule.bound:g} at every point")
    end = "upper" if rule.kind == "at_most" else "lower"
    if far is None and item.reason.startswith(f"no {end} bound"):  # only older dossiers have it in other words
        return replace(blank, reason=f"{shown}: {item.reason}")
    needed, why = _needed(item, rule, level, others)
    reason = f"{shown} reaches to both sides of {rule.bound:g}; {why}"
    return replace(blank, reason=reason, required_num=needed)


def _needed(item: Measurement, rule: Rule, level: float, others: Sequence[Measurement]) -> tuple[int | None, str]:
    """Examples that would settle it, and in words; said otherwise where not even the best result could have passed."""
    num, where = item.scored or item.attempted, f" of {item.slice}" if item.slice else ""
    needed = required_num(item, bound=rule.bound, level=level)
    if needed is not None and needed > MOST_REQUIRED:
        return needed, "the value is too close to the bound to settle with more examples"
    if is_too_small(item, bound=rule.bound, kind=rule.kind, level=level):
        least = smallest_group(item.slice, others)
        small = f"{TOO_SMALL}: n = {num}" if least is None else f"{TOO_SMALL}: {least[0]} has n = {least[1]} of {num}"
        more = "" if needed is None else f"; about {needed - num} more{where} would settle it if the value stays"
        return needed, small + more
    if needed is None:
        return None, "no number of examples is known that would settle it"
    return needed, f"about {needed} examples{where} would settle it if the value stays (now {num})"


def _show(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.6g}"


def _not_tested(policy: Policy, rule: Rule, not_applicable: Sequence[NotApplicable]) -> Finding:
    reasons = [item.reason for item in not_applicable if rule.metric.split(".", maxsplit=1)[0] == item.probe]
    where = f" for {rule.slice}" if rule.slice else ""
    why = f": {'; '.join(reasons)}" if reasons else ""
    reason = f"not tested: {rule.metric} was not measured{where}{why}"
    bound = f"{rule.kind} {rule.bound!r}"
    clause = policy.clause_text(rule)
    return Finding(
        rule.id, "inconclusive", reason, "", rule.metric, rule.slice, bound=bound, level=policy.level, clause=clause
    )
