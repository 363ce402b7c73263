"""A small network that imitates answers: what someone without the model builds from a list of questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from assay.data.quality.drift import coordinates
from assay.values import Array, Column, modality

if TYPE_CHECKING:
    import torch

NUM_HIDDEN = 64
NUM_STEPS = 400
BATCH = 64
RATE = 3e-3


class Coordinates:
    """Rows as a stranger would code them, in units of the rows asked: standard deviations, one-hot, pixels, words."""

    def __init__(self, columns: Sequence[Column], asked: Array) -> None:
        self.columns, self.asked = columns, asked

    def of(self, rows: Array) -> Array:
        """`(n, D)` float32."""
        if modality(self.columns) != "table":
            return coordinates(self.columns, self.asked[:1], rows)[1]
        parts: list[Array] = []
        for place, column in enumerate(self.columns):
            values = rows[:, place].astype(np.float64)
            if column.kind == "numeric":
                known = self.asked[:, place].astype(np.float64)
                known = known[np.isfinite(known)]
                middle, spread = (known.mean(), known.std()) if len(known) else (0.0, 1.0)
                parts.append(np.nan_to_num((values - middle) / (spread or 1.0))[:, None])
            else:
                codes = np.where(values >= 0, values, len(column.categories)).astype(np.int64)
                parts.append(np.eye(len(column.categories) + 1)[np.minimum(codes, len(column.categories))])
        return np.concatenate(parts, axis=1).astype(np.float32)


def imitate(points: Array, targets: Array, *, seed: int) -> torch.nn.Module:
    """A network with one hidden layer, fitted to probabilities `(Q, K)` (labels as one-hot) by cross-entropy, Adam."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = torch.nn.Sequential(
            torch.nn.Linear(points.shape[1], NUM_HIDDEN), torch.nn.ReLU(), torch.nn.Linear(NUM_HIDDEN, targets.shape[1])
        )
    inputs, wanted = torch.from_numpy(points), torch.from_numpy(targets.astype(np.float32))
    optimizer = torch.optim.Adam(student.parameters(), lr=RATE, weight_decay=1e-4)
    for step in range(NUM_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / NUM_STEPS)
        rows = torch.randint(len(inputs), (min(BATCH, len(inputs)),), generator=generator)
        loss = torch.nn.functional.cross_entropy(student(inputs[rows]), wanted[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return student


def answers_of(student: torch.nn.Module, points: Array) -> Array:
    """`(n,)` class of the highest output."""
    import torch

    with torch.inference_mode():
        found: Array = student(torch.from_numpy(points)).argmax(dim=1).numpy()
    return found
