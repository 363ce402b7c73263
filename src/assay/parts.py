"""What a system is made of: data, model, task, decision rule, recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from assay.digests import Array, digest_of
from assay.errors import DataError, Problem

Modality = Literal["table", "image", "text"]
NON_MEMBERS = "non-members"  # the name of a split

# ------------------------------------------------------------------ data


@dataclass(frozen=True, slots=True)
class Column:
    """One raw column. Numeric: `low` and `high` are the plausible range, from the training split only.

    Categorical: inputs hold the index into `categories`; an unseen or missing value is -1. An image or a text is a
    column of its own kind, and then the only feature: pixels of `shape` (C, H, W) from `low` to `high`, or raw text.
    """

    name: str
    kind: Literal["numeric", "categorical", "image", "text"]
    categories: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    shape: tuple[int, ...] = ()  # of an image: channels, height, width
    language: str = ""  # of a text: en, zh, ...


def modality(columns: Sequence[Column]) -> Modality:
    """What inputs of these columns are.

    >>> modality([Column("text", "text", language="en")])
    'text'
    """
    kind = columns[0].kind if len(columns) == 1 else "numeric"
    return "image" if kind == "image" else "text" if kind == "text" else "table"


def texts(values: Iterable[str]) -> Array:
    """Raw texts as an array `(N,)` of variable width.

    >>> texts(["a", "bcd"]).shape
    (2,)
    """
    return np.array(list(values), dtype=np.dtypes.StringDType())


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
    """Rows of one split. Table: `inputs (N, F)` float32, numbers as they are, categories as codes (see `Column`).

    Image: `(N, C, H, W)` uint8. Text: `(N,)` of numpy's variable-width strings.
    """

    inputs: Array
    labels: Array  # (N,) int64 class index, or float32 target; (N, L) of 0 and 1 where several labels may apply
    groups: Groups
    rows: Array  # (N,) int64: row number in the source, from 1, for messages and keyed randomness
    weights: Array | None = None  # (N,) float32 training weights, None = all 1

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> Split:
        """Some rows only, in the order given."""
        weights = None if self.weights is None else self.weights[rows]
        return Split(self.inputs[rows], self.labels[rows], self.groups.take(rows), self.rows[rows], weights)

    def joined(self, *others: Split) -> Split:
        """Its rows and then those of others with the same columns; weighted only where all are."""
        parts = (self, *others)
        groups = Groups(np.concatenate([one.groups.codes for one in parts]), self.groups.columns)
        known = [one.weights for one in parts if one.weights is not None]
        weights = np.concatenate(known) if len(known) == len(parts) else None
        inputs, labels, rows = (
            np.concatenate([getattr(one, name) for one in parts]) for name in ("inputs", "labels", "rows")
        )
        return Split(inputs, labels, groups, rows, weights)

    @cached_property
    def digest(self) -> str:
        """One digest for inputs, labels, groups, row numbers and weights."""
        return digest_of([self.inputs, self.labels, self.groups.codes, self.rows, self.weights])


@dataclass(frozen=True)
class Data:
    """Rows with declared feature, label and group columns, split once. `splits` has train, validation and test.

    Where training rows were changed in form and test rows were not, it also has the test rows in the form of the
    training rows, as `NON_MEMBERS`: whoever compares the two sides compares these, or tells them apart by form.
    """

    name: str
    columns: tuple[Column, ...]
    label: str
    group_columns: tuple[Column, ...]
    splits: Mapping[str, Split]
    classes: tuple[str, ...] = ()  # empty for a numeric target
    positive: str | None = None  # binary tasks: which class is "selected"
    source: Mapping[str, Any] = field(default_factory=dict)  # address, licence, digest, card
    label_names: tuple[str, ...] = ()  # several labels a row: the name of each

    def __post_init__(self) -> None:
        _ = self.medians  # an odd form is told here, not by what reads it after hours

    @property
    def medians(self) -> dict[str, float]:
        """By column: what stands for a missing number, by `source["imputed"]`. Raises DataError for an odd form."""
        told = self.source.get("imputed", {})
        each = told if isinstance(told, Mapping) else {"": told}
        named = {name: one if isinstance(one, Mapping) else {"median": one} for name, one in each.items()}
        found = {name: one["median"] for name, one in named.items() if "median" in one}
        if odd := [f"{name!r}: {one!r:.80}" for name, one in found.items() if not (name and _is_float32(one))]:
            raise DataError([Problem(f'source["imputed"] has {one}', _IMPUTED) for one in odd])
        return {name: float(one) for name, one in found.items()}

    @property
    def modality(self) -> Modality:
        """Table, image or text."""
        return modality(self.columns)

    @property
    def non_members(self) -> str:
        """Name of the split that no training saw and that has the form of the training rows."""
        return NON_MEMBERS if NON_MEMBERS in self.splits else "test"

    @cached_property
    def digest(self) -> str:
        """One digest for the declaration and every split."""
        parts = [self.name, self.columns, self.label, self.group_columns, self.classes, self.positive]
        parts += [self.label_names] if self.label_names else []
        return digest_of([*parts, {name: split.digest for name, split in self.splits.items()}])


_IMPUTED = '{"age": {"median": 30.0, "rows": 2}}, or {"age": 30.0}: finite 32-bit numbers by column'
_LARGEST = float(np.finfo(np.float32).max)


def _is_float32(one: object) -> bool:
    is_number = isinstance(one, int | float | np.floating | np.integer) and not isinstance(one, bool)
    return is_number and bool(-_LARGEST <= one <= _LARGEST)  # type: ignore[operator]


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
        """Raw inputs `(N, ...)` to outputs `(N, K)` float32; encoding is the model's own."""
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
        """`(N, K)` to predictions `(N,)`; `(N, L)` where several labels may apply."""
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
        """Class names, of which exactly one is right; empty for other tasks."""
        ...

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels of which several may apply to a row; empty for any other task."""
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
