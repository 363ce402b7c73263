"""Shared pieces: a small table with known structure, and a model whose every output is known."""

from __future__ import annotations

import numpy as np

from assay.digests import digest_of
from assay.values import Array, Column, Groups, Split

COLUMNS = (
    Column("age", "numeric", low=17, high=90),
    Column("hours", "numeric", low=1, high=99),
    Column("job", "categorical", ("a", "b", "c")),
    Column("sex", "categorical", ("Female", "Male")),
)
GROUP_COLUMNS = (Column("sex", "categorical", ("Female", "Male")), Column("race", "categorical", ("x", "y", "z")))


def make_split(num_rows: int, seed: int, first_row: int) -> Split:
    """Rows whose label follows age and hours, with noise; race z is rare."""
    rng = np.random.default_rng(seed)
    sex, race = rng.integers(0, 2, num_rows), rng.choice(3, num_rows, p=[0.6, 0.35, 0.05])
    age, hours, job = rng.uniform(17, 90, num_rows), rng.uniform(1, 99, num_rows), rng.integers(0, 3, num_rows)
    signal = 0.05 * (age - 50) + 0.04 * (hours - 50) + 0.6 * (sex - 0.5) + rng.logistic(0, 1, num_rows)
    inputs = np.stack([age, hours, job, sex], axis=1).astype(np.float32)
    groups = Groups(np.stack([sex, race], axis=1).astype(np.int16), GROUP_COLUMNS)
    rows = np.arange(first_row, first_row + num_rows)
    return Split(inputs, (signal > 0).astype(np.int64), groups, rows)


class KnownModel:
    """Logistic in age and hours; counts the rows it was asked for."""

    offers = frozenset({"query", "meter"})
    outputs_are = "logits"
    num_bytes = 24

    def __init__(self, slope: float = 0.05) -> None:
        self.slope = slope
        self.num_rows = 0
        self.digest = digest_of(["known", slope])

    def outputs(self, inputs: Array) -> Array:
        self.num_rows += len(inputs)
        score = self.slope * (inputs[:, 0] - 50) + 0.04 * (inputs[:, 1] - 50)
        return np.stack([-score / 2, score / 2], axis=1).astype(np.float32)
