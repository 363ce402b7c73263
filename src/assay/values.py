"""The values that flow through assay: frozen, serialisable, each with one digest.

System --observe--> Observation --probe--> Measurement --policy--> Finding --file--> Dossier
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Better = Literal["higher", "lower", "neither"]
Access = Literal["query", "gradient", "retrain", "meter"]


def canonical(value: Any) -> str:
    """JSON with sorted keys, no spaces, no NaN: the one text form that is hashed, signed and stored."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Turn a value into JSON types; arrays become a digest of their type, shape and bytes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.metadata.get("open", True)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return "array:" + array_digest(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    return value


def array_digest(array: Array) -> str:
    """SHA-256 over dtype, shape and little-endian bytes."""
    contiguous = np.ascontiguousarray(array)
    little = contiguous.astype(contiguous.dtype.newbyteorder("<"), copy=False)
    head = f"{little.dtype.str}{little.shape}".encode()
    return hashlib.sha256(head + b"\0" + little.tobytes()).hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical text of a value.

    >>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(canonical(value).encode()).hexdigest()


# ------------------------------------------------------------------ data


@dataclass(frozen=True, slots=True)
class Column:
    """One raw column. Numeric: `low` and `high` are the plausible range, from the training split only.

    Categorical: inputs hold the index into `categories`; an unseen or missing value is -1.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Groups:
    """Sensitive columns of the rows at hand: `codes (N, G)` index into each column's categories, -1 missing."""

    codes: Array
    columns: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Array) -> Groups:
        """The same columns for some rows only."""
        return Groups(self.codes[rows], self.columns)


@dataclass(frozen=True)
class Split:
    """Rows of one split. `inputs (N, F)` float32: numbers as they are, categories as codes (see `Column`)."""

    inputs: Array
    labels: Array  # (N,) int64 class index, or float32 target
    groups: Groups
    rows: Array  # (N,) int64: row number in the source, from 1, for messages and keyed randomness
    weights: Array | None = None  # (N,) float32 training weights, None = all 1

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> Split:
        """Some rows only, in the order given."""
        weights = None if self.weights is None else self.weights[rows]
        return Split(self.inputs[rows], self.labels[rows], self.groups.take(rows), self.rows[rows], weights)

    @cached_property
    def digest(self) -> str:
        """One digest for inputs, labels, groups, row numbers and weights."""
        return digest_of([self.inputs, self.labels, self.groups.codes, self.rows, self.weights])


@dataclass(frozen=True)
class Data:
    """A table with declared feature, label and group columns, split once. `splits` has train, validation and test."""

    name: str
    columns: tuple[Column, ...]
    label: str
    group_columns: tuple[Column, ...]
    splits: Mapping[str, Split]
    classes: tuple[str, ...] = ()  # empty for a numeric target
    positive: str | None = None  # binary tasks: which class is "selected"
    source: Mapping[str, Any] = field(default_factory=dict)  # address, licence, digest, card

    @cached_property
    def digest(self) -> str:
        """One digest for the declaration and every split."""
        parts = [self.name, self.columns, self.label, self.group_columns, self.classes, self.positive]
        return digest_of([*parts, {name: split.digest for name, split in self.splits.items()}])


# ------------------------------------------------------------------ system


@runtime_checkable
class Model(Protocol):
    """Anything that answers a batch. `offers` says which access it gives: query, gradient, meter."""

    @property
    def offers(self) -> frozenset[str]:
        """Subset of query, gradient, meter."""
        ...

    @property
    def outputs_are(self) -> Literal["logits", "probabilities", "values"]:
        """What the numbers returned by `outputs` mean."""
        ...

    @property
    def digest(self) -> str:
        """Over the weights and the architecture."""
        ...

    @property
    def num_bytes(self) -> int | None:
        """Size of the stored weights; None when it cannot be known (an endpoint)."""
        ...

    def outputs(self, inputs: Array) -> Array:
        """Raw inputs `(N, F)` to outputs `(N, K)` float32; encoding is the model's own."""
        ...


class Decision(Protocol):
    """The rule that turns outputs into an answer; part of the system, because people meet the answer."""

    @property
    def digest(self) -> str:
        """Over all that changes an answer."""
        ...

    @property
    def needs_groups(self) -> bool:
        """Whether answers depend on the sensitive columns."""
        ...

    def decide(self, probabilities: Array, inputs: Array, groups: Groups) -> Array:
        """`(N, K)` to predictions `(N,)`."""
        ...

    def to_json(self) -> Mapping[str, Any]:
        """Name and parameters, as plain data."""
        ...


class Task(Protocol):
    """What "right" means: outputs, losses, predictions. See `assay.tasks`."""

    @property
    def name(self) -> str:
        """The task's registered name."""
        ...

    @property
    def num_outputs(self) -> int:
        """K, the width of the model's output."""
        ...

    @property
    def digest(self) -> str:
        """Over all that changes what right means."""
        ...

    @property
    def observables(self) -> frozenset[str]:
        """What an output of this task can be turned into."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; empty for regression."""
        ...

    @property
    def positive_index(self) -> int | None:
        """Index of the selected class in binary classification, else None."""
        ...

    def logits(self, outputs: Array, outputs_are: Literal["logits", "probabilities", "values"]) -> Array:
        """Model outputs as `(N, K)` logits, or `(N, 1)` values; ModelError when they cannot be an answer."""
        ...

    def probabilities(self, logits: Array) -> Array:
        """`(N, K)` to what the decision rule reads; NaN rows are errored examples."""
        ...

    def losses(self, labels: Array, logits: Array) -> Array:
        """One loss per example `(N,)`; NaN where errored."""
        ...


@dataclass(frozen=True)
class Fitted:
    """What one training run gave: a model, and the facts of the run (seconds, joules, steps, epsilon, ...)."""

    model: Model
    facts: Mapping[str, Any]


class Recipe(Protocol):
    """How to train the model again: what reference models, replicates and retraining treatments are made with."""

    @property
    def digest(self) -> str:
        """Over architecture and settings."""
        ...

    def fit(self, split: Split, data: Data, seed: int) -> Fitted:
        """Train from scratch on `split` (rows of the training split); `data` gives columns and validation rows."""
        ...


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


def take_rows(arrays: Mapping[str, Array], rows: Sequence[int] | Array) -> dict[str, Array]:
    """The same rows of each array."""
    return {name: array[np.asarray(rows)] for name, array in arrays.items()}
