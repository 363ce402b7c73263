"""Any number of labels a row: each is right or wrong by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from assay.errors import ModelError, Problem
from assay.values import Array, Groups, digest_of

TINY = np.float32(1e-38)  # a probability of exactly 0 or 1 stays finite on the scale of log-odds


@dataclass(frozen=True)
class MultiLabel:
    """Each of L labels applies to a row or does not: labels `(N, L)` of 0 and 1, logits and probabilities `(N, L)`.

    >>> MultiLabel(("sad", "quiet")).probabilities(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]], dtype=float32)
    """

    label_names: tuple[str, ...]

    name: ClassVar[str] = "multi_label"
    observables: ClassVar[frozenset[str]] = frozenset({"logits", "probabilities", "predictions", "losses"})
    classes: ClassVar[tuple[str, ...]] = ()  # none excludes another
    positive_index: ClassVar[int | None] = None

    @property
    def num_outputs(self) -> int:
        """L, the number of labels."""
        return len(self.label_names)

    @cached_property
    def digest(self) -> str:
        """Over the names of the labels."""
        return digest_of([self.name, self.label_names])

    def logits(self, outputs: Array, outputs_are: Literal["logits", "probabilities", "values"]) -> Array:
        """Outputs `(N, L)` as log-odds. Raises ModelError for another shape or kind."""
        outputs = np.asarray(outputs, dtype=np.float32)
        problems = []
        if outputs.ndim != 2 or outputs.shape[1] != self.num_outputs:
            allowed = f"(N, {self.num_outputs}), one column a label: {', '.join(self.label_names)}"
            problems.append(Problem(f"the model returned shape {outputs.shape}", allowed, "Fix the last layer"))
        if outputs_are == "values":
            problems.append(Problem("the model returns plain values", "logits or probabilities", "Say outputs_are=..."))
        low, high = (float(limit(outputs, initial=0.0)) for limit in (np.nanmin, np.nanmax))
        if outputs_are == "probabilities" and (low < -1e-4 or high > 1 + 1e-4):
            what = f"declared probabilities run from {low:.3g} to {high:.3g}"
            problems.append(Problem(what, "0 to 1", "Say outputs_are='logits'"))
        if problems:
            raise ModelError(problems)
        if outputs_are == "probabilities":
            outputs = np.log(np.clip(outputs, TINY, 1)) - np.log(np.clip(1 - outputs, TINY, 1))
        return outputs

    def probabilities(self, logits: Array) -> Array:
        """1 / (1 + exp(-z)) of each label, `(N, L)`; a row with a NaN or infinite logit is all NaN: errored."""
        wide = logits.astype(np.float64)
        result: Array = (0.5 * (1 + np.tanh(wide / 2))).astype(np.float32)
        result[~np.isfinite(logits).all(axis=1)] = np.nan
        return result

    def losses(self, labels: Array, logits: Array) -> Array:
        """Mean over the labels of the binary cross-entropy in nats, `(N,)`: log(1 + exp(z)) - y z; NaN = errored."""
        wide = logits.astype(np.float64)
        errored: Array = np.logical_not(np.isfinite(wide).all(axis=1))
        wide = np.where(errored[:, None], 0, wide)
        result: Array = (np.logaddexp(0, wide) - labels * wide).mean(axis=1)
        result[errored] = np.nan
        return result.astype(np.float32)


@dataclass(frozen=True)
class LabelThresholds:
    """A label applies when its probability is above its threshold (0.5 where none is given); -1 = errored row.

    >>> LabelThresholds().decide(np.array([[0.2, 0.8], [np.nan, np.nan]]), np.zeros((2, 1)), None).tolist()
    [[0, 1], [-1, -1]]
    """

    thresholds: tuple[float, ...] = ()  # one a label, or none

    name: ClassVar[str] = "label_thresholds"
    needs_groups: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not all(0 <= one <= 1 for one in self.thresholds):
            raise ModelError(Problem(f"thresholds are {list(self.thresholds)}", "one a label, 0 to 1"))

    @cached_property
    def digest(self) -> str:
        """Over the thresholds."""
        return digest_of(self.to_json())

    def decide(self, probabilities: Array, inputs: Array, groups: Groups | None) -> Array:
        """`(N, L)` to answers `(N, L)` int64. Raises ModelError for another number of labels."""
        if self.thresholds and probabilities.shape[1] != len(self.thresholds):
            what = f"{len(self.thresholds)} thresholds for {probabilities.shape[1]} labels"
            raise ModelError(Problem(what, "one a label"))
        errored = np.asarray(np.isnan(probabilities).any(axis=1))
        limits = np.asarray(self.thresholds or 0.5, dtype=np.float32)
        return np.where(errored[:, None], -1, probabilities > limits).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """Name and parameters, as plain data."""
        return {"name": self.name, "thresholds": list(self.thresholds)}


def label_thresholds_from_json(value: Mapping[str, Any]) -> LabelThresholds:
    """The rule that `LabelThresholds.to_json` wrote."""
    return LabelThresholds(tuple(float(one) for one in value["thresholds"]))
