"""The matrix: every system on every dimension, and what each treatment changed, paired, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from assay.access.timings import TIMED, in_turns
from assay.engine import draws_for, remeasure
from assay.errors import Problem, UsageError
from assay.estimation.changes import told
from assay.estimation.effects import Effect, above_floor, effects, flip_floor
from assay.estimation.seeds import moved_in, seed_differences
from assay.observe import Ledger, Workspace
from assay.values import Audit, Measurement

Key = tuple[str, str, str]
MOST_GROUPS = 3  # that a sentence names


@dataclass(frozen=True)
class Cell:
    """One system on one dimension. `effect` is the paired difference to the baseline; None for the baseline itself."""

    measurement: Measurement | None
    effect: Effect | None
    reason: str = ""  # why there is no measurement


@dataclass(frozen=True)
class Matrix:
    """Systems by dimensions. `cells[system][key]`; the baseline is the first system."""

    systems: tuple[str, ...]
    keys: tuple[Key, ...]
    cells: Mapping[str, Mapping[Key, Cell]]
    pareto: tuple[str, ...]
    sentences: Mapping[str, str]
    level: float
    details: Mapping[str, tuple[Effect, ...]] = field(default_factory=dict)  # every slice, a family of its own
    errored: Mapping[str, str] = field(default_factory=dict)  # systems that could not be made or audited, and why
    ledger: Mapping[str, int] = field(default_factory=dict)  # model rows that comparing itself ran


def compare(audits: Sequence[Audit], *, workspace: Workspace, errored: Mapping[str, str] | None = None) -> Matrix:
    """Compare audited systems with the first of them, on the same test rows, without running any model again.

    Passive measurements are taken once more from the recorded passes under joint draws, so that each difference is
    paired by row; active ones kept their replicates under draws keyed by the same rows. Only timings are taken again,
    in turns, because the load of a machine moves between audits. Differences on the headline dimensions form one
    family, and differences on slices another; each is controlled as a whole. Where a seed lies between two systems, a
    difference counts only against seed noise too; where that is not measured, it is not called better or worse. Nor
    is a difference of shares that the two systems' numeric noise (`numeric_flip_rate`) can make.
    Raises UsageError when the systems were not measured on the same test rows.
    """
    _require_same_rows(audits)
    ledger = Ledger(workspace.row_budget)
    systems = [one.system for one in audits]
    paired = in_turns(systems, _paired_measurements(audits, workspace), workspace, ledger=ledger)
    keys = tuple(dict.fromkeys(m.key for one in audits for m in one.measurements if m.headline))
    baseline = audits[0].system
    spreads = {
        one.name: seed_differences(baseline, one, workspace=workspace, ledger=ledger, moved=moved_in(paired[0], found))
        for one, found in zip(systems[1:], paired[1:], strict=True)
    }
    headline = _family(paired, spreads, set(keys), workspace.level)
    slices = {key for found in paired for key in found if not _is_curve_of_group(key)} - set(keys)
    detail = _family(paired, spreads, slices, workspace.level)
    cells = {
        one.system.name: {key: _cell(one, key, found, headline.get((one.system.name, key))) for key in keys}
        for one, found in zip(audits, paired, strict=True)
    }
    names = tuple(one.system.name for one in audits)
    details = {name: tuple(effect for (owner, _), effect in detail.items() if owner == name) for name in names}
    columns = {column.name for column in baseline.data.group_columns}
    told_of = {name: [one for one in details[name] if _is_of_groups(one, columns)] for name in names}
    sentences = {name: side_effects(name, cells[name], told_of[name], paired[0]) for name in names[1:]}
    return Matrix(
        names,
        keys,
        cells,
        pareto_set(names, keys, cells),
        sentences,
        workspace.level,
        details,
        dict(errored or {}),
        dict(ledger.rows),
    )


def _require_same_rows(audits: Sequence[Audit]) -> None:
    if not audits:
        raise UsageError(Problem("there is nothing to compare", "at least one audited system"))
    digests = {one.system.data.splits["test"].digest for one in audits}
    names = [one.system.name for one in audits]
    problems = []
    if len(digests) > 1:
        problems.append(Problem("the systems were measured on different test rows", "one test split for all"))
    if len(set(names)) < len(names):
        problems.append(Problem(f"two systems have the same name: {', '.join(names)}", "a name for each"))
    if problems:
        raise UsageError(problems)


def _paired_measurements(audits: Sequence[Audit], workspace: Workspace) -> list[dict[Key, Measurement]]:
    systems = [one.system for one in audits]
    observations = [one.observations["test"] for one in audits]
    draws = draws_for(systems, observations, workspace)
    found = []
    for number, (one, observation) in enumerate(zip(audits, observations, strict=True)):
        workspace.progress("pairing by row", number, len(audits))
        table = {m.key: m for m in one.measurements}
        table |= {m.key: m for m in remeasure(one.system, observation, draws) if m.key in table}
        found.append(table)
    return found


def _family(
    paired: Sequence[Mapping[Key, Measurement]],
    spreads: Mapping[str, Mapping[Key, tuple[float, ...]] | None],
    keys: set[Key],
    level: float,
) -> dict[tuple[str, Key], Effect]:
    index: list[tuple[str, Key]] = []
    pairs: list[tuple[Measurement, Measurement]] = []
    for found, name in zip(paired[1:], spreads, strict=True):
        for key in sorted(keys & found.keys() & paired[0].keys()):
            if found[key].unit != "joules" and not _is_shown_only(found[key]):  # joules are taken minutes apart
                index.append((name, key))
                pairs.append((found[key], paired[0][key]))
    seeds = [(spreads[name] or {}).get(key) for name, key in index]
    made = effects(pairs, level=level, seed_spread=seeds) if pairs else ()
    floors = {name: flip_floor(found, paired[0]) for found, name in zip(paired[1:], spreads, strict=True)}
    return {
        (name, key): above_floor(_only_against_both(effect, after, spreads[name]), after.unit, floors[name])
        for (name, key), effect, (after, _) in zip(index, made, pairs, strict=True)
    }


def _is_shown_only(one: Measurement) -> bool:
    """Points of a curve, say: nothing to pair by, and no direction that would be better."""
    return one.better == "neither" and one.replicates is None


def _only_against_both(effect: Effect, after: Measurement, spread: Mapping[Key, tuple[float, ...]] | None) -> Effect:
    """Take back a verdict that one training run cannot carry. Times and sizes are of the architecture, not the seed."""
    if spread is None or effect.key in spread or after.replicates is None or effect.key[1] in TIMED:
        return effect
    if effect.verdict not in ("better", "worse", "changed"):
        return effect
    why = "measured for this probe" if spread else "known, as no reference model was measured"
    reason = f"one training run: what the seed moves is not {why}"
    return replace(effect, verdict="no detectable change", reason=reason)


def _cell(one: Audit, key: Key, found: Mapping[Key, Measurement], effect: Effect | None) -> Cell:
    """What the audit measured; a timing as it was in turns, so that effects are differences of what is shown."""
    for measurement in one.measurements:
        if measurement.key == key:
            shown = found[key] if key[1] in TIMED else measurement
            why = "taken minutes apart, so not compared" if shown.unit == "joules" else effect.reason if effect else ""
            return Cell(shown, effect, shown.reason or why)
    reasons = {skipped.probe: skipped.reason for skipped in one.not_applicable}
    return Cell(None, None, reasons.get(key[0], "it was not measured"))


def pareto_set(names: Sequence[str], keys: Sequence[Key], cells: Mapping[str, Mapping[Key, Cell]]) -> tuple[str, ...]:
    """Systems that no other beats: none is at least as good on every measured dimension and better on one.

    By point value, over dimensions with a direction that all systems have a value for.
    """
    points: dict[str, list[float]] = {name: [] for name in names}
    for key in keys:
        found = [cells[name][key].measurement for name in names]
        if any(one is None or one.value is None or one.better == "neither" for one in found):
            continue
        for name, one in zip(names, found, strict=True):
            if one is not None and one.value is not None:
                points[name].append(one.value if one.better == "higher" else -one.value)
    return tuple(
        name
        for name in names
        if not any(
            other != name
            and all(a >= b for a, b in zip(points[other], points[name], strict=True))
            and points[other] != points[name]
            for other in names
        )
    )


def side_effects(
    name: str,
    cells: Mapping[Key, Cell],
    groups: Sequence[Effect] = (),
    before: Mapping[Key, Measurement] | None = None,
) -> str:
    """What a treatment moved, in words, with intervals; on how many dimensions no change can be seen; which groups.

    Times and sizes in per cent of the baseline's, shares in points. Of the groups at most MOST_GROUPS, worst first.
    """
    moved, still, unknown = [], 0, 0
    for key, cell in cells.items():
        effect = cell.effect
        if effect is None or effect.value is None or effect.low is None or effect.high is None:
            unknown += 1
        elif effect.verdict == "no detectable change":
            still += 1
        else:
            moved.append(_told(effect, cell.measurement, (before or {}).get(key)))
    text = "; ".join(moved) or "nothing moved detectably"
    text += f"; no detectable change in {still} of {len(cells)}"
    changed = [one for one in groups if one.verdict in ("worse", "better")]
    changed.sort(key=lambda one: (one.verdict == "better", -_clearness(one)))
    shown = [_told(one, None, (before or {}).get(one.key)) for one in changed[:MOST_GROUPS]]
    more = f"; and {len(changed) - len(shown)} more" if len(changed) > len(shown) else ""
    text += f"; of groups: {'; '.join(shown)}{more}" if shown else ""
    return f"{name}: {text}" + (f"; {unknown} not comparable" if unknown else "")


def _is_curve_of_group(key: Key) -> bool:
    """A point of a curve within one group: too many to be compared each, and as many as a small table has rows."""
    return key[2].startswith("coverage=") and " & " in key[2]


def _is_of_groups(effect: Effect, columns: set[str]) -> bool:
    """Whether its slice is of group columns alone; a rate and its shrunk twin would say the same thing twice."""
    named = {part.partition("=")[0] for part in effect.key[2].split(" & ")}
    return "=" in effect.key[2] and named <= columns and not effect.key[1].startswith("shrunk_")


def _told(effect: Effect, after: Measurement | None, before: Measurement | None) -> str:
    known = before or after
    place = f" of {effect.key[2]}" if effect.key[2] else ""
    change = told(
        (effect.value, effect.low, effect.high), known.unit if known else "", before.value if before else None
    )
    return f"{effect.key[1].replace('_', ' ')}{place} {change} ({effect.verdict})"


def _clearness(effect: Effect) -> float:
    """Distance of the interval from no change, against its width."""
    if effect.low is None or effect.high is None:
        return 0.0
    return min(abs(effect.low), abs(effect.high)) / max(effect.high - effect.low, 1e-12)
