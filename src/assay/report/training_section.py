"""What the system is, and how its training went: facts, the curve of the loss, and every point of it in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from assay.report import charts
from assay.report.figures import Figure, figure
from assay.report.numbers import number
from assay.report.phrases import Phrases
from assay.values import Dossier

Point = Mapping[str, Any]
MOST_ROWS = 60  # of the table of a long run: evenly over it, the last always


def training_section(dossier: Dossier, say: Phrases) -> dict[str, Any]:
    """The page's part about the system and its training. `figures` and `rows` are empty without a recorded curve."""
    system, facts = dossier.about["system"], dossier.about["system"]["facts"]
    curve = _curve(facts.get("curve"))
    metric = str(facts.get("curve_metric", "accuracy"))
    return {
        "facts": _facts(dossier.about["data"], system, say),
        "figures": _figures(curve, metric, say),
        "rows": [_row(one) for one in _spread(curve)],
        "num_points": len(curve),
        "metric": say.metric(metric),
    }


def _curve(listed: Any) -> list[Point]:
    """Points that have an epoch and a training loss; whatever else a foreign file holds is left to the dossier."""
    points = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    return [one for one in points if _known(one, "epoch") and _known(one, "train_loss")]


def _known(point: Point, name: str) -> bool:
    return isinstance(point.get(name), (int, float)) and not isinstance(point.get(name), bool)


def _facts(data: Mapping[str, Any], system: Mapping[str, Any], say: Phrases) -> list[tuple[str, Any]]:
    card, facts = system["model"].get("card", {}), system["facts"]
    found: list[tuple[str, Any]] = [(say("inputs"), _inputs(data["columns"], say))]
    if card.get("architecture"):
        params = ", ".join(f"{name}={value}" for name, value in card["params"].items())
        found.append(
            (say("architecture"), Markup("<code>{}</code>").format(f"{card['architecture']} {params}".strip()))
        )
    if "num_parameters" in card:
        found.append((say("parameters"), f"{card['num_parameters']:,}"))
    size = card.get("num_bytes", system["model"]["num_bytes"])
    found += [] if size is None else [(say("size"), number(size, "bytes"))]
    if card.get("flops_per_example") is not None:
        found.append((say("operations an example"), f"{card['flops_per_example']:,}"))
    if "tokenizer" in card:
        words = {name: card[name] for name in ("num_tokens", "max_length")}
        kind = say(f"tokens {card['tokenizer']}")
        found.append((say("tokenizer"), say("tokenizer told").format(kind=kind, **words)))
    if _known(facts, "seconds") and _known(facts, "epochs") and _known(facts, "steps"):
        told = say("training took").format(epochs=facts["epochs"], steps=f"{facts['steps']:,}")
        found.append((say("training"), told + say("comma") + number(facts["seconds"], "seconds")))
    return found


def _inputs(columns: Sequence[Mapping[str, Any]], say: Phrases) -> str:
    first: Mapping[str, Any] = columns[0] if columns else {"kind": ""}
    if first["kind"] == "image":
        shape: Sequence[int] = first["shape"]
        return say("inputs image").format(width=shape[-1], height=shape[-2], channels=shape[0])
    if first["kind"] == "text":
        named = say(f"language {first['language']}").removeprefix("language ")
        return say("inputs text").format(language=named)
    return say("inputs table").format(num=len(columns))


def _figures(curve: Sequence[Point], metric: str, say: Phrases) -> list[Figure]:
    found = []
    losses = {say("training rows"): "train_loss", say("validation rows"): "validation_loss"}
    drawn = _drawn(curve, losses, say("loss"), say)
    found += [] if drawn is None else [drawn]
    drawn = _drawn(curve, {say("validation rows"): "validation_metric"}, say.metric(metric), say)
    return found + ([] if drawn is None else [drawn])


def _drawn(curve: Sequence[Point], names: Mapping[str, str], what: str, say: Phrases) -> Figure | None:
    """One line a series over the epochs; None when no point has a value."""
    series = {
        label: [(float(one["epoch"]), float(one[name])) for one in curve if _known(one, name)]
        for label, name in names.items()
    }
    series = {label: points for label, points in series.items() if points}
    if not series:
        return None
    told = say("list comma").join(
        say("line in words").format(
            name=label, first=number(points[0][1]), last=number(points[-1][1]), epoch=f"{points[-1][0]:g}"
        )
        for label, points in series.items()
    )
    title = say("by epoch").format(what=what)
    return figure(
        charts.lines(series, titles=(say("epoch"), what)), title=title, description=f"{title}{say('colon')}{told}"
    )


def _spread(curve: Sequence[Point]) -> list[Point]:
    if len(curve) <= MOST_ROWS:
        return list(curve)
    step = (len(curve) - 1) / (MOST_ROWS - 1)
    return [curve[round(place * step)] for place in range(MOST_ROWS)]


def _row(one: Point) -> dict[str, str]:
    shown = {name: number(one[name]) if _known(one, name) else "–" for name in _NUMBERS}
    counts = {name: f"{one[name]:,}" if _known(one, name) else "–" for name in ("epoch", "step", "examples")}
    return {**shown, **counts, "seconds": number(one["seconds"], "seconds") if _known(one, "seconds") else "–"}


_NUMBERS = ("train_loss", "validation_loss", "validation_metric")
