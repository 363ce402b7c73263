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
DECAY = 1e-4
BETAS, TINY = (0.9, 0.999), 1e-8  # those of torch.optim.Adam


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
    """A network with one hidden layer, fitted to probabilities `(Q, K)` (labels as one-hot) by cross-entropy, Adam.

    Forward, backward and the step of `torch.optim.Adam` are written out, operation by operation: the same weights to
    the bit as autograd and the optimizer give, which would be three quarters of the time of a network this small.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = torch.nn.Sequential(
            torch.nn.Linear(points.shape[1], NUM_HIDDEN), torch.nn.ReLU(), torch.nn.Linear(NUM_HIDDEN, targets.shape[1])
        )
    inputs, wanted = torch.from_numpy(points), torch.from_numpy(targets.astype(np.float32))
    num = min(BATCH, len(inputs))
    with torch.no_grad():
        shapes = [one.shape for one in student.parameters()]
        flat = torch.cat([one.reshape(-1) for one in student.parameters()])
        slope, first, second = (torch.zeros_like(flat) for _ in range(3))
        weights, slopes = _parts(flat, shapes), _parts(slope, shapes)
        for step in range(NUM_STEPS):
            rows = torch.randint(len(inputs), (num,), generator=generator)
            _slopes(inputs[rows], wanted[rows], weights, into=slopes)
            _adam(flat, slope, (first, second), rate=RATE * (1 - step / NUM_STEPS), step=step + 1)
        for own, found in zip(student.parameters(), weights, strict=True):
            own.copy_(found)
    return student


def _parts(flat: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """Views of one flat vector in these shapes."""
    found, start = [], 0
    for shape in shapes:
        found.append(flat[start : start + shape.numel()].view(shape))
        start += shape.numel()
    return found


def _slopes(
    inputs: torch.Tensor, wanted: torch.Tensor, weights: Sequence[torch.Tensor], *, into: Sequence[torch.Tensor]
) -> None:
    """Gradients of the mean cross-entropy by both layers' weights and bias, into the tensors given."""
    import torch

    hidden = torch.relu(torch.addmm(weights[1], inputs, weights[0].t()))
    logs = torch.log_softmax(torch.addmm(weights[3], hidden, weights[2].t()), 1)
    above = torch.ops.aten._log_softmax_backward_data(wanted * (-1.0 / len(inputs)), logs, 1, torch.float32)
    below = torch.ops.aten.threshold_backward(torch.mm(above, weights[2]), hidden, 0)
    for given, layer, at in ((inputs, below, 0), (hidden, above, 2)):
        torch.mm(layer.t(), given, out=into[at])
        torch.sum(layer, 0, out=into[at + 1])


def _adam(
    weights: torch.Tensor, slope: torch.Tensor, moments: tuple[torch.Tensor, torch.Tensor], *, rate: float, step: int
) -> None:
    """One step as `torch.optim.Adam` takes it; weights and moments are changed in place."""
    first, second = moments
    slope = slope.add(weights, alpha=DECAY)
    first.lerp_(slope, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
    length = (second.sqrt() / (1 - BETAS[1] ** step) ** 0.5).add_(TINY)
    weights.addcdiv_(first, length, value=-rate / (1 - BETAS[0] ** step))


def answers_of(student: torch.nn.Module, points: Array) -> Array:
    """`(n,)` class of the highest output."""
    import torch

    with torch.inference_mode():
        found: Array = student(torch.from_numpy(points)).argmax(dim=1).numpy()
    return found
