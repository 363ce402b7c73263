"""`assay slim`: the options of the verb. Nothing heavy is imported until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def slim(
    system: Annotated[str, typer.Argument(help="System or Hugging Face folder, or package.module:function.")],
    target: Annotated[str, typer.Option("--target", help="What shall be small: bytes, latency or joules.")] = "bytes",
    policy: Annotated[str, typer.Option("--policy", help="A shipped policy or a TOML file.")] = "default",
    treatments: Annotated[
        str, typer.Option("--treatments", help="Comma-separated; all that make systems cheaper when not given.")
    ] = "",
    accept: Annotated[
        str, typer.Option("--accept", help="The least verdict to accept: pass or inconclusive.")
    ] = "pass",
    data: Annotated[str, typer.Option("--data", help="Data for a model made elsewhere.")] = "",
    label: Annotated[str, typer.Option("--label", help="Label column of a data file.")] = "",
    groups: Annotated[str, typer.Option("--groups", help="Sensitive columns of a data file.")] = "",
    text: Annotated[str, typer.Option("--text", help="Column of a data file that holds texts.")] = "",
    out: Annotated[Path, typer.Option("--out", help="Folder for the chosen system and its dossier.")] = Path("slim"),
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder of remembered passes. [.assay/cache]")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else, also of an error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Find the cheapest treated system whose own dossier still passes; say what was rejected and why."""
    from assay.commands.console import Console
    from assay.commands.slim import run

    console = Console(json=json, quiet=quiet or json)
    run((system, (data, label, groups, text)), (policy, target, treatments, accept), (out, cache), console)
