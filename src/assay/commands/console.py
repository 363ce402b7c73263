"""What a person sees: progress with a rate and a remaining time, one JSON document, plain lines."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from assay.values import Progress, plain, quiet

VERDICT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}


@dataclass(frozen=True)
class Console:
    """`json` prints one document at the end; `quiet` shows no progress. Colour honours NO_COLOR (through rich)."""

    json: bool
    quiet: bool

    def say(self, text: str = "") -> None:
        """One line for a person; nothing with --json."""
        if not self.json:
            print(text)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
        """A table for a person, as wide as the terminal; nothing with --json."""
        if self.json:
            return
        from rich.console import Console as Rich
        from rich.table import Table

        wide = Rich(width=None if sys.stdout.isatty() else 160)
        table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for name in head:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(_verdict_colour(cell) for cell in row))
        wide.print(table)

    def finish(self, document: Mapping[str, Any], *, code: int = 0) -> None:
        """Print the document with --json, and leave with the code."""
        if self.json:
            print(json.dumps(plain(document), ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False))
        if code:
            raise typer.Exit(code)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A callback that draws a bar on a terminal's stderr, with a rate and the time left; else nothing."""
        if self.quiet or not sys.stderr.isatty():
            yield quiet
            return
        from rich.console import Console as Rich
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        shown = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # Systems that are treated and measured take minutes each: the rate is that of the last hour.
        with Bars(*shown, console=Rich(stderr=True), transient=True, speed_estimate_period=3600) as bars:
            task = bars.add_task("", total=None, rate="")

            def update(what: str, done: int, total: int) -> None:
                if bars.tasks[0].total != (total or None):
                    bars.reset(task, total=total or None, description=what, rate="")
                speed = bars.tasks[0].speed
                rate = f"{speed:,.1f}/s" if speed else ""
                bars.update(task, completed=done, description=what[:80], rate=rate)

            yield update


def _verdict_colour(cell: str) -> str:
    colours = {"pass": "green", "better": "green", "fail": "red", "worse": "red", "inconclusive": "yellow"}
    text = cell.replace("[", "\\[")
    word = cell.split(" ", 1)[0]
    return f"[{colours[word]}]{text}[/]" if word in colours else text


def write_crash(error: BaseException) -> str:
    """Write a traceback to a private temporary file and return its name."""
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile("w", prefix="assay-", suffix=".log", delete=False) as log:
        log.write(text)
    return str(Path(log.name))
