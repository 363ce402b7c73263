"""The matrix of a comparison: the table, in words, per group, and as trade-offs; and the picture of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from assay.report import charts
from assay.report.figures import Figure, figure
from assay.report.group_effects import group_effects
from assay.report.heat_map import Grid, heat_map
from assay.report.heat_table import heat_table
from assay.report.matrix_cells import MARKS, Matrix, cell, change, families_of, short_names
from assay.report.numbers import number, scale
from assay.report.phrases import Phrases

__all__ = ["matrix_chart", "matrix_section", "short_names"]
ACROSS = (  # what stands against utility: the largest gap, what a stranger can learn, and time
    ("equalized_odds_difference", "mean_absolute_error_difference", "worst_group_accuracy"),
    ("members_found_at_1_percent", "membership_auc"),
    ("latency_p50",),
)
UTILITY = ("accuracy", "root_mean_squared_error")


def matrix_section(matrix: Matrix, say: Phrases, units: Mapping[str, str], columns: Collection[str]) -> dict[str, Any]:
    """Everything the page says about the matrix table of a dossier: units by metric, and names of group columns."""
    systems, names = matrix["systems"], short_names(matrix)
    return {
        "heat": heat_table(matrix, say),
        "pareto": _pareto(matrix),
        "stories": [
            {"name": name, "verdict": _verdict(matrix, system), **_story(matrix, system, say)}
            for name, system in zip(names[1:], systems[1:], strict=True)
        ],
        "groups": group_effects(matrix, units, columns, say),
        "tradeoffs": _tradeoffs(matrix, say),
        "baseline": names[0],
    }


def matrix_chart(matrix: Matrix, say: Phrases) -> Any:
    """The picture: dimensions down by family, systems across, verdicts on top."""
    first = matrix["cells"][matrix["systems"][0]]
    families = tuple(
        (
            say(f"family {family}"),
            tuple(
                (
                    say.name(tuple(matrix["keys"][index])),
                    tuple(cell(matrix["cells"][system][index], say, first[index]) for system in matrix["systems"]),
                )
                for index in rows
            ),
        )
        for family, rows in families_of(matrix)
    )
    verdicts = [_verdict(matrix, system) for system in matrix["systems"]]
    names = short_names(matrix)
    failed = tuple(f"{name}{say('colon')}{say('errored')}" for name in matrix["errored"])
    legend = (say("legend marks").format(baseline=names[0]), say("legend strong"), say("legend empty"), *failed)
    shown = tuple((one, f"{say(f'sign {one}')} {say(one)}") for one in verdicts)
    return heat_map(Grid(tuple(names), families, shown, say("verdict"), legend))


def _pareto(matrix: Matrix) -> list[str]:
    names = dict(zip(matrix["systems"], short_names(matrix), strict=True))
    return [names[name] for name in matrix["pareto"]]


def _verdict(matrix: Matrix, system: str) -> str:
    return str(matrix["verdicts"].get(system, "inconclusive"))


def _story(matrix: Matrix, system: str, say: Phrases) -> dict[str, Any]:
    """What moved, with intervals, worse first; and on how many dimensions nothing can be seen."""
    moved: list[dict[str, str]] = []
    still = unknown = 0
    for _, rows in families_of(matrix):
        for index in rows:
            one = matrix["cells"][system][index]
            effect = one["effect"]
            if effect is None or effect["value"] is None:
                unknown += 1
            elif effect["verdict"] == "no detectable change":
                still += 1
            else:
                name, verdict = say.name(tuple(matrix["keys"][index])), str(effect["verdict"])
                first = matrix["cells"][matrix["systems"][0]][index]
                text = change(effect, one["measurement"]["unit"], say, first)
                moved.append({"name": name, "verdict": verdict, "mark": MARKS[verdict], "change": text})
    moved.sort(key=lambda one: ("worse", "changed", "better").index(one["verdict"]))
    rest = [say("still").format(still=still, total=len(matrix["keys"]))]
    return {"moved": moved, "rest": rest + ([say("not compared").format(count=unknown)] if unknown else [])}


def _tradeoffs(matrix: Matrix, say: Phrases) -> list[Figure]:
    """Utility against each of the other three, one dot a system; what was not measured is left out."""
    keys = [tuple(key) for key in matrix["keys"]]
    up = _first(keys, UTILITY)
    found = (
        [] if up is None else [_tradeoff(matrix, (across, up), say) for one in ACROSS for across in [_first(keys, one)]]
    )
    return [one for one in found if one is not None]


def _tradeoff(matrix: Matrix, at: tuple[int | None, int], say: Phrases) -> Figure | None:
    keys, (across, up) = [tuple(key) for key in matrix["keys"]], at
    if across is None:
        return None
    found = [
        (name, system in matrix["pareto"], *(matrix["cells"][system][index]["measurement"] for index in (across, up)))
        for system, name in zip(matrix["systems"], short_names(matrix), strict=True)
    ]
    found = [one for one in found if all(axis and axis["value"] is not None for axis in one[2:])]
    if not found:
        return None
    size, suffix = scale(max(abs(one[2]["value"]) for one in found), found[0][2]["unit"])
    points: list[dict[str, Any]] = [
        {"name": name, "pareto": is_best, **_axis("x", x, size), **_axis("y", y)} for name, is_best, x, y in found
    ]
    titles = (say.name(keys[across]) + (f" ({suffix})" if suffix else ""), say.name(keys[up]))
    words = [f"{one['name']}: {number(one['x'])}, {number(one['y'])}" for one in points]
    title = f"{say.name(keys[up])}{say('against')}{say.name(keys[across])}"
    return figure(charts.scatter(points, titles=titles), title=title, description=f"{title}. {'; '.join(words)}.")


def _first(keys: Sequence[tuple[str, ...]], metrics: Sequence[str]) -> int | None:
    return next((index for index, key in enumerate(keys) if key[1] in metrics), None)


def _axis(name: str, found: Mapping[str, Any], size: float = 1.0) -> dict[str, float]:
    value = found["value"] / size
    ends = {"low": found["low"], "high": found["high"]}
    return {name: value} | {f"{name}_{end}": value if at is None else at / size for end, at in ends.items()}
