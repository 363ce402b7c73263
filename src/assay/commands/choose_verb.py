"""`assay choose`: the options of the verb. Nothing heavy is imported until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def choose(
    data: Annotated[
        str, typer.Argument(help="CSV, Parquet, a folder or .safetensors of pictures, or a name of `data list`.")
    ],
    label: Annotated[str, typer.Option("--label", help="Label column of a data file.")] = "",
    groups: Annotated[str, typer.Option("--groups", help="Sensitive columns of a data file, comma-separated.")] = "",
    text: Annotated[str, typer.Option("--text", help="Column of a data file that holds texts.")] = "",
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="accuracy, balanced_accuracy, log_loss; squared_error, absolute_error. [accuracy, or squared_error]",
        ),
    ] = "",
    margin: Annotated[float, typer.Option("--margin", help="How much worse than the best is still good enough.")] = 0.0,
    parameters: Annotated[int | None, typer.Option("--max-parameters", help="Most parameters.")] = None,
    milliseconds: Annotated[float | None, typer.Option("--max-milliseconds", help="Most for one example.")] = None,
    joules: Annotated[float | None, typer.Option("--max-joules", help="Most for 1,000 examples.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Most for the whole search.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the chosen system.")] = None,
    seed: int = 0,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else, also of an error.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Find the cheapest model that is not shown to be worse than the best; say whether more data would help more."""
    from assay.commands.choose import run
    from assay.commands.console import Console

    limits = {"parameters": parameters, "milliseconds": milliseconds, "joules": joules, "minutes": minutes}
    console = Console(json=json, quiet=quiet or json)
    run((data, label, groups, text), (metric, margin), limits, (out, seed), console)
