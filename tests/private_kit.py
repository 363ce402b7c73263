"""Private training with a seeded bug: what an audit has to find."""

import torch

from assay.train import draws
from assay.treatments.train import dp_sgd


def no_noise(monkeypatch):
    monkeypatch.setattr(draws.Draws, "normal", lambda self, shape: torch.zeros(shape))


def clipped_by_batch(monkeypatch):
    """The mean gradient of a batch is clipped, not each row's, and the noise is scaled as if it had been."""

    def sums(clip, data, rows, loss):
        if not len(rows):
            return {}
        named = dict(clip.module.named_parameters())
        mean = loss(clip.module(data[0][rows]), rows).mean()
        gradients = torch.autograd.grad(mean, list(named.values()))
        norm = float(torch.sqrt(sum(one.square().sum() for one in gradients)))
        factor = min(1.0, clip.max_grad_norm / norm) * len(rows)
        return {name: one * factor for name, one in zip(named, gradients, strict=True)}

    monkeypatch.setattr(dp_sgd, "_sums", sums)


def realised_size(monkeypatch):
    """The noised sum is divided by how many rows were drawn, not by how many are expected."""
    sums, noised, drawn = dp_sgd._sums, dp_sgd._noised, []

    def counted(clip, data, rows, loss):
        drawn.append(len(rows))
        return sums(clip, data, rows, loss)

    monkeypatch.setattr(dp_sgd, "_sums", counted)
    monkeypatch.setattr(
        dp_sgd,
        "_noised",
        lambda named, sums, draw, *, spread, size: noised(named, sums, draw, spread=spread, size=max(drawn[-1], 1)),
    )


def shuffled(monkeypatch):
    """Each epoch deals the rows out into batches, and the sum is divided by the size of the batch that came out."""
    schedule, sizes, left = dp_sgd._schedule, [], []

    def noted(settings, num_rows):
        sizes.append(settings.batch_size)
        return schedule(settings, num_rows)

    def uniform(self, num):
        if not left:
            left.extend(torch.randperm(num, generator=self.generator).split(sizes[-1]))
        return torch.ones(num, dtype=torch.float64).index_fill(0, left.pop(0), 0.0)

    monkeypatch.setattr(dp_sgd, "_schedule", noted)
    monkeypatch.setattr(draws.Draws, "uniform", uniform)
    realised_size(monkeypatch)


def too_little_noise(monkeypatch, share=0.9):
    normal = draws.Draws.normal
    monkeypatch.setattr(draws.Draws, "normal", lambda self, shape: normal(self, shape) * share)
