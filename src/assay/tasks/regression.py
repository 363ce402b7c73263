"""A number per example."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from assay.errors import ModelError, Problem
from assay.values import Array, digest_of


@dataclass(frozen=True)
class Regression:
    """The answer is one number in the unit of the target; there are no probabilities and no classes.

    >>> Regression().num_outputs
    1
    """

    name: ClassVar[str] = "regression"
    label_names: ClassVar[tuple[str, ...]] = ()
    observables: ClassVar[frozenset[str]] = frozenset({"logits", "predictions", "losses"})
    classes: ClassVar[tuple[str, ...]] = ()
    positive_index: ClassVar[int | None] = None
    num_outputs: ClassVar[int] = 1

    @cached_property
    def digest(self) -> str:
        """Over the task's name."""
        return digest_of([self.name])

    def logits(self, outputs: Array, outputs_are: Literal["logits", "probabilities", "values"]) -> Array:
        """Outputs `(N,)` or `(N, 1)` as `(N, 1)` values. Raises ModelError for any other shape."""
        outputs = np.asarray(outputs, dtype=np.float32)
        outputs = outputs[:, None] if outputs.ndim == 1 else outputs
        if outputs.ndim != 2 or outputs.shape[1] != 1:
            raise ModelError(
                Problem(f"the model returned shape {outputs.shape}", "(N,) or (N, 1), one number per example")
            )
        return outputs

    def probabilities(self, logits: Array) -> Array:
        """The values themselves, `(N, 1)`: what a decision rule for this task reads."""
        return np.where(np.isfinite(logits), logits, np.float32(np.nan))

    def losses(self, labels: Array, logits: Array) -> Array:
        """Squared error `(N,)`, in squared target units; NaN for an errored example."""
        errors = logits[:, 0].astype(np.float64) - labels
        return np.where(np.isfinite(errors), errors**2, np.nan).astype(np.float32)
