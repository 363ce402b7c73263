"""From a dossier to a page for people: one self-contained file, in English or Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.dossier import load_dossier
from assay.evidence.openpart import parse_json
from assay.evidence.signing import key_id
from assay.report.charts import png
from assay.report.matrix_section import matrix_chart
from assay.report.page import render
from assay.report.phrases import LANGUAGES, Phrases
from assay.storage import read_regular, write_atomic

__all__ = ["LANGUAGES", "matrix_png", "read_tables", "render", "write_report"]


def write_report(dossier: Path, *, out: Path | None = None, lang: str = "en") -> Path:
    """Verify a dossier, then write its report; returns the file's path (default: beside the dossier's folder).

    Raises DossierError when anything is not as it was signed, UsageError for a language there is no report in.
    """
    folder = Path(dossier)
    Phrases(lang)  # an unknown language is said before any work
    found = load_dossier(folder)
    suffix = "" if lang == "en" else f".{lang}"
    target = out or folder.with_name(f"{folder.name}{suffix}.html")
    signer = key_id(read_regular(folder / "signer.pub"))
    page = render(found, tables=read_tables(folder), signed_by=signer, lang=lang)
    write_atomic(target, page.encode())
    return target


def read_tables(folder: Path) -> dict[str, Any]:
    """The further tables of a verified dossier's open part, by name."""
    files = sorted((folder / "open").glob("*.json"))
    return {file.stem: parse_json(read_regular(file), file.name) for file in files if file.stem != "dossier"}


def matrix_png(matrix: Mapping[str, Any], *, lang: str = "en") -> bytes:
    """The matrix table of a dossier as a PNG picture, drawn as in the report."""
    return png(matrix_chart(matrix, Phrases(lang)), chinese=lang == "zh")
