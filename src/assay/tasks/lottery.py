"""Answers that chance has a part in: the same row always meets the same chance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from assay.errors import ModelError, Problem
from assay.values import Array, Groups, digest_of

CERTAIN = 1e-5  # a chance nearer than this to 0 or 1 is none: what probabilities lose on their way as logits


def drawn_numbers(inputs: Array, key: str) -> Array:
    """One number in [0, 1) per row `(N,)`, from its float32 bytes; -0 and 0 are one number, and so are all NaN.

    `BLAKE2b(key, input row) / 2^64`: rows that are equal share one, and a change of any input draws a new one.
    """
    secret = hashlib.sha256(key.encode()).digest()
    numbers = [
        int.from_bytes(hashlib.blake2b(row, digest_size=8, key=secret).digest(), "little") >> 11
        for row in _row_bytes(inputs)
    ]
    return np.array(numbers, dtype=np.float64) / 2.0**53


def _row_bytes(inputs: Array) -> Iterator[bytes]:
    """What tells one person's inputs from another's, row by row."""
    if inputs.dtype.kind == "T":
        yield from (text.encode() for text in inputs.tolist())
        return
    rows = np.ascontiguousarray(inputs, dtype="<f4") + np.float32(0)
    rows[np.isnan(rows)] = np.float32(np.nan)
    yield from (row.tobytes() for row in rows)


@dataclass(frozen=True)
class Drawn:
    """Binary: selected when a fixed number u in [0, 1) of the row is below its probability of the positive class.

    The rule of a classifier that is drawn for each row out of several: its probability is the share of them that
    select. Limits: two people who differ in one input draw different numbers, so that one may be selected and the other
    not at equal probability; asking again does not help, changing any input does.

    >>> rows = np.array([[1.0], [2.0]], np.float32)
    >>> Drawn(1, "k").decide(np.array([[0.0, 1.0], [1.0, 0.0]]), rows, Groups(np.zeros((2, 0)), ()))
    array([1, 0])
    """

    positive: int
    key: str

    name: ClassVar[str] = "drawn"
    needs_groups: ClassVar[bool] = False

    @cached_property
    def digest(self) -> str:
        """Over the class that is drawn and the key of the lottery."""
        return digest_of(self.to_json())

    def decide(self, probabilities: Array, inputs: Array, groups: Groups) -> Array:
        """`(N, 2)` to class indices `(N,)` int64; -1 for an errored example."""
        if probabilities.ndim != 2 or probabilities.shape[1] != 2:
            raise ModelError(
                Problem(f"a drawn answer was given probabilities of shape {probabilities.shape}", "(N, 2)")
            )
        failed: Array = np.asarray(np.isnan(probabilities).any(axis=1))
        chance = np.where(failed, 0.0, probabilities[:, self.positive])
        selected = chance > 1 - CERTAIN
        lottery = np.flatnonzero((chance >= CERTAIN) & ~selected)
        selected[lottery] = drawn_numbers(inputs[lottery], self.key) < chance[lottery]
        answer = np.where(selected, self.positive, 1 - self.positive).astype(np.int64)
        return np.where(failed, -1, answer)

    def to_json(self) -> dict[str, Any]:
        """Name and parameters as plain data; `drawn_from_json` reads it back."""
        return {"name": self.name, "positive": self.positive, "key": self.key}


def drawn_from_json(value: Mapping[str, Any]) -> Drawn:
    """The rule that `Drawn.to_json` wrote. Raises ModelError when a part is missing or makes no sense."""
    if value.get("positive") not in (0, 1) or not isinstance(value.get("key"), str):
        raise ModelError(Problem("a drawn rule cannot be read", "positive 0 or 1, and a key"))
    return Drawn(int(value["positive"]), value["key"])
