"""How probes and treatments are found: one decorator each, one file each, no edit elsewhere."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from assay.errors import Problem, RegistryError
from assay.parts import Modality

OBSERVABLES: Mapping[str, str] = MappingProxyType(
    {
        "inputs": "raw inputs: (N, F) float32 table rows, (N, C, H, W) pixels, or (N,) texts",
        "labels": "(N,) class index, or target; (N, L) of 0 and 1 where several labels may apply",
        "groups": "Groups with codes (N, G): the sensitive columns",
        "logits": "(N, K) float32 log-odds scale outputs",
        "probabilities": "(N, K) float32, rows sum to 1, or (N, L) each by itself; NaN rows are errored examples",
        "predictions": "(N,) or (N, L) answers of the decision rule (-1 errored, -2 refused), or targets (NaN)",
        "losses": "(N,) float32: cross-entropy, or squared error; NaN = errored",
        "embeddings": "(N, D) float32 input of the last linear layer",
        "input_gradients": "(N, F) float32 gradient of the loss with respect to the encoded numeric inputs",
    }
)
ACCESS: Mapping[str, str] = MappingProxyType(
    {
        "query": "black box: raw inputs to outputs, batched, counted, remembered",
        "gradient": "white box: gradients of the loss with respect to numeric columns, or pixels",
        "retrain": "reference models trained by the system's own recipe on other halves of the data",
        "meter": "clock and energy of the system's own forward pass",
    }
)
TOOLS: Mapping[str, str] = MappingProxyType(
    {
        "draws": "the resampling draws shared by everything measured on this split",
        "task": "what right means: classes, positive class, losses",
        "columns": "the declared feature columns",
        "facts": "what the training run reported: seconds, joules, epsilon",
    }
)
MODALITIES = ("table", "image", "text")
FAMILIES = ("utility", "fairness", "transparency", "privacy", "robustness", "security", "energy", "data")
ONE_LABEL = ("classification", "regression")  # tasks with one label a row
EVERY_TASK = (*ONE_LABEL, "multi_label")
ANY_CLASSES = ("classification", "multi_label")  # what has probabilities
STAGES = ("data", "train", "model", "serve")
NEEDS_GRADIENT = frozenset({"embeddings", "input_gradients"})  # observables that only a white box can give


@dataclass(frozen=True)
class Sizes:
    """What a cost function may depend on."""

    num_test: int
    num_train: int
    num_units: int  # columns, patches or runs of words
    num_outputs: int
    modality: Modality = "table"
    num_group_features: int = 0  # sensitive columns that the model reads
    num_screened: int = 0  # columns of a table that has too many for each to be a unit


@dataclass(frozen=True)
class Probe:
    """A registered probe: its function, and its needs as read from the parameter names."""

    name: str
    function: Callable[..., Any]
    family: str
    tasks: tuple[str, ...]
    needs: tuple[str, ...]
    options: Mapping[str, Any]
    cost: Callable[[Sizes], Mapping[str, int]] | None = None
    version: int = 1
    modalities: tuple[str, ...] = MODALITIES
    deep: bool = False  # costs too much for every audit: run when named, or with "all"

    @property
    def access(self) -> frozenset[str]:
        """The access this probe asks for; empty for a passive probe."""
        return frozenset(self.needs) & frozenset(ACCESS)

    @property
    def observables(self) -> frozenset[str]:
        """The arrays of the shared pass this probe reads."""
        return frozenset(self.needs) & frozenset(OBSERVABLES)


@dataclass(frozen=True)
class Treatment:
    """A registered treatment: a function from system to system."""

    name: str
    function: Callable[..., Any]
    stage: Literal["data", "train", "model", "serve"]
    moves: tuple[str, ...]  # metrics it should move, each "lower:<metric>" or "higher:<metric>"
    options: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ONE_LABEL
    trainings: int = 0  # about how many of the system's own it takes: what is tried first goes by it


PROBES: dict[str, Probe] = {}
TREATMENTS: dict[str, Treatment] = {}


def _parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    positional, options = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            options[name] = parameter.default
        elif parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            positional.append("*" + name)
        else:
            positional.append(name)
    return tuple(positional), options


def _require(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RegistryError(Problem(f"{name}: {value!r} is not known", ", ".join(allowed)))


def probe(
    family: str,
    *,
    tasks: tuple[str, ...] = ("classification",),
    cost: Callable[[Sizes], Mapping[str, int]] | None = None,
    version: int = 1,
    modalities: tuple[str, ...] = MODALITIES,
    deep: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a probe. Its positional parameters are its needs; keyword-only ones are options.

    `cost` tells the plan how many model rows an active probe will ask for, by named kind of pass;
    two probes that name the same pass share it. `modalities` are the kinds of input it is defined for. `deep`
    probes run on request only. Raises RegistryError for a need that does not exist.
    """
    _require("family", family, FAMILIES)
    for one in modalities:
        _require("modality", one, MODALITIES)

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        needs, options = _parameters(function)
        known = {*OBSERVABLES, *ACCESS, *TOOLS}
        wrong = [
            Problem(f"probe {function.__name__} asks for {need!r}, which is not on offer", ", ".join(sorted(known)))
            for need in needs
            if need not in known
        ]
        if frozenset(needs) & frozenset(ACCESS) and cost is None:
            wrong.append(
                Problem(f"probe {function.__name__} runs the model but declares no cost", "a function of Sizes")
            )
        if deep and cost is None:
            wrong.append(Problem(f"probe {function.__name__} is deep but runs no model", "deep, with a cost"))
        if wrong:
            raise RegistryError(wrong)
        entry = Probe(function.__name__, function, family, tasks, needs, options, cost, version, modalities, deep)
        _add(PROBES, entry.name, entry, function)
        return function

    return register


def treatment(
    stage: Literal["data", "train", "model", "serve"],
    *,
    moves: tuple[str, ...],
    tasks: tuple[str, ...] = ONE_LABEL,
    trainings: int | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function `(system, *, ...) -> System` as a treatment. `moves` says what it should change.

    `trainings`: about how many of the system's own it takes; None is one for the stages data and train, else none.

    A system whose task is not among `tasks` is refused (`treatments._common.refuse`): what was written for one label a
    row never meets several.
    """
    _require("stage", stage, STAGES)

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        needs, options = _parameters(function)
        if needs != ("system",):
            allowed = "exactly one positional parameter, system; the rest keyword-only"
            raise RegistryError(
                Problem(f"treatment {function.__name__} takes {', '.join(needs) or 'nothing'}", allowed)
            )
        name, cost = function.__name__, int(stage in ("data", "train")) if trainings is None else trainings
        _add(TREATMENTS, name, Treatment(name, function, stage, moves, options, tasks, cost), function)
        return function

    return register


def _add(table: dict[str, Any], name: str, entry: Any, function: Callable[..., Any]) -> None:
    old = table.get(name)
    if old is not None and old.function.__module__ != function.__module__:
        raise RegistryError(
            Problem(
                f"{name!r} is registered by {old.function.__module__} and {function.__module__}", "one file per name"
            )
        )
    table[name] = entry


@cache
def load(*packages: str) -> None:
    """Import every file under `assay.probes` and `assay.treatments`, or under those named: that registers them."""
    for package_name in packages or ("assay.probes", "assay.treatments"):
        package = importlib.import_module(package_name)
        for info in pkgutil.walk_packages(package.__path__, package_name + "."):
            if not info.name.rsplit(".", 1)[-1].startswith("_"):
                importlib.import_module(info.name)


def choose(names: list[str] | None, table: Mapping[str, Any]) -> list[Any]:
    """Entries by name, in the table's order; every unknown name is reported at once."""
    if names is None:
        return [table[name] for name in sorted(table)]
    unknown = [
        Problem(f"{name!r} is not known", ", ".join(sorted(table)), f"Did you mean {near[0]}?" if near else "")
        for name in dict.fromkeys(names)
        if name not in table
        for near in [get_close_matches(name, table, 1)]
    ]
    if unknown:
        raise RegistryError(unknown)
    return [table[name] for name in names]
