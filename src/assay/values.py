"""The values that flow through assay: frozen, serialisable, each with one digest.

System --observe--> Observation --probe--> Measurement --policy--> Finding --file--> Dossier
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from assay.digests import Array, array_digest, canonical, digest_of, plain
from assay.parts import (
    NON_MEMBERS,
    Column,
    Data,
    Decision,
    Fitted,
    Groups,
    Modality,
    Model,
    Recipe,
    Split,
    Task,
    modality,
    texts,
)

__all__ = [
    "NON_MEMBERS",
    "Access",
    "Array",
    "Audit",
    "Better",
    "Column",
    "Data",
    "Decision",
    "Dossier",
    "Finding",
    "Fitted",
    "Groups",
    "Measurement",
    "Modality",
    "Model",
    "NotApplicable",
    "Observation",
    "Progress",
    "Recipe",
    "Split",
    "Step",
    "System",
    "Task",
    "Verdict",
    "array_digest",
    "canonical",
    "digest_of",
    "modality",
    "plain",
    "quiet",
    "texts",
]

Better = Literal["higher", "lower", "neither"]
Access = Literal["query", "gradient", "retrain", "meter"]


@dataclass(frozen=True)
class Step:
    """One link of lineage: which treatment, with which parameters, on which system, and what it reported."""

    treatment: str
    stage: str
    parameters: Mapping[str, Any]
    input_digest: str
    outcome: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """Model + data + task + decision rule, as deployed. Treatments make a new one; nothing is changed in place."""

    name: str
    model: Model
    data: Data
    task: Task
    decision: Decision
    recipe: Recipe | None = None
    lineage: tuple[Step, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the training run; not part of the digest
    seed: int = 0

    @cached_property
    def digest(self) -> str:
        """One digest for weights, data, task, decision rule and lineage."""
        return digest_of([self.model.digest, self.data.digest, self.task.digest, self.decision.digest, self.lineage])

    @property
    def offers(self) -> frozenset[str]:
        """Access a probe may ask for: the model's own, and `retrain` when there is a recipe."""
        return self.model.offers | ({"retrain"} if self.recipe is not None else frozenset())


# ------------------------------------------------------------------ evidence


@dataclass(frozen=True)
class Observation:
    """What one batched pass over one split recorded. `arrays` are `(N, ...)`; they never leave the sealed part."""

    system_digest: str
    split: str
    split_digest: str
    arrays: Mapping[str, Array]
    seconds: float
    joules: Mapping[str, Any]
    peak_bytes: int
    environment: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """Of what was seen, not of how long it took."""
        return digest_of([self.system_digest, self.split_digest, dict(self.arrays)])


@dataclass(frozen=True)
class Measurement:
    """A number with its interval, unit, direction and honest denominator.

    `value` is None when undefined, and then `reason` says why. `replicates (B,)` are the value under each shared
    draw: they make paired effects possible without running anything again, and stay in the sealed part.
    """

    probe: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    level: float
    method: str
    unit: str
    better: Better
    slice: str = ""  # "" is every row; "sex=Female & race=Black"; "class=>50K"; "feature=age"
    attempted: int = 0
    scored: int = 0
    errored: int = 0
    reason: str = ""
    headline: bool = False  # one column of the comparison matrix
    dimension: str = ""  # the family of the probe: utility, fairness, ...
    replicates: Array | None = field(default=None, repr=False, compare=False, metadata={"open": False})

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ValueError(
                    f"{self.probe}.{self.metric}: {name} is {number}; an undefined number is None with a reason"
                )
        if self.value is None and not self.reason:
            raise ValueError(f"{self.probe}.{self.metric}: undefined, but no reason is given")

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two measurements of two systems comparable."""
        return (self.probe, self.metric, self.slice)

    @cached_property
    def digest(self) -> str:
        """One digest for all that is open."""
        return digest_of(self)


@dataclass(frozen=True)
class NotApplicable:
    """A probe that this system cannot be put through, and why. Shown, never dropped."""

    probe: str
    reason: str
    dimension: str = ""


Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """A measurement judged by a rule. Inconclusive says how many more examples would settle it, where that is known."""

    rule: str
    verdict: Verdict
    reason: str
    measurement: str  # digest of the measurement, "" when there was none
    metric: str
    slice: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bound: str = ""  # "at_most 0.10"
    level: float = 0.95  # after family-wise control
    clause: str = ""
    required_num: int | None = None

    @cached_property
    def digest(self) -> str:
        """One digest for all fields."""
        return digest_of(self)


@dataclass(frozen=True)
class Audit:
    """Everything one audit of one system gave, before it is judged and filed."""

    system: System
    measurements: tuple[Measurement, ...]
    not_applicable: tuple[NotApplicable, ...]
    observations: Mapping[str, Observation]  # by split
    ledger: Mapping[str, int]  # model rows run now, by kind of pass
    environment: Mapping[str, Any]
    energy: Mapping[str, Any]  # of the audit itself
    policy_digest: str = ""

    def find(self, metric: str, slice: str = "") -> Measurement:
        """The measurement of a metric; KeyError with the known ones otherwise."""
        for measurement in self.measurements:
            if measurement.metric == metric and measurement.slice == slice:
                return measurement
        known = sorted({m.metric for m in self.measurements})
        raise KeyError(f"no measurement of {metric!r} with slice {slice!r}; measured: {', '.join(known)}")


@dataclass(frozen=True)
class Dossier:
    """A filed bundle: a folder with an open part, a sealed part and a signature."""

    path: str
    system_digest: str
    verdict: Verdict
    evidence_id: str  # digest of the signed statement
    measurements: tuple[Measurement, ...] = ()
    not_applicable: tuple[NotApplicable, ...] = ()
    findings: tuple[Finding, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)  # names, policy, environment, lineage, ledger


Progress = Callable[[str, int, int], None]  # (what, done, total); total 0 = unknown


def quiet(what: str, done: int, total: int) -> None:
    """The progress callback that says nothing."""
