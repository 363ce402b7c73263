"""Decision rules: from probabilities to the answer a person meets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from assay.values import Array, Groups, digest_of

REFUSED = -2  # the answer of a rule that gives none on purpose; -1 is a row that failed


@dataclass(frozen=True)
class Argmax:
    """The most probable class; the lowest index on a tie; -1 for an errored example (a NaN row).

    >>> Argmax().decide(np.array([[0.2, 0.8], [np.nan, np.nan]]), np.zeros((2, 1)), Groups(np.zeros((2, 0)), ()))
    array([ 1, -1])
    """

    name: ClassVar[str] = "argmax"
    needs_groups: ClassVar[bool] = False
    digest: ClassVar[str] = digest_of(["argmax"])

    def decide(self, probabilities: Array, inputs: Array, groups: Groups) -> Array:
        """`(N, K)` to class indices `(N,)` int64."""
        errored: Array = np.asarray(np.isnan(probabilities).any(axis=1))
        return np.where(errored, -1, np.argmax(np.where(errored[:, None], 0, probabilities), axis=1)).astype(np.int64)

    def to_json(self) -> dict[str, object]:
        """What `from_json` of the decision rules needs."""
        return {"name": self.name}


@dataclass(frozen=True)
class UnlessEven:
    """The most probable class, but -2 (refused) where all classes are told to be equally probable; -1 where errored.

    A model that abstains says so with even probabilities: finite, so that it is told apart from a row that failed.
    Probes count a refused row as attempted and not answered, as they do an errored one.

    >>> told = np.array([[0.2, 0.8], [0.5, 0.5], [np.nan, np.nan]])
    >>> UnlessEven().decide(told, np.zeros((3, 1)), Groups(np.zeros((3, 0)), ()))
    array([ 1, -2, -1])
    """

    name: ClassVar[str] = "unless_even"
    needs_groups: ClassVar[bool] = False
    digest: ClassVar[str] = digest_of(["unless_even"])

    def decide(self, probabilities: Array, inputs: Array, groups: Groups) -> Array:
        """`(N, K)` to class indices `(N,)` int64."""
        answers = Argmax().decide(probabilities, inputs, groups)
        even = (probabilities == probabilities[:, :1]).all(axis=1)
        return np.where(even & (answers >= 0), REFUSED, answers).astype(np.int64)

    def to_json(self) -> dict[str, object]:
        """What `from_json` of the decision rules needs."""
        return {"name": self.name}


@dataclass(frozen=True)
class Identity:
    """The output is the answer: regression. NaN marks an errored example."""

    name: ClassVar[str] = "identity"
    needs_groups: ClassVar[bool] = False
    digest: ClassVar[str] = digest_of(["identity"])

    def decide(self, probabilities: Array, inputs: Array, groups: Groups) -> Array:
        """`(N, 1)` to values `(N,)`."""
        return probabilities[:, 0]

    def to_json(self) -> dict[str, object]:
        """What `from_json` of the decision rules needs."""
        return {"name": self.name}
