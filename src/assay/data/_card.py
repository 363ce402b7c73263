"""A data set in a page of Markdown: what a reader of any result on it must know."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from assay.values import Array, Column, Data

MAX_SHOWN = 12  # values of one column


def card(data: Data) -> str:
    """The data card: source, label, features, groups by split, and the problems that were recorded when reading.

    Counts are of rows; "positive" is the share of the positive class (for a target: its mean). Open: it holds counts
    only, but a count of one or two rows can point at a person, so read it before giving it away.

    >>> from assay.data import load_adult
    >>> card(load_adult()).splitlines()[:3]
    ['# Data card: adult', '', 'Adult (Census Income)']
    """
    details = data.source.get("card", {})
    lines = [f"# Data card: {data.name}", ""]
    if details.get("title"):
        lines += [details["title"], ""]
    lines += ["## Source", ""]
    for name in ("address", "doi", "package", "licence", "citation", "sha256", "origin"):
        if data.source.get(name):
            lines.append(f"- {name}: {data.source[name]}")
    lines += [f"- digest of the data as split: {data.digest}", "", "## Rows", "", *_table(_split_rows(data))]
    target = f"classes {', '.join(data.classes)}" if data.classes else "a number"
    target = f"any number of {len(data.label_names)} labels" if data.label_names else target
    positive = f"; positive: {data.positive}" if data.positive else ""
    lines += ["", "## Columns", "", f"- label **{data.label}**: {target}{positive}"]
    lines += [f"- **{column.name}**: {_range(column)}" for column in data.columns]
    for i, column in enumerate(data.group_columns):
        lines += ["", f"## Group {column.name}", "", *_table(_group_rows(data, i))]
    for title, notes in (
        ("Limits", details.get("limits")),
        ("Recommended uses", details.get("recommended_uses")),
        ("Not recommended", details.get("not_recommended_uses")),
        ("Left out, rows of the source", _dropped(data)),
        ("Recorded while reading", data.source.get("problems")),
    ):
        if notes:
            lines += ["", f"## {title}", "", *(f"- {note}" for note in notes)]
    return "\n".join(" ".join(line.split()) for line in lines) + "\n"  # a name must not start a line of its own


def _dropped(data: Data) -> list[str]:
    """Why rows of the source are not here, and what was done about nearly equal ones."""
    notes = [f"{count:,}: {reason}" for reason, count in data.source.get("dropped", {}).items() if count]
    near = data.source.get("near_duplicates")
    if near:
        notes.append(f"none, but {near['rows']:,} rows nearly equal another ({near['rule']})")
    return notes


def _table(rows: Iterator[list[str]]) -> list[str]:
    head, *body = [[_cell_text(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)]


def _cell_text(cell: str) -> str:
    """Names come from a file: one must not end a cell."""
    return cell.replace("|", "\\|")


def _split_rows(data: Data) -> Iterator[list[str]]:
    yield ["split", "rows", *(data.label_names or data.classes or ("mean", "lowest", "highest"))]
    for name, split in data.splits.items():
        labels = split.labels
        if data.label_names:
            cells = [f"{count} ({_percent(int(count), len(labels))})" for count in labels.sum(axis=0)]
        elif data.classes:
            counts = np.bincount(labels, minlength=len(data.classes))
            cells = [f"{count} ({_percent(count, len(labels))})" for count in counts]
        else:
            cells = [f"{f(labels):.4g}" if len(labels) else "none" for f in (np.mean, np.min, np.max)]
        yield [name, str(len(split)), *cells]


def _group_rows(data: Data, index: int) -> Iterator[list[str]]:
    column = data.group_columns[index]
    outcome = f"{data.positive}" if data.positive else "mean" if not data.classes else ""
    outcome = "labels a row" if data.label_names else outcome
    names = list(data.splits)
    yield ["value", *(f"{name}: rows{f', {outcome}' if outcome else ''}" for name in names)]
    codes = [split.groups.codes[:, index] for split in data.splits.values()]
    for code, value in [*enumerate(column.categories), (-1, "missing")]:
        inside = [of_split == code for of_split in codes]
        if code == -1 and not any(mask.any() for mask in inside):
            continue
        yield [value, *(_cell(data, name, mask) for name, mask in zip(names, inside, strict=True))]


def _cell(data: Data, name: str, mask: Array) -> str:
    rows = int(mask.sum())
    text = f"{rows} ({_percent(rows, len(mask))})"
    labels = data.splits[name].labels[mask]
    if not rows or (data.classes and data.positive is None):
        return text
    if data.positive is None:
        return f"{text}, {labels.reshape(rows, -1).sum(axis=1).mean():.4g}"
    return f"{text}, {_percent(int((labels == data.classes.index(data.positive)).sum()), rows)}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _range(column: Column) -> str:
    if column.kind == "image":
        return f"pictures of {' × '.join(str(side) for side in column.shape)} (channels × height × width), 0 to 255"
    if column.kind == "text":
        return f"text, language {column.language}"
    if column.kind == "numeric":
        return f"number, {column.low:g} to {column.high:g} in training"
    shown = ", ".join(column.categories[:MAX_SHOWN])
    more = f" and {len(column.categories) - MAX_SHOWN} more" if len(column.categories) > MAX_SHOWN else ""
    return f"{len(column.categories)} values: {shown}{more}"
