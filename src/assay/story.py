"""The story in verbs: what the command line, the recipes and a Python user call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay import engine, registry
from assay.dossier import Extras, file_dossier
from assay.errors import AssayError, Problem, StorageError, UsageError
from assay.evidence.openpart import MATRIX_SCHEMA, leaks
from assay.evidence.receipts import Receipt, record_plan
from assay.evidence.sealed import sealed_files
from assay.evidence.signing import draw_key, home, load_signer
from assay.matrix import Matrix, compare
from assay.models.store import save_system
from assay.observe import Workspace, one_thread
from assay.policy import Policy, judge, load_policy, overall
from assay.tasks import decision_of, task_of
from assay.treatments._options import check_options
from assay.values import (
    Audit,
    Data,
    Dossier,
    Finding,
    Model,
    Progress,
    Recipe,
    System,
    Verdict,
    plain,
    quiet,
)


@dataclass(frozen=True)
class Judged:
    """An audit, what a policy says of it, and the proof that the policy was fixed before the test rows were read."""

    audit: Audit
    findings: tuple[Finding, ...]
    verdict: Verdict
    policy: Policy
    receipt: Receipt
    num_systems: int = 1
    workspace: Workspace = field(default_factory=Workspace, repr=False, compare=False)


@dataclass(frozen=True)
class Comparison:
    """Several judged systems, the first of them the baseline, and the matrix over them."""

    judged: tuple[Judged, ...]
    matrix: Matrix


def owner_workspace(cache: Path | None = None, *, progress: Progress = quiet) -> Workspace:
    """The owner's workspace: cache folder (default `.assay/cache`), secret key of the draws; torch on one thread."""
    one_thread()
    key, _ = draw_key()
    return Workspace(folder=cache or Path(".assay") / "cache", key=key, progress=progress)


def system_of(model: Model, data: Data, *, name: str = "system", recipe: Recipe | None = None) -> System:
    """A system around a model made elsewhere. Without a recipe, whatever needs retraining is not applicable."""
    task = task_of(data)
    return System(name, model, data, task, decision_of(task), recipe)


def treat(system: System, treatment: str, *, options: Mapping[str, Any] | None = None) -> System:
    """Apply a treatment by name, or several in order joined by "+". The input system is not changed.

    `options` go to the treatment that has them. Raises TreatmentError for unknown or odd options, or a misfit, and
    RegistryError for unknown names.
    """
    registry.load()
    names = [name.strip() for name in treatment.split("+")]
    chosen: list[registry.Treatment] = registry.choose(names, registry.TREATMENTS)
    check_options(treatment, chosen, options or {})
    for one in chosen:
        system = one.function(system, **{name: value for name, value in (options or {}).items() if name in one.options})
    return system


def audit(
    system: System,
    *,
    policy: Policy | str | Path = "default",
    probes: Sequence[str] | None = None,
    workspace: Workspace | None = None,
) -> Judged:
    """Measure a system and judge it. The policy's digest is written down before the test rows are read."""
    rules = policy if isinstance(policy, Policy) else load_policy(policy)
    receipt = _fix(rules)
    workspace = workspace or owner_workspace()
    return _judge(_measure(system, rules, probes, workspace), receipt, (rules, 1, workspace))


def _fix(rules: Policy) -> Receipt:
    return record_plan(home() / "plans", policy_digest=rules.digest)


def _measure(system: System, rules: Policy, probes: Sequence[str] | None, workspace: Workspace) -> Audit:
    return engine.audit(system, probes=probes, workspace=workspace, policy_digest=rules.digest)


def _judge(audited: Audit, receipt: Receipt, how: tuple[Policy, int, Workspace]) -> Judged:
    rules, num_systems, workspace = how
    findings = judge(rules, audited.measurements, audited.not_applicable, num_systems=num_systems)
    return Judged(audited, findings, overall(rules, findings), rules, receipt, num_systems, workspace)


def compare_treatments(
    system: System,
    treatments: Sequence[str],
    *,
    policy: Policy | str | Path = "default",
    probes: Sequence[str] | None = None,
    workspace: Workspace | None = None,
) -> Comparison:
    """Apply each treatment (or chain "a+b") to the system, audit all, and compare them with it, paired by row.

    A treatment that fails is reported as errored and the others go on; what was measured is remembered, so an
    interrupted comparison resumes where it stopped. All systems are judged together: their rules share one level.
    """
    rules = policy if isinstance(policy, Policy) else load_policy(policy)
    workspace = workspace or owner_workspace()
    registry.load()
    _require_chains(treatments)
    receipt = _fix(rules)
    audits, errored = [_measure(system, rules, probes, workspace)], {}
    for number, chain in enumerate(treatments):
        inside = _inside(workspace, number, len(treatments))
        inside.progress(f"treating: {chain}", 0, 0)
        try:
            treated = replace(treat(system, chain), name=f"{system.name}+{chain}")
            audits.append(_measure(treated, rules, probes, inside))
        except StorageError:  # a full disk says nothing of a treatment: what was measured is remembered
            raise
        except AssayError as error:
            errored[chain] = str(error).replace("\n", " ")
        except Exception as error:  # those of ONNX Runtime or polars share no base
            errored[chain] = f"it stopped: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    matrix = compare(audits, workspace=workspace, errored=errored)
    how = (rules, len(audits), workspace)
    return Comparison(tuple(_judge(one, receipt, how) for one in audits), matrix)


def _require_chains(treatments: Sequence[str]) -> None:
    """Every unknown name and every repetition, before any work."""
    chains = [[name.strip() for name in chain.split("+")] for chain in treatments]
    registry.choose([name for chain in chains for name in chain], registry.TREATMENTS)
    twice = sorted({"+".join(chain) for chain in chains if chains.count(chain) > 1})
    if twice:
        raise UsageError(Problem(f"{', '.join(twice)} is named more than once", "each treatment, or chain a+b, once"))


def _inside(workspace: Workspace, number: int, total: int) -> Workspace:
    """For one of several systems: what is done is told in words, and the bar, with the time left, is that of all."""

    def progress(what: str, done: int, of: int) -> None:
        workspace.progress(f"{what} ({done}/{of})" if of > 1 else what, number, total)

    return replace(workspace, progress=progress)


def file(judged: Judged, folder: str | Path, *, tables: Mapping[str, Any] | None = None) -> Dossier:
    """Sign and file what was judged; a former dossier in the folder stays until the new one is whole.

    The system's own files go in where it can be stored; a black box (an endpoint, a live estimator) is named by digest
    alone. Raises DossierError and StorageError.
    """
    signer, _ = load_signer()
    save = save_system if can_be_stored(judged.audit.system) else None
    extras = Extras(
        receipt=judged.receipt,
        save_system=save,
        tables={**_reference(judged), **(tables or {})},
        files=sealed_files(judged.audit.system, judged.workspace),
        num_systems=judged.num_systems,
    )
    return file_dossier(
        judged.audit, findings=judged.findings, policy=judged.policy, folder=Path(folder), signer=signer, extras=extras
    )


def _reference(judged: Judged) -> dict[str, Any]:
    """What the test rows look like, by which a service notices that those it is asked about look otherwise."""
    from assay.data.quality.reference import reference_of

    data, seen = judged.audit.system.data, judged.audit.observations.get("test")
    found = reference_of(data, None if seen is None else seen.arrays.get("predictions"))
    tables = {} if found is None else {"reference": found.to_json()}
    return {} if leaks(tables, data) else tables


def can_be_stored(system: System) -> bool:
    """Whether a folder can hold the system: an endpoint, a live estimator or a module of no registered kind cannot."""
    from assay.models.adapters.module import ModuleModel
    from assay.models.adapters.onnx import OnnxModel
    from assay.models.own import is_registered

    model = system.model
    if isinstance(model, OnnxModel):
        return model.content is not None
    return isinstance(model, ModuleModel) and is_registered(model)


def matrix_facts(comparison: Comparison) -> dict[str, Any]:
    """The matrix as plain data for the open part of a dossier: cells, effects, verdicts, Pareto set, sentences."""
    matrix = comparison.matrix
    cells = {
        name: [
            {"measurement": plain(cell.measurement), "effect": plain(cell.effect), "reason": cell.reason}
            for cell in matrix.cells[name].values()
        ]
        for name in matrix.systems
    }
    return {
        "schema": MATRIX_SCHEMA,
        "systems": list(matrix.systems),
        "digests": {one.audit.system.name: one.audit.system.digest for one in comparison.judged},
        "keys": [list(key) for key in matrix.keys],
        "cells": cells,
        "pareto": list(matrix.pareto),
        "sentences": dict(matrix.sentences),
        "level": matrix.level,
        "verdicts": {one.audit.system.name: one.verdict for one in comparison.judged},
        "details": {name: [plain(effect) for effect in found] for name, found in matrix.details.items()},
        "errored": dict(matrix.errored),
        "ledger": dict(matrix.ledger),
    }
