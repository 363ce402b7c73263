"""`assay compare`: treatments side by side, and what each costs everywhere else."""

from __future__ import annotations

from pathlib import Path

from assay.commands.console import VERDICT_CODES, Console
from assay.commands.files import require_folder
from assay.commands.sources import DataSpec, names, open_system
from assay.errors import Problem, UsageError
from assay.report.numbers import number
from assay.story import Comparison
from assay.values import Dossier

Choices = tuple[str, str, Path, Path | None]  # policy, probes, folder, cache folder
MARKS = {"better": "▲", "worse": "▼", "changed": "◆"}


def run(target: tuple[str, DataSpec], treatments: str, choices: Choices, console: Console) -> None:
    """Compare, file one dossier a system, write the report of the baseline's. Exit code by the baseline's verdict."""
    from assay.evidence.openpart import require_nameless
    from assay.story import compare_treatments, owner_workspace

    policy, probes, out, cache = choices
    require_folder(out, marks=["dossiers"])
    system, _ = open_system(*target)
    require_nameless(system.data)
    if not names(treatments):
        what = "no treatment is named, so there is nothing to compare with"
        raise UsageError(Problem(what, "--treatments a,b+c", "assay list treatments shows them"))
    chosen = list(names(probes)) or None
    with console.progress() as progress:
        workspace = owner_workspace(cache, progress=progress)
        comparison = compare_treatments(system, names(treatments), policy=policy, probes=chosen, workspace=workspace)
        progress("filing", 0, 0)
        dossiers = file_all(comparison, out)
    show(comparison, console)
    pages = report_all(dossiers[0], out)
    console.say(f"report: {pages[0]}")
    verdict = comparison.judged[0].verdict
    document = {"reports": [str(page) for page in pages], "dossiers": [one.path for one in dossiers]}
    console.finish(document | {"matrix": facts(comparison)}, code=VERDICT_CODES[verdict])


def facts(comparison: Comparison) -> dict[str, object]:
    """The matrix as plain data."""
    from assay.story import matrix_facts

    return matrix_facts(comparison)


def file_all(comparison: Comparison, out: Path) -> list[Dossier]:
    """One dossier a system, under `out/dossiers`; each holds the whole matrix."""
    from assay.story import file

    tables = {"matrix": facts(comparison)}
    return [file(one, out / "dossiers" / one.audit.system.name, tables=tables) for one in comparison.judged]


def report_all(dossier: Dossier, out: Path) -> list[Path]:
    """The report in each language, as `out/report.html` and `out/report.zh.html`."""
    from assay.report import LANGUAGES, write_report

    files = {lang: out / ("report.html" if lang == "en" else f"report.{lang}.html") for lang in LANGUAGES}
    return [write_report(Path(dossier.path), out=file, lang=lang) for lang, file in files.items()]


def show(comparison: Comparison, console: Console) -> None:
    """The matrix in the terminal: dimensions down, systems across, and the side effects in words."""
    matrix = comparison.matrix
    verdicts = {one.audit.system.name: one.verdict for one in comparison.judged}
    baseline = matrix.systems[0]
    head = ["dimension", *(name.removeprefix(baseline + "+") for name in matrix.systems)]
    rows = []
    for key in matrix.keys:
        row = [f"{key[1]} {key[2]}".strip()]
        for name in matrix.systems:
            cell = matrix.cells[name][key]
            found = cell.measurement
            mark = MARKS.get(cell.effect.verdict, "") if cell.effect else ""
            row.append(f"{number(found.value, found.unit)} {mark}" if found else "n/a")
        rows.append(row)
    rows.append(["verdict", *(verdicts[name] for name in matrix.systems)])
    console.say("the matrix (▲ better, ▼ worse than the baseline, paired, over the whole table)")  # never folded
    console.table(head, rows)
    console.say()
    for sentence in matrix.sentences.values():
        console.say("· " + sentence.removeprefix(baseline + "+"))
    for name, why in matrix.errored.items():
        console.say(f"· {name}: errored: {why}")
    console.say("Pareto set: " + ", ".join(name.removeprefix(baseline + "+") for name in matrix.pareto))
