"""`assay audit`: measure, judge, file."""

from __future__ import annotations

from pathlib import Path

from assay.commands.console import VERDICT_CODES, Console
from assay.commands.files import notes_of, require_folder
from assay.commands.sources import DataSpec, names, open_system
from assay.report.numbers import bounds, limit, number
from assay.story import Judged
from assay.values import System

Choices = tuple[str, str, bool, Path, Path | None]  # policy, probes, plan only, dossier folder, cache folder


def run(target: str, spec: DataSpec, choices: Choices, console: Console) -> None:
    """Audit one system; with `--plan` only say what that would run. Exit code by the verdict."""
    from assay.evidence.openpart import require_nameless
    from assay.story import audit, file, owner_workspace

    policy, probes, plan_only, out, cache = choices
    require_folder(out, marks=["open", "statement.dsse.json"])
    system, _ = open_system(target, spec)
    if not plan_only:
        require_nameless(system.data)
    chosen = list(names(probes)) or None
    for note in notes_of(system.data) if spec[0] else ():
        console.say(f"note: {note}")
    with console.progress() as progress:
        workspace = owner_workspace(cache, progress=progress)
        if not plan_only:
            judged = audit(system, policy=policy, probes=chosen, workspace=workspace)
            progress("filing", 0, 0)
            dossier = file(judged, out)
    if plan_only:
        show_plan(system, chosen, cache, console)
        return
    show_findings(judged, console)
    console.say(f"dossier: {out} (evidence {dossier.evidence_id[:16]}), next: assay report {out}")
    document = {"dossier": str(out), "evidence_id": dossier.evidence_id, "verdict": judged.verdict}
    details = {"findings": judged.findings, "measurements": judged.audit.measurements}
    console.finish(
        document | details | {"not_applicable": judged.audit.not_applicable, "ledger": judged.audit.ledger},
        code=VERDICT_CODES[judged.verdict],
    )


def show_plan(system: System, probes: list[str] | None, cache: Path | None, console: Console) -> None:
    """Passes, rows, trainings and expected seconds, from a timing of two small batches that are not counted."""
    from assay.engine import plan
    from assay.story import owner_workspace

    planned = plan(system, probes=probes, workspace=owner_workspace(cache), timed=True)
    rows = [[one.name, f"{one.rows:,}", ", ".join(one.probes)] for one in planned.passes]
    console.table(["pass", "model rows", "for"], rows, title=f"plan for {system.name}")
    for skipped in planned.not_applicable:
        console.say(f"not applicable: {skipped.probe}, because {skipped.reason}")
    console.say(f"in all {planned.rows:,} model rows and {planned.trainings} trainings of reference models,")
    console.say(f"about {planned.seconds or 0:,.1f} s of model time (expected from two batches of 256 rows)")
    console.finish({"plan": planned, "rows": planned.rows})


def show_findings(judged: Judged, console: Console) -> None:
    """The verdict table of one system, worst first."""
    units = {one.digest: one.unit for one in judged.audit.measurements}
    order = ("fail", "inconclusive", "pass")
    rows = []
    for one in sorted(judged.findings, key=lambda found: (order.index(found.verdict), found.rule, found.slice)):
        unit = units.get(one.measurement, "")
        shown = f"{number(one.value, unit)} {bounds(one.low, one.high, unit)}"
        bound = limit(one.bound, unit)
        rows.append([one.verdict, one.rule, one.slice, shown, bound, one.reason if one.verdict != "pass" else ""])
    head = ["verdict", "rule", "slice", "value and interval", "bound", "why"]
    console.table(head, rows, title=f"{judged.audit.system.name} by policy {judged.policy.name}")
    for skipped in judged.audit.not_applicable:
        console.say(f"not applicable: {skipped.probe}, because {skipped.reason}")
    console.say(f"verdict: {judged.verdict}")
