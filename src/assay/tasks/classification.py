"""One of K classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from assay.errors import ModelError, Problem
from assay.values import Array, digest_of


@dataclass(frozen=True)
class Classification:
    """Exactly one of `classes` is right. `positive` names the class that counts as selected in binary tasks.

    >>> Classification(("no", "yes"), "yes").positive_index
    1
    """

    classes: tuple[str, ...]
    positive: str | None = None

    name: ClassVar[str] = "classification"
    label_names: ClassVar[tuple[str, ...]] = ()
    observables: ClassVar[frozenset[str]] = frozenset({"logits", "probabilities", "predictions", "losses"})

    @property
    def num_outputs(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def positive_index(self) -> int | None:
        """Index of the selected class for two classes (the declared one, else the last); None for more."""
        if len(self.classes) != 2:
            return None
        return self.classes.index(self.positive) if self.positive in self.classes else 1

    @cached_property
    def digest(self) -> str:
        """Over the class names and the positive class."""
        return digest_of([self.name, self.classes, self.positive])

    def logits(self, outputs: Array, outputs_are: Literal["logits", "probabilities", "values"]) -> Array:
        """Outputs `(N, K)` as logits. One column is read as the positive class; NaN rows stay NaN.

        Raises ModelError when the shape or the kind cannot be an answer to this task.
        """
        outputs = np.asarray(outputs, dtype=np.float32)
        if outputs.ndim == 1:
            outputs = outputs[:, None]
        if outputs.ndim != 2 or outputs.shape[1] not in {self.num_outputs, 1 if self.num_outputs == 2 else -1}:
            allowed = f"(N, {self.num_outputs}), one column per class of {', '.join(self.classes)}"
            raise ModelError(
                Problem(
                    f"the model returned shape {outputs.shape}", allowed, "Fix the last layer, or declare other classes"
                )
            )
        if outputs_are == "values":
            raise ModelError(
                Problem("the model returns plain values", "logits or probabilities", "Say outputs_are=...")
            )
        if outputs_are == "probabilities":
            if np.nanmin(outputs, initial=0.0) < -1e-4 or np.nanmax(outputs, initial=0.0) > 1 + 1e-4:
                low, high = float(np.nanmin(outputs)), float(np.nanmax(outputs))
                raise ModelError(
                    Problem(
                        f"declared probabilities run from {low:.3g} to {high:.3g}", "0 to 1", "Say outputs_are='logits'"
                    )
                )
            # 2^-149 is the smallest float32: a probability of exactly 0 stays finite and exactly ordered.
            safe = np.clip(outputs, np.float32(1e-38), 1)
            outputs = np.log(safe) if outputs.shape[1] > 1 else np.log(safe) - np.log(np.clip(1 - outputs, 1e-38, 1))
        if outputs.shape[1] == 1:
            zeros = np.where(np.isnan(outputs), np.float32(np.nan), np.float32(0))
            pair = (zeros, outputs) if self.positive_index == 1 else (outputs, zeros)
            outputs = np.concatenate(pair, axis=1)
        return outputs

    def probabilities(self, logits: Array) -> Array:
        """Softmax over the last axis, `(N, K)`; a row with a NaN or infinite logit is all NaN: an errored example."""
        errored: Array = np.logical_not(np.isfinite(logits).all(axis=1))
        safe = np.where(errored[:, None], 0, logits).astype(np.float64)
        safe = np.exp(safe - safe.max(axis=1, keepdims=True))
        result: Array = (safe / safe.sum(axis=1, keepdims=True)).astype(np.float32)
        result[errored] = np.nan
        return result

    def losses(self, labels: Array, logits: Array) -> Array:
        """Cross-entropy in nats, `(N,)`: logsumexp(z) - z[y]; NaN for an errored example or an unknown label (-1)."""
        wide = logits.astype(np.float64)
        errored: Array = np.logical_not(np.isfinite(wide).all(axis=1)) | (labels < 0)
        wide = np.where(errored[:, None], 0, wide)
        top = wide.max(axis=1)
        total = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
        result: Array = total - wide[np.arange(len(wide)), np.maximum(labels, 0)]
        result[errored] = np.nan
        return result.astype(np.float32)
