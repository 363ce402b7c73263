"""`assay list`: what is registered."""

from __future__ import annotations

import inspect

from assay import registry
from assay.commands.console import Console
from assay.commands.data import catalogue_rows
from assay.errors import Problem, UsageError
from assay.policy import load_policy, shipped_policies

KINDS = ("probes", "treatments", "policies", "data")


def run(what: str, console: Console) -> None:
    """Print one kind, or all. Raises UsageError for a kind that does not exist."""
    if what not in (*KINDS, "all"):
        raise UsageError(Problem(f"{what!r} cannot be listed", ", ".join((*KINDS, "all"))))
    kinds = KINDS if what == "all" else (what,)
    document = {kind: _rows(kind) for kind in kinds}
    for kind, rows in document.items():
        head = list(rows[0]) if rows else []
        console.table(head, [list(row.values()) for row in rows], title=f"\n{kind}")
    console.finish(document)


def _rows(kind: str) -> list[dict[str, str]]:
    if kind == "policies":
        found = {name: load_policy(name) for name in shipped_policies()}
        return [{"name": name, "rules": str(len(one.rules)), "about": one.about} for name, one in found.items()]
    if kind == "data":
        return catalogue_rows()
    registry.load()
    if kind == "probes":
        chosen = sorted(registry.PROBES.values(), key=lambda one: (one.family, one.name))
        return [
            {
                "name": one.name,
                "family": one.family,
                "runs": "on request" if one.deep else "always",
                "needs": ", ".join(one.needs),
                "about": _about(one.function),
            }
            for one in chosen
        ]
    treatments = sorted(registry.TREATMENTS.values(), key=lambda one: (one.stage, one.name))
    return [
        {"name": one.name, "stage": one.stage, "should move": ", ".join(one.moves), "about": _about(one.function)}
        for one in treatments
    ]


def _about(function: object) -> str:
    return (inspect.getdoc(function) or "").split("\n", 1)[0]
