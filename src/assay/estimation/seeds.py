"""What the training seed alone moves: the same comparison over reference models of other halves and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

from assay.access.handles import Query
from assay.access.references import reference_models
from assay.engine import STOPPED, applicable, code_digest, draws_for, measure, passive_needs, remeasure, sizes_of
from assay.errors import StorageError
from assay.observe import Ledger, Workspace, observe
from assay.registry import Probe
from assay.stats import Draws
from assay.values import Measurement, Observation, System

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
    baseline: System,
    treated: System,
    *,
    workspace: Workspace,
    ledger: Ledger,
    moved: frozenset[str] | None = None,
) -> Mapping[Key, tuple[float, ...]] | None:
    """Treated minus baseline over reference models of equal half and seed; None when no seed lies between the two.

    Where both have the same reference models (one recipe, two seeds), each is compared with the next one instead: a
    difference to itself would be 0 and say nothing. Without a recipe on either side nothing can be trained: None, as
    between any two models; but nothing at all, for not known, where a treatment trained the one from the other.
    Query probes are asked where they are named in `moved`: see `moved_in`; None: all that cost little.
    """
    if not is_retrained(baseline, treated):
        return None
    if baseline.recipe is None or treated.recipe is None:
        start = len(baseline.lineage)
        return {} if any(step.input_digest == baseline.digest for step in treated.lineage[start:]) else None
    pair = [_references(one, workspace, ledger) for one in (baseline, treated)]
    if not all(pair):  # what the seed moves is then not known
        return {}
    before, after = ([(one.digest, _points(one, moved, workspace, ledger)) for one in found] for found in pair)
    if [digest for digest, _ in before] == [digest for digest, _ in after]:
        after = [*after[1:], after[0]]
    keys = set(before[0][1]).intersection(*(points for _, points in (*before, *after)))
    return {key: tuple(a[key] - b[key] for (_, a), (_, b) in zip(after, before, strict=True)) for key in keys}


def moved_in(before: Mapping[Key, Measurement], after: Mapping[Key, Measurement]) -> frozenset[str]:
    """Probes that both systems were asked, and of which something with an interval is another number in one.

    A difference of 0 is called nothing, and what nobody asked has none: no verdict there needs to know what the seed
    moves.
    """
    both = before.keys() & after.keys()
    return frozenset(key[0] for key in both if before[key].low is not None and before[key].value != after[key].value)


def _references(system: System, workspace: Workspace, ledger: Ledger) -> list[System]:
    """None at all where one cannot be made: a treatment refuses it, or the recipe, which is anyone's code, raises."""
    try:
        return [one.system for one in reference_models(system, workspace.quietly(), ledger)]
    except StorageError:  # a full disk says nothing of a recipe
        raise
    except Exception:
        return []


def _points(system: System, moved: frozenset[str] | None, workspace: Workspace, ledger: Ledger) -> dict[Key, float]:
    """Values of a reference model on the test rows; remembered, since several comparisons need them."""
    probes, _ = applicable(system, None)
    passive = [probe for probe in probes if not probe.access]
    cheap = [probe for probe in probes if _is_cheap(probe, system) and (moved is None or probe.name in moved)]
    few = replace(workspace, num_draws=2)  # the point values do not depend on the draws

    @cache
    def recorded() -> tuple[Observation, Draws]:
        observation = observe(system, "test", want=frozenset(), workspace=workspace, ledger=ledger)
        return observation, draws_for([system], [observation], few)

    def asked(probe: Probe) -> Sequence[Measurement]:
        handle = Query(system, workspace, ledger, probe.name)
        return measure(probe, passive_needs(system, *recorded()) | {"query": handle})

    found = _remembered(system, passive, workspace, lambda: remeasure(system, *recorded()))
    for probe in cheap:
        found |= _remembered(system, [probe], workspace, partial(asked, probe))
    return found


def _remembered(
    system: System, probes: Sequence[Probe], workspace: Workspace, work: Callable[[], Sequence[Measurement]]
) -> dict[Key, float]:
    about = [[probe.name, probe.version, probe.options, code_digest(probe)] for probe in probes]
    key = ["points", 4, system.digest, system.data.splits["test"].digest, about]
    stored = workspace.cache.get(key)
    if stored is None:
        made = work()
        stored = ({}, {"points": [[*one.key, one.value] for one in made if one.value is not None]})
        if not any(one.reason.startswith(STOPPED) for one in made):  # it may be passing: it is tried again next time
            workspace.cache.put(key, *stored)
    return {(probe, metric, where): value for probe, metric, where, value in stored[1]["points"]}


def _is_cheap(probe: Probe, system: System) -> bool:
    if probe.access != {"query"} or probe.cost is None or not probe.observables <= _RECORDED:
        return False
    return sum(probe.cost(sizes_of(system)).values()) <= CHEAP * len(system.data.splits["test"])


_RECORDED = frozenset({"inputs", "labels", "groups", "logits", "probabilities", "predictions", "losses"})
