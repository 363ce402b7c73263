"""From a dossier to one page: what is shown, in which order. Reads evidence; measures nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from assay.errors import Problem, UsageError
from assay.report import charts
from assay.report.numbers import bounds, number
from assay.values import Dossier, Finding, Measurement

LANGUAGES = ("en", "zh")
GROUP_METRICS = ("error_rate", "selection_rate", "true_positive_rate", "false_positive_rate", "mean_absolute_error")
MARKS = {"better": "▲", "worse": "▼", "no detectable change": "", "changed": "◆", "not comparable": "–"}


class Phrases:
    """Texts of one language, by key; a key without a text shows itself, so nothing is ever silently dropped."""

    def __init__(self, lang: str) -> None:
        if lang not in LANGUAGES:
            raise UsageError(Problem(f"there is no report in {lang!r}", ", ".join(LANGUAGES)))
        self.lang = lang
        self._texts: Mapping[str, Any] = _texts(lang)

    def __call__(self, key: str) -> str:
        """The text of a key."""
        return str(self._texts.get(key, key))

    def metric(self, name: str, part: str = "label") -> str:
        """A metric's label, what it means, or what it does not show ("label", "means", "limits")."""
        entry = self._texts.get("metrics", {}).get(name, {})
        return str(entry.get(part, name.replace("_", " ") if part == "label" else ""))

    def slice(self, name: str) -> str:
        """A slice as shown: every row when it is empty."""
        return name or self("all rows")


@cache
def _texts(lang: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((resources.files("assay.report") / "i18n" / f"{lang}.json").read_text("utf-8"))
    return found


def render(dossier: Dossier, *, tables: Mapping[str, Any], signed_by: str, lang: str = "en") -> str:
    """The page as HTML text. `tables` are the further tables of the open part, such as the matrix."""
    say = Phrases(lang)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("assay.report", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(say=say, number=number, bounds=bounds)
    page = environment.get_template("page.html.j2")
    matrix = tables.get("matrix")
    return page.render(
        lang="zh-CN" if lang == "zh" else "en",
        dossier=dossier,
        about=dossier.about,
        signed_by=signed_by,
        findings=_findings(dossier, say),
        counts={verdict: sum(one.verdict == verdict for one in dossier.findings) for verdict in _VERDICTS},
        matrix=None if matrix is None else _matrix(matrix, say),
        groups=_group_figures(dossier, say),
        reliability=_reliability(dossier, say),
        attributions=_attributions(dossier, say),
        roc=_roc(dossier, say),
        measured=[_measured(one, say) for one in dossier.measurements],
        meanings=_meanings(dossier, say),
    )


_VERDICTS = ("fail", "inconclusive", "pass")


def _findings(dossier: Dossier, say: Phrases) -> list[dict[str, Any]]:
    """Worst first: what a reviewer must see is at the top."""
    measured = {one.digest: one for one in dossier.measurements}
    order = sorted(dossier.findings, key=lambda one: (_VERDICTS.index(one.verdict), one.rule, one.slice))
    shown = []
    for one in order:
        unit = measured[one.measurement].unit if one.measurement in measured else ""
        value = f"{number(one.value, unit)} {bounds(one.low, one.high, unit)}"
        shown.append({"one": one, "value": value, "reason": _reason(one, measured, say)})
    return shown


def _figure(chart: Any, description: str) -> dict[str, Any]:
    """An inline SVG with a name that a screen reader speaks; the same numbers stand in a table beside it."""
    text = charts.svg(chart)
    text = re.sub(r"<svg ", f'<svg role="img" aria-label="{Markup.escape(description)}" ', text, count=1)
    # The drawing library marks every axis and dot as a symbol of its own; one image with one name reads better.
    text = re.sub(r' role="graphics-[a-z]+"| aria-roledescription="[^"]*"', "", text)
    head, body = text.split(">", 1)
    body = re.sub(r' aria-(label|hidden)="[^"]*"', "", body)
    width = re.search(r'width="([\d.]+)"', head)
    return {"svg": Markup(head + ">" + body), "width": float(width.group(1)) if width else 320.0}  # noqa: S704


def _matrix(matrix: Mapping[str, Any], say: Phrases) -> dict[str, Any]:
    keys = [tuple(key) for key in matrix["keys"]]
    names = [_short(name, matrix["systems"][0]) for name in matrix["systems"]]
    dimensions = [_dimension(key, say) for key in keys]
    cells, rows = [], []
    for system, name in zip(matrix["systems"], names, strict=True):
        row = []
        for dimension, cell in zip(dimensions, matrix["cells"][system], strict=True):
            shown = _cell(cell, say)
            cells.append({"system": name, "dimension": dimension, **shown})
            row.append(shown)
        rows.append({"name": name, "cells": row, "verdict": matrix["verdicts"].get(system, "inconclusive")})
    legend = [
        say("▲ better"),
        say("▼ worse"),
        say("no mark: no detectable change"),
        say("paired, 95 % over the family"),
    ]
    return {
        "figure": _figure(
            charts.heat_map(cells, systems=names, dimensions=dimensions, legend=legend), say("matrix description")
        ),
        "dimensions": dimensions,
        "rows": rows,
        "pareto": [_short(name, matrix["systems"][0]) for name in matrix["pareto"]],
        "sentences": [
            (_short(system, matrix["systems"][0]), _sentence(matrix["cells"][system], dimensions, say))
            for system in matrix["systems"][1:]
        ],
        "errored": list(matrix["errored"].items()),
        "tradeoff": _tradeoff(matrix, names, say),
    }


def _sentence(cells: Sequence[Mapping[str, Any]], dimensions: Sequence[str], say: Phrases) -> str:
    """What moved, with intervals, and on how many dimensions nothing can be seen."""
    effects = [(name, cell["effect"]) for name, cell in zip(dimensions, cells, strict=True)]
    unknown = sum(effect is None or effect["value"] is None for _, effect in effects)
    still = sum(effect is not None and effect["verdict"] == "no detectable change" for _, effect in effects)
    moved = [
        " ".join(
            (name, number(effect["value"], signed=True), bounds(effect["low"], effect["high"]), say(effect["verdict"]))
        )
        for name, effect in effects
        if effect is not None and effect["verdict"] in ("better", "worse", "changed")
    ]
    parts = ["; ".join(moved) or say("moved nothing"), say("still").format(still=still, total=len(cells))]
    return "; ".join(parts + ([say("not compared").format(count=unknown)] if unknown else []))


def _reason(finding: Finding, measured: Mapping[str, Measurement], say: Phrases) -> str:
    """Why a verdict is what it is, in the reader's language where it is about an interval."""
    if finding.value is None or (finding.low is None and finding.high is None):
        return finding.reason
    if finding.verdict != "inconclusive":
        return say(f"reason {finding.verdict}")
    if finding.required_num is None:
        return say("reason open")
    now = measured[finding.measurement].scored if finding.measurement in measured else 0
    needed = say("reason required").format(num=f"{finding.required_num:,}", now=f"{now:,}")
    return f"{say('reason open')}; {needed}"


def _short(name: str, baseline: str) -> str:
    return name.removeprefix(baseline + "+") or name


def _dimension(key: tuple[str, ...], say: Phrases) -> str:
    where = f" · {key[2].split('=')[0]}" if key[2] else ""
    return say.metric(key[1]) + where


def _cell(cell: Mapping[str, Any], say: Phrases) -> dict[str, Any]:
    found, effect = cell["measurement"], cell["effect"]
    if found is None or found["value"] is None:
        return {"text": "–", "detail": say("n/a"), "strength": 0.0, "why": cell["reason"], "effect": "", "verdict": ""}
    verdict = effect["verdict"] if effect else ""
    mark = MARKS.get(verdict, "")
    strength = {"better": 1.0, "worse": -1.0}.get(verdict, 0.0)
    if effect and strength and effect["low"] is not None and effect["high"] is not None:
        # How clear the change is: the distance of the interval from no change, against its width.
        width = max(effect["high"] - effect["low"], 1e-12)
        strength *= min(1.0, 0.45 + min(abs(effect["low"]), abs(effect["high"])) / width * 0.25)
    shown = f"{number(found['value'], found['unit'])} {mark}".strip()
    change = f"{number(effect['value'], signed=True)} {bounds(effect['low'], effect['high'])}" if effect else ""
    return {
        "text": shown,
        "detail": bounds(found["low"], found["high"], found["unit"]),
        "strength": round(strength, 3),
        "why": effect["reason"] if effect else "",
        "effect": change if effect and effect["value"] is not None else "",
        "verdict": verdict,
    }


def _tradeoff(matrix: Mapping[str, Any], names: Sequence[str], say: Phrases) -> dict[str, Any] | None:
    """Utility against the largest fairness gap, one dot a system; None when either is missing."""
    keys = [tuple(key) for key in matrix["keys"]]
    across = next((index for index, key in enumerate(keys) if key[1] == "equalized_odds_difference"), None)
    up = next((index for index, key in enumerate(keys) if key[1] == "accuracy"), None)
    if across is None or up is None:
        return None
    points = []
    for system, name in zip(matrix["systems"], names, strict=True):
        x, y = matrix["cells"][system][across]["measurement"], matrix["cells"][system][up]["measurement"]
        if x and y and x["value"] is not None and y["value"] is not None:
            points.append(
                {"name": name, "x": x["value"], "x_low": x["low"], "x_high": x["high"], "y": y["value"]}
                | {"y_low": y["low"], "y_high": y["high"], "pareto": system in matrix["pareto"]}
            )
    titles = (_dimension(keys[across], say), _dimension(keys[up], say))
    return _figure(charts.scatter(points, titles=titles), " / ".join(titles)) if points else None


def _rows_of(dossier: Dossier, metric: str) -> list[Measurement]:
    return [one for one in dossier.measurements if one.metric == metric and one.value is not None]


def _interval_rows(found: Sequence[Measurement], say: Phrases) -> list[dict[str, Any]]:
    return [
        {
            "label": one.slice.split("=", 1)[-1] if one.slice.startswith("feature=") else say.slice(one.slice),
            "value": one.value,
            "low": one.value if one.low is None else one.low,
            "high": one.value if one.high is None else one.high,
            "note": f"n={one.attempted:,}",
        }
        for one in found
    ]


def _group_figures(dossier: Dossier, say: Phrases) -> list[dict[str, Any]]:
    columns = {column["name"] for column in dossier.about["data"]["group_columns"]}
    figures = []
    for metric in GROUP_METRICS:
        found = [one for one in _rows_of(dossier, metric) if one.slice.split("=", 1)[0] in columns]
        if found:
            title = say.metric(metric)
            chart = charts.intervals(_interval_rows(found, say), x_title=title)
            figures.append({"title": title, "figure": _figure(chart, f"{title}: {say('per group')}"), "rows": found})
    return figures


def _reliability(dossier: Dossier, say: Phrases) -> dict[str, Any] | None:
    confidence = {one.slice: one.value for one in _rows_of(dossier, "mean_confidence")}
    found = [one for one in _rows_of(dossier, "observed_frequency") if one.slice in confidence]
    bins = [
        {"confidence": confidence[one.slice], "frequency": one.value, "low": one.low, "high": one.high}
        for one in found
        if one.low is not None and one.high is not None
    ]
    if not bins:
        return None
    titles = (say("predicted probability"), say("observed frequency"))
    return _figure(charts.reliability(bins, titles=titles), say("reliability description"))


def _attributions(dossier: Dossier, say: Phrases) -> list[dict[str, Any]]:
    figures = []
    for metric in ("attribution", "lime_weight"):
        found = sorted(_rows_of(dossier, metric), key=lambda one: -(one.value or 0.0))
        if found:
            title = say.metric(metric)
            chart = charts.intervals(_interval_rows(found, say), x_title=title)
            figures.append({"title": title, "figure": _figure(chart, title), "rows": found})
    return figures


def _roc(dossier: Dossier, say: Phrases) -> dict[str, Any] | None:
    points = [
        {"fpr": float(one.slice.split("=", 1)[1]), "tpr": one.value, "low": one.low or 0.0, "high": one.high or 0.0}
        for one in _rows_of(dossier, "membership_true_positive_rate")
        if one.slice.startswith("fpr=") and " & " not in one.slice
    ]
    if not points:
        return None
    titles = (say("false positive rate"), say("true positive rate"))
    chart = charts.roc(
        sorted(points, key=lambda one: one["fpr"]), titles=titles, names=(say("attack"), say("guessing"))
    )
    return _figure(chart, say("roc description"))


def _measured(one: Measurement, say: Phrases) -> dict[str, Any]:
    return {
        "dimension": say(one.dimension),
        "metric": say.metric(one.metric),
        "slice": say.slice(one.slice),
        "value": number(one.value, one.unit),
        "interval": bounds(one.low, one.high, one.unit),
        "counts": f"{one.attempted:,} / {one.errored:,}",
        "method": one.method,
        "reason": one.reason,
    }


def _meanings(dossier: Dossier, say: Phrases) -> list[dict[str, str]]:
    seen = dict.fromkeys(one.metric for one in dossier.measurements)
    found = [{"label": say.metric(m), "means": say.metric(m, "means"), "limits": say.metric(m, "limits")} for m in seen]
    return [one for one in found if one["means"]]
