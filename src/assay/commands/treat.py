"""`assay treat`: one treatment, or several in order."""

from __future__ import annotations

from pathlib import Path

from assay.commands.console import Console
from assay.commands.files import require_folder
from assay.commands.options import parse_options
from assay.commands.sources import DataSpec, open_system, save
from assay.errors import Problem, UsageError


def run(source: tuple[str, DataSpec], treatment: str, options: str, out: Path, console: Console) -> None:
    """Treat a system and write the new one; the folder of the input stays as it is."""
    from assay.story import treat

    target = source[0]
    if Path(target).resolve() == out.resolve():
        raise UsageError(Problem("the treated system would replace the one it came from", "another folder for --out"))
    require_folder(out, marks=["system.json"])
    chosen = parse_options(options)
    system, how = open_system(*source)
    with console.progress() as progress:
        progress(f"treating: {treatment}", 0, 0)
        treated = treat(system, treatment, options=chosen)
    save(treated, how, out)
    step = treated.lineage[-1]
    for name, value in step.outcome.items():
        if isinstance(value, (int, float, str)):
            console.say(f"  {name.replace('_', ' ')}: {value}")
    console.say(f"system: {out} (digest {treated.digest[:16]}); it has no evidence until it is audited")
    console.say(f"next:   assay audit {out}")
    console.finish({"system": str(out), "digest": treated.digest, "lineage": treated.lineage})
