"""From a dossier to one page: what is shown, in which order. Reads evidence; measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from assay.estimation.needed import MOST_REQUIRED, TOO_SMALL, smallest_group
from assay.report.effects import effect_figures
from assay.report.heat_table import script
from assay.report.matrix_cells import FAMILIES
from assay.report.matrix_section import matrix_section
from assay.report.numbers import limit, number
from assay.report.phrases import Phrases
from assay.report.sections import (
    attribution_figures,
    group_columns,
    group_figures,
    kind_of,
    membership_figures,
    named_columns,
    reliability_figure,
    slice_figure,
    tree_figure,
)
from assay.report.training_section import training_section
from assay.values import Dossier, Finding, Measurement

_VERDICTS = ("fail", "inconclusive", "pass")


def render(dossier: Dossier, *, tables: Mapping[str, Any], signed_by: str, lang: str = "en") -> str:
    """The page as HTML text. `tables` are the further tables of the open part, such as the matrix."""
    say = Phrases(lang, columns=named_columns(dossier))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("assay.report", "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(say=say, number=number)
    matrix, units = tables.get("matrix"), {one.metric: one.unit for one in dossier.measurements}
    return environment.get_template("page.html.j2").render(
        lang="zh-CN" if lang == "zh" else "en",
        dossier=dossier,
        about=dossier.about,
        signed_by=signed_by,
        filed=str(dossier.about["filed"])[:16].replace("T", " ") + " UTC",
        findings=_findings(dossier, say),
        counts={verdict: sum(one.verdict == verdict for one in dossier.findings) for verdict in _VERDICTS},
        matrix=None if matrix is None else matrix_section(matrix, say, units, group_columns(dossier)),
        script=None if matrix is None else script(),
        groups=group_figures(dossier, say),
        slices=slice_figure(dossier, say),
        tree=tree_figure(dossier, say),
        attributions=attribution_figures(dossier, say),
        effects=effect_figures(dossier, say),
        reliability=reliability_figure(dossier, say),
        membership=membership_figures(dossier, say),
        training=training_section(dossier, say),
        kind=kind_of(dossier),
        measured=[_measured(one, say) for one in dossier.measurements],
        meanings=_meanings(dossier, say),
        energy=_energy(dossier.about["energy"], say),
    )


def _findings(dossier: Dossier, say: Phrases) -> list[dict[str, Any]]:
    """Worst first: what a reviewer must see is at the top."""
    measured = {one.digest: one for one in dossier.measurements}
    order = sorted(dossier.findings, key=lambda one: (_VERDICTS.index(one.verdict), one.rule, one.slice))
    shown = []
    for one in order:
        unit = measured[one.measurement].unit if one.measurement in measured else ""
        shown.append(
            {
                "one": one,
                "value": say.value(one.value, one.low, one.high, unit),
                "bound": limit(one.bound, unit),
                "slice": say.slice(one.slice) if one.slice else "",
                "reason": _reason(one, measured, say),
            }
        )
    return shown


def _reason(finding: Finding, measured: Mapping[str, Measurement], say: Phrases) -> str | Markup:
    """Why a verdict is what it is, in the reader's language."""
    if finding.value is None or (finding.low is None and finding.high is None):
        return say.reason(finding.reason)
    if finding.verdict != "inconclusive":
        return say(f"reason {finding.verdict}")
    one, far = measured.get(finding.measurement), finding.high if finding.bound.startswith("at_most") else finding.low
    if far is None and one is not None and one.reason:  # more rows of data would not help
        return say.reason(one.reason)
    now = 0 if one is None else one.scored
    settled = finding.required_num is not None and finding.required_num <= MOST_REQUIRED
    if TOO_SMALL in finding.reason:
        more = f"{max(0, (finding.required_num or 0) - now):,}"
        least = smallest_group(finding.slice, measured.values())
        group = {} if least is None else {"group": say.slice(least[0]), "few": f"{least[1]:,}"}
        small = say("reason too small" if least is None else "reason too small group").format(now=f"{now:,}", **group)
        return f"{small}{say('stop')}{say('reason required more').format(more=more)}" if settled else small
    if not settled:
        return f"{say('reason open')}{say('stop')}{say('reason at the bound')}"
    needed = say("reason required").format(num=f"{finding.required_num:,}", now=f"{now:,}")
    return f"{say('reason open')}{say('stop')}{needed}"


def _energy(energy: Mapping[str, Any], say: Phrases) -> str:
    """Joules of the audit, with bounds and how they are known; what an older or foreign file left out is a dash."""
    known = say(f"provenance {energy['provenance']}") if "provenance" in energy else ""
    text = say.value(energy.get("joules"), energy.get("low"), energy.get("high"), "joules")
    return f"{text}{say('comma')}{known}" if known else text


def _measured(one: Measurement, say: Phrases) -> dict[str, Any]:
    return {
        "dimension": say(f"family {one.dimension}"),
        "metric": say.metric(one.metric),
        "slice": say.slice(one.slice),
        "value": number(one.value, one.unit),
        "interval": "" if one.value is None else say.interval(one.low, one.high, one.unit),
        "counts": f"{one.attempted:,} / {one.errored:,}",
        "method": say.foreign(one.method),
        "reason": say.reason(one.reason) if one.reason else "",
    }


def _meanings(dossier: Dossier, say: Phrases) -> list[dict[str, Any]]:
    """What each metric says and does not say, by family."""
    seen: dict[str, dict[str, None]] = {}
    for one in dossier.measurements:
        seen.setdefault(one.dimension, {})[one.metric] = None
    order = [family for family in FAMILIES if family in seen] + [family for family in seen if family not in FAMILIES]
    return [
        {
            "family": say(f"family {family}"),
            "metrics": [
                {"label": say.metric(name), "means": say.metric(name, "means"), "limits": say.metric(name, "limits")}
                for name in seen[family]
                if say.metric(name, "means")
            ],
        }
        for family in order
    ]
