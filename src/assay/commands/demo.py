"""`assay demo`: the whole story on Adult, in one command."""

from __future__ import annotations

import time
from pathlib import Path

from assay.commands.compare import facts, file_all, report_all, show
from assay.commands.console import VERDICT_CODES, Console
from assay.commands.files import require_folder
from assay.commands.sources import open_data, save

TREATMENTS = ("reweigh_groups", "group_thresholds", "quantize_int8", "prune_magnitude", "distill", "dp_sgd")


def run(out: Path, console: Console) -> None:
    """Train, audit, treat six ways, compare, judge, file and report. Exits 0: that the baseline fails is the lesson."""
    from assay.commands.audit import show_findings
    from assay.story import compare_treatments, owner_workspace
    from assay.train.system import train_system

    require_folder(out, marks=["dossiers", "system", "cache"])  # one that was interrupted goes on
    started = time.perf_counter()
    data, how = open_data(("adult", "", ""))
    with console.progress() as progress:
        workspace = owner_workspace(out / "cache", progress=progress)
        system = train_system(data, progress=progress)
        save(system, how, out / "system")
        comparison = compare_treatments(system, TREATMENTS, workspace=workspace)
        progress("filing", 0, 0)
        dossiers = file_all(comparison, out)
        pages = report_all(dossiers[0], out)
    show(comparison, console)
    console.say()
    show_findings(comparison.judged[0], console)
    console.say(f"\ndone in {time.perf_counter() - started:.0f} s. Open the report: {pages[0]}")
    console.say(f"in Chinese: {pages[1]}; check the evidence: assay verify {dossiers[0].path}")
    verdicts = {one.audit.system.name: one.verdict for one in comparison.judged}
    console.finish(
        {
            "reports": [str(page) for page in pages],
            "dossiers": [one.path for one in dossiers],
            "verdicts": verdicts,
            "exit_codes": VERDICT_CODES,
            "matrix": facts(comparison),
        }
    )
