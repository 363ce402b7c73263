"""`assay report`: one page from a dossier."""

from __future__ import annotations

from pathlib import Path

from assay.commands.console import Console
from assay.commands.files import require_file


def run(dossier: Path, out: Path | None, lang: str, console: Console) -> None:
    """Verify, then write the page."""
    from assay.report import write_report

    require_file(out)
    page = write_report(dossier, out=out, lang=lang)
    console.say(f"report: {page}")
    console.finish({"report": str(page)})
