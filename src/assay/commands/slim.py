"""`assay slim`: search, show what was tried and why it fell out, save the chosen system with its dossier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from assay.commands.audit import show_findings
from assay.commands.console import VERDICT_CODES, Console
from assay.commands.files import require_folder
from assay.commands.sources import DataSpec, names, open_system, save
from assay.report.numbers import number

if TYPE_CHECKING:
    from assay.advise import Slimmed

Choices = tuple[str, str, str, str]  # policy, target, treatments, the least verdict that is accepted
Places = tuple[Path, Path | None]  # out, cache


def run(source: tuple[str, DataSpec], choices: Choices, places: Places, console: Console) -> None:
    """Exit code by the verdict of what was chosen; 1 when nothing was."""
    from assay.advise import slim
    from assay.errors import Problem, UsageError
    from assay.evidence.openpart import require_nameless
    from assay.story import file, owner_workspace

    policy, target, treatments, accept = choices
    if accept not in ("pass", "inconclusive"):
        raise UsageError(Problem(f"--accept {accept}", "pass, inconclusive"))
    out, cache = places
    require_folder(out, marks=["system", "dossier"])
    system, how = open_system(*source)
    require_nameless(system.data)
    wanted = list(names(treatments)) or None
    with console.progress() as progress:
        workspace = owner_workspace(cache, progress=progress)
        found = slim(
            system, policy=policy, target=target, treatments=wanted, workspace=workspace,  # type: ignore[arg-type]
            accept=("pass",) if accept == "pass" else ("pass", "inconclusive"),
        )  # fmt: skip
        dossier = None
        if found.chosen is not None:
            progress("filing", 0, 0)
            save(found.chosen.audit.system, how, out / "system")
            dossier = file(found.chosen, out / "dossier")
    show(found, console)
    document = {
        "target": found.target,
        "chain": found.chain,
        "attempts": found.attempts,
        "num_audits": found.num_audits,
    }
    if found.chosen is None or dossier is None:
        console.say(
            "nothing was accepted: the system stays as it is. See what failed above; assay treat --suggest helps"
        )
        console.finish(document | {"verdict": None}, code=VERDICT_CODES["fail"])
        return
    show_findings(found.chosen, console)
    console.say(f"system: {out / 'system'}; dossier: {dossier.path}, next: assay report {dossier.path}")
    verdict = found.chosen.verdict
    console.finish(document | {"verdict": verdict, "dossier": dossier.path}, code=VERDICT_CODES[verdict])


def show(found: Slimmed, console: Console) -> None:
    """Every chain, cheapest first, and its fate."""
    rows = [
        [one.chain or "as it is", "" if one.cost is None else number(one.cost, found.unit),
         "" if one.num_bytes is None else number(one.num_bytes, "bytes"), one.verdict or "", one.fate]
        for one in found.attempts
    ]  # fmt: skip
    title = f"{len(rows)} systems by {found.target}; {found.num_audits} whole audits; verdicts share one level"
    console.table(["treatments", found.target, "bytes", "verdict", "fate"], rows, title=title)
    console.say(f"chosen: {found.chain or 'the system as it is'}" if found.chosen else "chosen: none")
