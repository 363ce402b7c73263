"""The figures of one system: groups, slices, attributions, reliability, membership."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from assay.report import charts
from assay.report.figures import Figure, figure
from assay.report.numbers import number
from assay.report.patches import is_map, patch_figure
from assay.report.phrases import Phrases
from assay.values import Dossier, Measurement

GROUP_METRICS = (
    "error_rate",
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "group_mean_absolute_error",
    "mean_residual",
    "group_hamming_loss",
    "robust_accuracy",
)
MOST_ROWS = 40  # of one figure; the others stand in the table


def rows_of(dossier: Dossier, metric: str) -> list[Measurement]:
    """The measurements of a metric that have a value."""
    return [one for one in dossier.measurements if one.metric == metric and one.value is not None]


def group_columns(dossier: Dossier) -> list[str]:
    """Names of the sensitive columns the data declares."""
    return [str(column["name"]) for column in dossier.about["data"]["group_columns"]]


def named_columns(dossier: Dossier) -> list[str]:
    """Names that are the data's own: sensitive columns, and the columns of a table."""
    told = dossier.about["data"]["columns"] if kind_of(dossier) == "table" else []
    return [*group_columns(dossier), *(str(column["name"]) for column in told)]


def kind_of(dossier: Dossier) -> str:
    """What the inputs are: table, image or text."""
    kinds = [column["kind"] for column in dossier.about["data"]["columns"]]
    return str(kinds[0]) if kinds in (["image"], ["text"]) else "table"


def group_figures(dossier: Dossier, say: Phrases) -> list[Figure]:
    """Per metric: one figure over the groups of single columns, and one over intersections."""
    columns, found = set(group_columns(dossier)), []
    for metric in GROUP_METRICS:
        rows = [one for one in rows_of(dossier, metric) if _columns_of(one) <= columns and "=" in one.slice]
        single = [one for one in rows if len(_columns_of(one)) == 1]
        crossed = [one for one in rows if len(_columns_of(one)) > 1]
        title, shrunk = say.metric(metric), {one.slice: one for one in rows_of(dossier, f"shrunk_{metric}")}
        found += [_dots(single, title, say, shrunk=shrunk)] if single else []
        found += [_dots(crossed, f"{title} · {say('intersections')}", say, shrunk=shrunk)] if crossed else []
    return found


def slice_figure(dossier: Dossier, say: Phrases) -> Figure | None:
    """The slices in which errors gather, found by search."""
    found = rows_of(dossier, "accuracy_deficit")
    return _dots(found, say.metric("accuracy_deficit"), say) if found else None


def tree_figure(dossier: Dossier, say: Phrases) -> Figure | None:
    """The leaves of the error tree, most errors first."""
    found = rows_of(dossier, "leaf_error_rate")
    return _dots(found, say.metric("leaf_error_rate"), say) if found else None


def attribution_figures(dossier: Dossier, say: Phrases) -> list[Figure]:
    """Shapley values, LIME weights and gradients, columns or words in the same order in all; of pictures maps."""
    first = sorted(rows_of(dossier, "attribution"), key=lambda one: -(one.value or 0.0))
    place = {one.slice: index for index, one in enumerate(first)}
    others = [rows_of(dossier, metric) for metric in ("lime_weight", "gradient_attribution")]
    shown = []
    for found in (first, *(sorted(one, key=lambda row: place.get(row.slice, len(place))) for one in others)):
        title = say.metric(found[0].metric) if found else ""
        if is_map(found):
            shown.append(patch_figure(found, title, say))
        elif found:
            shown.append(_dots(found, title, say, counted=found[0].slice.startswith("word=")))
    return shown


def reliability_figure(dossier: Dossier, say: Phrases) -> Figure | None:
    """Observed frequency against predicted probability, by bins."""
    confidence = {one.slice: one.value for one in rows_of(dossier, "mean_confidence")}
    found = [
        {"confidence": confidence[one.slice], "frequency": one.value, "low": one.low, "high": one.high}
        for one in rows_of(dossier, "observed_frequency")
        if one.slice in confidence and one.low is not None and one.high is not None
    ]
    if not found:
        return None
    titles = (say("predicted probability"), say("observed frequency"))
    pairs = "; ".join(f"{number(one['confidence'])} → {number(one['frequency'])}" for one in found)
    chart = charts.reliability(found, titles=titles)
    return figure(chart, title=say("reliability"), description=f"{say('reliability description')} {pairs}.")


def membership_figures(dossier: Dossier, say: Phrases) -> list[Figure]:
    """The curve of the attack on logarithmic axes, and by group what it finds at one false claim in a hundred."""
    found = []
    points = sorted(
        (float(one.slice.removeprefix("fpr=")), one)
        for one in rows_of(dossier, "members_found")
        if one.slice.startswith("fpr=") and " & " not in one.slice
    )
    if points:
        titles = (say("false claims"), say("members found"))
        rows = [{"fpr": at, "tpr": one.value, "low": one.low or 0.0, "high": one.high or 0.0} for at, one in points]
        pairs = "; ".join(f"{number(at)} → {number(one.value)}" for at, one in points)
        chart = charts.roc(rows, titles=titles, names=(say("attack"), say("guessing")))
        found.append(figure(chart, title=say("roc title"), description=f"{say('roc description')} {pairs}."))
    shares = rows_of(dossier, "members_found_at_1_percent")
    if len(shares) > 1:
        found.append(_dots(shares, say.metric("members_found_at_1_percent"), say))
    return found


def _columns_of(one: Measurement) -> set[str]:
    return {part.split("=", 1)[0] for part in one.slice.split(" & ")}


def _dots(
    found: Sequence[Measurement],
    title: str,
    say: Phrases,
    *,
    counted: bool = True,
    shrunk: Mapping[str, Measurement] | None = None,
) -> Figure:
    """One dot and interval a row, and a second where a slice has a shrunken rate; in words: the smallest and the
    largest, and where to find all of them.
    """
    rows = [
        {
            "label": "\n".join(say.slice(part) for part in one.slice.split(" & ")),
            "value": one.value,
            "low": one.value if one.low is None else one.low,
            "high": one.value if one.high is None else one.high,
            "note": f"n={one.attempted:,}" if counted else "",
            **_shrunk((shrunk or {}).get(one.slice)),
        }
        for one in found[:MOST_ROWS]
    ]
    ordered = sorted(found, key=lambda one: one.value or 0.0)
    ends = [f"{say.slice(one.slice)} {say.value(one.value, one.low, one.high, one.unit)}" for one in ordered]
    words = say("figure in words").format(title=title, count=len(found), lowest=ends[0], highest=ends[-1])
    axis = f"{say.metric(found[0].metric)}{say('of the target') if found[0].unit == 'target' else ''}"
    drawn = figure(charts.intervals(rows, x_title=axis), title=title, description=words)
    notes = [say("rows shown").format(shown=len(rows), total=len(found))] if len(found) > len(rows) else []
    notes += [say("shrunken rates drawn")] if any("shrunk" in row for row in rows) else []
    return replace(drawn, note=" ".join(notes)) if notes else drawn


def _shrunk(one: Measurement | None) -> dict[str, float]:
    """What a row of `charts.intervals` says of a shrunken rate."""
    if one is None or one.value is None or one.low is None or one.high is None:
        return {}
    return {"shrunk": one.value, "shrunk_low": one.low, "shrunk_high": one.high}
