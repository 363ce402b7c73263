"""`assay treat`: one treatment, or several in order."""

from __future__ import annotations

from pathlib import Path

from assay.commands.console import VERDICT_CODES, Console
from assay.commands.files import require_folder
from assay.commands.options import parse_options
from assay.commands.sources import DataSpec, names, open_system, save
from assay.errors import Problem, UsageError
from assay.report.numbers import bounds, number


def run(source: tuple[str, DataSpec], treatment: str, options: str, out: Path, console: Console) -> None:
    """Treat a system and write the new one; the folder of the input stays as it is."""
    from assay.evidence.keys import key_place
    from assay.models.weight_files import form_of
    from assay.story import can_be_stored, treat

    if not treatment:
        allowed = "--with NAME, or --suggest"
        raise UsageError(Problem("no treatment is named", allowed, "assay list treatments shows them"))
    target = source[0]
    if Path(target).resolve() == out.resolve():
        raise UsageError(Problem("the treated system would replace the one it came from", "another folder for --out"))
    require_folder(out, marks=["system.json"])
    chosen = parse_options(options)
    system, how = open_system(*source)
    if not can_be_stored(system):
        what = f"{system.name} cannot be stored in a folder, so what is made of it could not be either"
        allowed = "a system folder, or a module made by assay.models.build"
        raise UsageError(Problem(what, allowed, "assay compare treats and measures it without storing"))
    with console.progress() as progress:
        progress(f"treating: {treatment}", 0, 0)
        treated = treat(system, treatment, options=chosen)
    save(treated, how, out)
    step = treated.lineage[-1]
    for name, value in step.outcome.items():
        if isinstance(value, (int, float, str)):
            console.say(f"  {name.replace('_', ' ')}: {value}")
    if form_of(treated.lineage).is_encrypted:
        console.say(f"key:    {key_place()}; keep a copy, for without it nobody can restore the weights")
    console.say(f"system: {out} (digest {treated.digest[:16]}); it has no evidence until it is audited")
    console.say(f"next:   assay audit {out}")
    console.finish({"system": str(out), "digest": treated.digest, "lineage": treated.lineage})


def run_suggest(source: tuple[str, DataSpec], asked: tuple[str, int | None], policy: str, console: Console) -> None:
    """Try treatments on each finding that did not pass, and show what each did. Exit code by the system's verdict."""
    from assay.advise import suggest
    from assay.story import owner_workspace

    system, _ = open_system(*source)
    treatments, most = list(names(asked[0])) or None, asked[1]
    with console.progress() as progress:
        workspace = owner_workspace(progress=progress)
        found = suggest(system, policy=policy, treatments=treatments, most=most, workspace=workspace)
    rows = []
    for one in found.suggestions:
        effect = one.effect
        shown = "" if effect is None else f"{number(effect.value)} {bounds(effect.low, effect.high)}"
        where = f"{one.rule} {one.slice}".strip()
        rows.append([where, one.treatment, one.standing, shown, one.verdict or "", one.reason or one.side_effects])
    if not found.findings:
        console.say("every rule passes: there is nothing to treat")
    if rows:
        head = ["finding", "treatment", "measured here", "effect", "verdict after", "what else moved"]
        console.table(head, rows, title=f"{system.name}: what was tried on what did not pass, best first")
    for finding in found.without:
        where = f"{finding.rule} {finding.slice}".strip()
        console.say(f"{where}: no treatment declares to move {finding.metric}; name some with --with a,b to try them")
    if found.not_tried:
        console.say(f"not tried, as --most is {most}: {', '.join(found.not_tried)}")
    document = {"findings": found.findings, "suggestions": found.suggestions, "without": found.without}
    document["not_tried"] = found.not_tried
    console.finish(document | {"verdict": found.judged.verdict}, code=VERDICT_CODES[found.judged.verdict])
