"""`assay treat`: one treatment, or several in order."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from assay.commands.console import Console
from assay.commands.sources import names, open_system, save
from assay.errors import Problem, UsageError


def run(target: str, treatment: str, options: str, out: Path, console: Console) -> None:
    """Treat a system and write the new one; the folder of the input stays as it is."""
    from assay.story import treat

    if Path(target).resolve() == out.resolve():
        raise UsageError(Problem("the treated system would replace the one it came from", "another folder for --out"))
    chosen = parse_options(options)
    system, how = open_system(target, ("", "", ""))
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


def parse_options(text: str) -> dict[str, Any]:
    """`name=value` pairs; values are TOML (numbers, true, "text", [1, 2]), anything else is text.

    >>> parse_options("sparsity=0.5,structured=true,column=sex")
    {'sparsity': 0.5, 'structured': True, 'column': 'sex'}
    """
    found: dict[str, Any] = {}
    for pair in names(text):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(Problem(f"{pair!r} is no option", "name=value, comma-separated"))
        try:
            found[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value.strip()
    return found
