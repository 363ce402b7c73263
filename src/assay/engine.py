"""The engine: plan, observe, measure. The only part that runs a model for an audit."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from assay import registry, units
from assay.access.allowance import Allowance, allowance
from assay.access.canaries import ShowsSteps, canary_training, watched_training
from assay.access.handles import Query, Retrain
from assay.access.references import reference_models
from assay.access.timings import Meter
from assay.meter import EnergyMeter, environment
from assay.observe import Ledger, Workspace, batch_facts, observation_key, observe, run_model
from assay.registry import Probe, Sizes
from assay.stats import Draws, make_draws
from assay.storage.heap import give_back
from assay.values import Array, Audit, Measurement, NotApplicable, Observation, System, digest_of, plain


@dataclass(frozen=True)
class Pass:
    """One planned run of the model: what for, how many rows, and whether the cache already has it."""

    name: str
    rows: int
    probes: tuple[str, ...]
    cached: bool = False


@dataclass(frozen=True)
class Plan:
    """What an audit will do, before it does it. `seconds` is None until `timed` has measured the model's speed."""

    system: str
    passes: tuple[Pass, ...]
    trainings: int
    not_applicable: tuple[NotApplicable, ...]
    seconds: float | None = None

    @property
    def rows(self) -> int:
        """Model rows still to be run; trainings are counted apart."""
        return sum(one.rows for one in self.passes if not one.cached)


ON_REQUEST = "it costs far more than a pass over the test rows: name it among the probes, or ask for all of them"
STOPPED = "the probe stopped"
ROWS = frozenset({"query", "gradient"})  # access to which a smaller sample of rows is an answer
COMPARES_GROUPS = ("fairness", "data")  # other families only report by group where there are groups


def why_not(probe: Probe, system: System) -> str:
    """The reason why a probe does not apply to a system; empty when it does."""
    if system.task.name not in probe.tasks:
        return f"it is defined for {' and '.join(probe.tasks)}, and the task is {system.task.name}"
    if system.data.modality not in probe.modalities:
        kinds = " and ".join(f"{one}s" for one in probe.modalities)
        return f"it is defined for {kinds}, and the inputs are {system.data.modality}s"
    missing = sorted(probe.access - system.offers)
    if missing:
        return f"it needs {' and '.join(missing)} access, and this system offers {', '.join(sorted(system.offers))}"
    white = sorted(probe.observables & registry.NEEDS_GRADIENT)
    if white and "gradient" not in system.offers:
        return f"it reads {' and '.join(white)}, which need gradient access"
    if "input_gradients" in white and system.data.modality == "text":
        return "it reads input_gradients, and texts have none"
    absent = sorted(
        probe.observables - system.task.observables - {"inputs", "labels", "groups"} - registry.NEEDS_GRADIENT
    )
    if absent:
        return f"it reads {' and '.join(absent)}, which a {system.task.name} task does not have"
    if "groups" in probe.needs and probe.family in COMPARES_GROUPS and not system.data.group_columns:
        return "it compares groups, and the data declares no group column"
    return ""


def applicable(system: System, names: Sequence[str] | None) -> tuple[list[Probe], tuple[NotApplicable, ...]]:
    """The probes that apply to a system, and the reason for each that does not. None: all but the deep ones."""
    registry.load("assay.probes")
    wanted = None if names is None or "all" in names else list(names)
    chosen: list[Probe] = registry.choose(wanted, registry.PROBES)
    reasons = {one.name: why_not(one, system) or (ON_REQUEST if one.deep and names is None else "") for one in chosen}
    skipped = tuple(NotApplicable(p.name, reasons[p.name], p.family) for p in chosen if reasons[p.name])
    return [probe for probe in chosen if not reasons[probe.name]], skipped


def plan(system: System, *, probes: Sequence[str] | None = None, workspace: Workspace, timed: bool = False) -> Plan:
    """Passes, rows and trainings that an audit would run now; with `timed`, expected seconds from a small batch."""
    chosen, skipped = applicable(system, probes)
    todo = [probe for probe in chosen if workspace.cache.get(_key(probe, system, workspace)) is None]
    passive = [probe for probe in todo if not probe.access]
    passes: list[Pass] = []
    sizes = sizes_of(system)
    if workspace.cache.get(observation_key(system, "test", _want(todo))) is None:  # recorded whatever is asked
        passes.append(Pass("test pass", sizes.num_test, tuple(probe.name for probe in passive)))
    elif passive:
        passes.append(Pass("recorded test pass", 0, tuple(probe.name for probe in passive)))
    shared: dict[str, Pass] = {}
    for probe in todo:
        for name, rows in (probe.cost(sizes) if probe.cost else {}).items():
            known = shared.get(name, Pass(name, rows, ()))
            shared[name] = replace(known, rows=max(rows, known.rows), probes=(*known.probes, probe.name))
    references = shared.pop("references", None)
    passes.extend(shared.values())
    if references is not None:
        rows = sizes.num_train + workspace.num_references * (sizes.num_test + sizes.num_train)
        rows += sizes.num_test if system.data.non_members != "test" else 0
        passes.append(Pass("reference passes", rows, references.probes))
    elif retrained := tuple(probe.name for probe in todo if "retrain" in probe.access):
        passes.append(Pass("train pass", sizes.num_train, retrained))
    done = tuple(probe.name for probe in chosen if probe not in todo)
    if done:
        passes.append(Pass("from the cache", 0, done, cached=True))
    trainings = (workspace.num_references if references is not None else 0) + ("canaries" in shared)
    trainings += "training seen from inside" in shared and isinstance(system.recipe, ShowsSteps)
    seconds = _expected_seconds(system, sum(one.rows for one in passes), trainings) if timed else None
    return Plan(system.name, tuple(passes), trainings, skipped, seconds)


def _expected_seconds(system: System, num_rows: int, trainings: int) -> float:
    """From one batch of 256 rows (after one to warm up), and half the time that training this system took."""
    batch = system.data.splits["test"].inputs[:256]
    run_model(system, batch)
    started = time.perf_counter()
    run_model(system, batch)
    per_row = (time.perf_counter() - started) / max(len(batch), 1)
    training = system.facts.get("seconds")
    return num_rows * per_row + trainings * (float(training) / 2 if training is not None else 0.0)


def sizes_of(system: System) -> Sizes:
    """What a probe's cost may depend on."""
    splits = system.data.splits
    columns = system.data.columns
    num_units, num_outputs = units.num_units(columns), system.task.num_outputs
    shared = len(units.group_features(columns, system.data.group_columns))
    screened = len(columns) if units.is_wide(columns) else 0
    about = (num_units, num_outputs, system.data.modality, shared, screened)
    return Sizes(len(splits["test"]), len(splits["train"]), *about)


def _key(probe: Probe, system: System, workspace: Workspace) -> list[Any]:
    split = system.data.splits["test"].digest
    draws = [workspace.key_id, workspace.num_draws, workspace.level]
    # What a probe learns from besides the system and its test rows.
    about: list[Any] = []
    if "retrain" in probe.access and system.recipe is not None:
        about.append([system.recipe.digest, workspace.num_references])
    if "facts" in probe.needs:  # a country's grid, say, is declared there, and is in no digest
        about.append(plain(system.facts))
    if "meter" in probe.access:  # a time or a joule is of one machine
        about.append([environment().get(name) for name in ("cpu", "cores", "torch threads")])
    if medians := system.data.medians:  # what stands for a missing number is declared beside the data too
        about.append(medians)
    if probe.family == "data":  # who the system is for is declared beside the data, not in its digest
        about.append(system.data.source.get("population"))
    how = [probe.name, probe.version, probe.options, code_digest(probe)]
    return ["measurements", 4, how, _whose(probe, system), split, draws, about]


def _whose(probe: Probe, system: System) -> Any:
    """A probe of the data that asks the model nothing says the same of every system on these data."""
    asks_nothing = probe.cost is not None and not probe.cost(sizes_of(system))
    if probe.family != "data" or probe.access != {"query"} or probe.observables or not asks_nothing:
        return system.digest
    return [system.data.digest, system.task.digest]


def code_digest(probe: Probe) -> str:
    """Of the probe's file, its family's shared files, and the statistics: a changed formula is measured anew."""
    return _code_digest(inspect.getfile(probe.function))


@cache  # what was imported stays what it is: a file that changes later is not what runs
def _code_digest(path: str) -> str:
    own = Path(path)
    here = Path(__file__).parent
    shared = [_digests(here, "stats.py"), *(_digests(here / folder, "*.py") for folder in _FORMULAS)]
    return digest_of([*_digests(own.parent, own.name), *_digests(own.parent, "_*.py"), *chain(*shared)])


_FORMULAS = ("estimation", "explain", "units", "data/quality")


@cache
def _digests(folder: Path, names: str) -> tuple[str, ...]:
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(names)))


def cell_codes(systems: Sequence[System], observations: Sequence[Observation]) -> list[Array]:
    """The discrete columns that define cells: groups, and labels and predictions when they are classes."""
    split = systems[0].data.splits["test"]
    codes = [split.groups.codes[:, index] for index in range(split.groups.codes.shape[1])]
    if systems[0].task.classes or systems[0].task.label_names:  # of several labels a row, each is a column
        for found in (split.labels, *(observation.arrays["predictions"] for observation in observations)):
            codes.extend(np.atleast_2d(found.T))
    codes = codes or [np.zeros(len(split))]  # numbers without groups: all rows are one class
    return [np.asarray(column, dtype=np.int64) for column in codes]


def draws_for(systems: Sequence[System], observations: Sequence[Observation], workspace: Workspace) -> Draws:
    """One set of draws for everything measured together on one test split."""
    split = systems[0].data.splits["test"]
    codes = cell_codes(systems, observations)
    key = workspace.split_key(split.digest)
    return make_draws(key, split.digest, codes, num_draws=workspace.num_draws, level=workspace.level)


def measure(probe: Probe, needs: Mapping[str, Any]) -> tuple[Measurement, ...]:
    """Run one probe on what it needs. Its failure is a measurement too: undefined, with the reason."""
    try:
        found = probe.function(*(needs[name] for name in probe.needs))
    except Exception as error:  # a model is anyone's code: those of ONNX Runtime or an HTTP client share no base
        return stopped(probe, error)
    return tuple(replace(one, probe=probe.name, dimension=probe.family) for one in found)


def stopped(probe: Probe, error: Exception) -> tuple[Measurement, ...]:
    """What is told of a probe that raised: one undefined measurement."""
    said = str(error).splitlines()[0] if str(error) else "no message"
    reason = f"{STOPPED}: {type(error).__name__}: {said}"
    name = probe.name
    return (
        Measurement(name, name, None, None, None, 0.95, "none", "", "neither", reason=reason, dimension=probe.family),
    )


def passive_needs(system: System, observation: Observation, draws: Draws) -> dict[str, Any]:
    """Everything a passive probe may name, for one system on its test split."""
    split = system.data.splits["test"]
    return {
        "inputs": split.inputs,
        "labels": split.labels,
        "groups": split.groups,
        "draws": draws,
        "task": system.task,
        "columns": system.data.columns,
        "facts": system.facts,
        **observation.arrays,
    }


def audit(
    system: System, *, probes: Sequence[str] | None = None, workspace: Workspace | None = None, policy_digest: str = ""
) -> Audit:
    """Put a system through every probe that applies to it.

    What was measured before is read from the cache. Raises AssayError only for what stops the whole audit: a model
    that cannot answer at all. A probe that fails is reported as undefined, with its reason, and the others go on.
    """
    workspace = workspace or Workspace()
    ledger, meter = Ledger(workspace.row_budget), EnergyMeter()
    meter.start()
    clock = Meter(system, ledger, meter)
    chosen, skipped = applicable(system, probes)
    keys = {probe.name: _key(probe, system, workspace) for probe in chosen}
    stored = {probe.name: _load(keys[probe.name], workspace) for probe in chosen}
    todo = [probe for probe in chosen if stored[probe.name] is None]
    observation = _observation(system, todo, workspace, ledger)
    results: dict[str, tuple[Measurement, ...]] = {name: found for name, found in stored.items() if found is not None}
    needs: dict[str, Any] = {}
    if todo:
        needs = passive_needs(system, observation, draws_for([system], [observation], workspace))
        # Active probes keep their replicates, so their draws must not depend on this system's answers.
        common = draws_for([system], [], workspace) if any(probe.access for probe in todo) else needs["draws"]
    # Energy comes last, so that it can say what the rest of the audit took.
    ordered = sorted(todo, key=lambda probe: (probe.family == "energy", bool(probe.access), probe.name))
    passes: dict[str, float] = {}  # run by now, and for what share of their rows
    for number, probe in enumerate(ordered):
        workspace.progress(f"{system.name}: {probe.name}", number, len(ordered))
        costs = probe.cost(sizes_of(system)) if probe.cost else {}
        part = allowance(costs, ledger.budget - ledger.total, passes) if probe.access & ROWS else Allowance()
        try:  # reference models are trained and treated here: a treatment may refuse one, a recipe is anyone's code
            active = _active_needs(probe, system, observation, workspace, (ledger, clock, part))
        except Exception as error:
            found = stopped(probe, error)
        else:
            found = measure(probe, needs | active | ({"draws": common} if probe.access else {}))
        results[probe.name] = part.told(found)
        if not part.taken:  # more of the budget would give more
            _store(keys[probe.name], workspace, found)
    workspace.progress(f"{system.name}: audited", len(ordered), len(ordered))
    return Audit(
        system=system,
        measurements=tuple(one for probe in chosen for one in results[probe.name]),
        not_applicable=skipped,
        observations={"test": observation},
        ledger=dict(ledger.rows),
        environment={**environment(), **batch_facts(system)},
        energy=plain(meter.stop()),
        policy_digest=policy_digest,
    )


def _observation(system: System, todo: Sequence[Probe], workspace: Workspace, ledger: Ledger) -> Observation:
    return observe(system, "test", want=_want(todo), workspace=workspace, ledger=ledger)


def _want(todo: Sequence[Probe]) -> frozenset[str]:
    return frozenset[str]().union(*(probe.observables for probe in todo))


def _active_needs(
    probe: Probe,
    system: System,
    observation: Observation,
    workspace: Workspace,
    counters: tuple[Ledger, Meter, Allowance],
) -> dict[str, Any]:
    ledger, meter, part = counters
    needs: dict[str, Any] = {}
    if probe.access & ROWS:
        handle = Query(system, workspace, ledger, probe.name, part)
        needs |= {"query": handle, "gradient": handle}
    if "meter" in probe.access:
        needs["meter"] = meter
    if "retrain" in probe.access:
        named = probe.cost(sizes_of(system)) if probe.cost else {}
        references = reference_models(system, workspace, ledger) if "references" in named else ()
        about: dict[str, Any] = {"want": frozenset(), "workspace": workspace, "ledger": ledger}
        train, name = observe(system, "train", **about), system.data.non_members
        others = observe(system, name, **about) if references and name != "test" else observation
        give_back()  # four trainings leave freed memory behind, which the allocator would keep
        answers = (train.arrays["logits"], others.arrays["logits"])
        needs["retrain"] = Retrain(
            system,
            references,
            *answers,
            with_canaries=lambda: canary_training(system, workspace, ledger),
            from_inside=lambda: watched_training(system, workspace),
        )
    return needs


def _load(key: Any, workspace: Workspace) -> tuple[Measurement, ...] | None:
    stored = workspace.cache.get(key)
    if stored is None:
        return None
    arrays, facts = stored
    return tuple(
        Measurement(**{**one, "replicates": arrays.get(str(index))}) for index, one in enumerate(facts["measurements"])
    )


def _store(key: Any, workspace: Workspace, found: Sequence[Measurement]) -> None:
    if any(one.reason.startswith(STOPPED) for one in found):
        return  # a failure may be passing: it is tried again next time
    arrays = {str(index): one.replicates for index, one in enumerate(found) if one.replicates is not None}
    workspace.cache.put(key, arrays, {"measurements": found})


def remeasure(system: System, observation: Observation, draws: Draws) -> tuple[Measurement, ...]:
    """Every passive measurement of a recorded pass, without running the model: for comparing and for verifying."""
    chosen, _ = applicable(system, None)
    passive = [probe for probe in chosen if not probe.access and probe.observables <= {*observation.arrays, *_GIVEN}]
    needs = passive_needs(system, observation, draws)
    return tuple(one for probe in passive for one in measure(probe, needs))


_GIVEN = frozenset({"inputs", "labels", "groups"})
