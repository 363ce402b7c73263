"""What the training seed alone moves: the same comparison over reference models of other halves and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from assay.access.handles import Query
from assay.access.references import reference_models
from assay.engine import applicable, code_digest, draws_for, measure, passive_needs, remeasure, sizes_of
from assay.errors import TreatmentError
from assay.observe import Ledger, Workspace, observe
from assay.registry import Probe
from assay.values import Measurement, System

Key = tuple[str, str, str]
CHEAP = 2  # times the test rows: query probes up to this cost are measured on every reference model


def is_retrained(baseline: System, treated: System) -> bool:
    """Whether two systems come from two trainings, so that a difference may be the seed's and not the treatment's."""
    if treated.model.digest == baseline.model.digest:
        return False
    known = len(baseline.lineage)
    added = treated.lineage[known:]
    same_start = treated.lineage[:known] == baseline.lineage and bool(added)
    after_training = all(step.stage in ("model", "serve") for step in added)
    return not (same_start and after_training and added[0].input_digest == baseline.digest)


def seed_differences(
    baseline: System, treated: System, *, workspace: Workspace, ledger: Ledger
) -> Mapping[Key, tuple[float, ...]] | None:
    """Treated minus baseline over reference models of equal half and seed; None when no seed lies between the two.

    Where both have the same reference models (one recipe, two seeds), each is compared with the next one instead: a
    difference to itself would be 0 and say nothing. Without a recipe on either side nothing can be trained: None.
    """
    if not is_retrained(baseline, treated) or baseline.recipe is None or treated.recipe is None:
        return None
    try:
        before, after = (_all_points(one, workspace, ledger) for one in (baseline, treated))
    except TreatmentError:  # a treatment refuses a reference model: what the seed moves is then not known
        return {}
    if [digest for digest, _ in before] == [digest for digest, _ in after]:
        after = [*after[1:], after[0]]
    keys = set(before[0][1]).intersection(*(points for _, points in (*before, *after)))
    return {key: tuple(a[key] - b[key] for (_, a), (_, b) in zip(after, before, strict=True)) for key in keys}


def _all_points(system: System, workspace: Workspace, ledger: Ledger) -> list[tuple[str, dict[Key, float]]]:
    found = reference_models(system, workspace.quietly(), ledger)
    return [(one.system.digest, _points(one.system, workspace, ledger)) for one in found]


def _points(system: System, workspace: Workspace, ledger: Ledger) -> dict[Key, float]:
    """Values of a reference model on the test rows; remembered, since several comparisons need them."""
    probes, _ = applicable(system, None)
    cheap = [probe for probe in probes if _is_cheap(probe, system)]
    asked = [[probe.name, probe.version, probe.options, code_digest(probe)] for probe in probes]
    key = ["points", 3, system.digest, system.data.splits["test"].digest, asked]
    stored = workspace.cache.get(key)
    if stored is None:
        observation = observe(system, "test", want=frozenset(), workspace=workspace, ledger=ledger)
        few = replace(workspace, num_draws=2)  # the point values do not depend on the draws
        draws = draws_for([system], [observation], few)
        found: list[Measurement] = list(remeasure(system, observation, draws))
        needs = passive_needs(system, observation, draws)
        for probe in cheap:
            found += measure(probe, needs | {"query": Query(system, workspace, ledger, probe.name)})
        facts: dict[str, Any] = {"points": [[*m.key, m.value] for m in found if m.value is not None]}
        workspace.cache.put(key, {}, facts)
        stored = ({}, facts)
    return {(probe, metric, where): value for probe, metric, where, value in stored[1]["points"]}


def _is_cheap(probe: Probe, system: System) -> bool:
    if probe.access != {"query"} or probe.cost is None or not probe.observables <= _RECORDED:
        return False
    return sum(probe.cost(sizes_of(system)).values()) <= CHEAP * len(system.data.splits["test"])


_RECORDED = frozenset({"inputs", "labels", "groups", "logits", "probabilities", "predictions", "losses"})
