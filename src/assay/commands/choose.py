"""`assay choose`: search, show every candidate with its learning curve, save the chosen system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.commands.console import Console
from assay.commands.files import notes_of, require_folder
from assay.commands.sources import DataSpec, open_data, save
from assay.values import System

if TYPE_CHECKING:
    from assay.choose import Choice
    from assay.choose.curves import Point
    from assay.choose.search import Row


def run(
    spec: DataSpec,
    target: tuple[str, float],
    limits: Mapping[str, Any],
    place: tuple[Path | None, int],
    console: Console,
) -> None:
    """Choose on the validation rows; the test rows are not read."""
    from assay.choose import Budget, Target, choose
    from assay.observe import one_thread
    from assay.tasks import decision_of, task_of

    out, seed = place
    if out is not None:
        require_folder(out, marks=["system.json"])
    budget = Budget(**limits)
    one_thread()
    data, how = open_data(spec)
    task = task_of(data)
    usual = "log_loss" if task.label_names else "accuracy" if task.classes else "squared_error"
    metric = target[0] or usual
    with console.progress() as progress:
        found = choose(data, target=Target(metric, target[1]), budget=budget, seed=seed, progress=progress)  # type: ignore[arg-type]
    for note in notes_of(data):
        console.say(f"note:   {note}")
    show(found, console)
    if out is not None:
        recipe = found.candidate.recipe(data)
        facts = {"chosen by": metric, "margin": target[1], "seconds of search": found.seconds}
        system = System("baseline", found.model, data, task, decision_of(task), recipe, (), facts, seed)
        save(system, how, out)
        console.say(f"system: {out} (digest {system.digest[:16]}), next: assay audit {out}")
    document = {
        "chosen": found.candidate.name,
        "reason": found.reason,
        "metric": metric,
        "is_partial": found.is_partial,
    }
    console.finish(document | {"rows": found.rows, "outlook": found.outlook, "seconds": found.seconds})


def show(found: Choice, console: Console) -> None:
    """A table of all candidates, the choice, and what would help more."""
    head = ["candidate", "parameters", "ms", "J per 1,000", "learning curve: rows → metric", "behind the best", "fate"]
    console.table(head, [_cells(row) for row in found.rows], title=f"candidates, {found.metric} on the validation rows")
    console.say(f"chosen: {found.candidate.name}")
    console.say(f"        {found.reason} (searched for {found.seconds:,.0f} s)")
    told = found.outlook
    console.say(f"next:   {told.advice}: {told.reason}")
    for name, point in (("twice the rows", told.more_data), ("the best bigger model", told.bigger_model)):
        if point is not None:
            console.say(f"        {name}: expected change of {_interval(point)} for the better")


def _cells(row: Row) -> list[str]:
    costs = row.costs
    joules = "unknown" if costs.joules is None else f"{costs.joules:.3g}"
    curve = "  ".join(f"{point.num_rows:,} → {point.value:.4g}" for point in row.curve)
    behind = "" if row.behind is None else _interval(row.behind)
    return [row.name, f"{costs.parameters:,}", f"{costs.milliseconds:.3g}", joules, curve, behind, row.fate]


def _interval(point: Point) -> str:
    if point.low is None or point.high is None:
        return f"{point.value:.4g}"
    return f"{point.value:.4g} [{point.low:.4g}, {point.high:.4g}]"
