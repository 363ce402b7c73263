"""A network cut behind its first layer: the same answers, and the same integrated gradients from fewer passes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.access.entrance import entrance_of
from assay.access.gradients import pull_back
from assay.explain.gradients import Inside, Pull, integrated_gradients, integrated_inside, of_logit
from assay.models import build
from assay.values import Array, Column

COLUMNS = (Column("image", "image", low=0, high=255, shape=(3, 16, 16)),)
NAMES = ["cnn_lenet", "cnn_tanh", "cnn_residual", "cnn_vgg"]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    module = build(name, columns=COLUMNS, num_outputs=4)
    module.encoder.mean.copy_(torch.tensor([100.0, 120.0, 90.0]))
    module.encoder.std.copy_(torch.tensor([60.0, 50.0, 70.0]))
    return module.eval()


def pull_of(module: nn.Module) -> Pull:
    def pull(points: Array, owner: Array, objective) -> tuple[Array, Array]:
        return pull_back(module, points, lambda logits, at: objective(logits, owner[at]), batch_size=61)

    return pull


@pytest.mark.parametrize("name", NAMES)
def test_integrated_gradients_are_those_of_the_whole_network(name: str) -> None:
    module, rng = network(name), np.random.default_rng(0)
    rows, starts = rng.uniform(0, 255, (6, 3, 16, 16)).astype(np.float32), np.full((1, 3, 16, 16), 90, np.float32)
    entrance = entrance_of(module, rows)
    assert entrance is not None
    objective = of_logit(np.arange(6) % 4)
    whole = integrated_gradients(pull_of(module), rows, starts, objective, num_steps=30)
    inside = Inside(entrance.enter, entrance.back, pull_of(entrance.rest))
    found = integrated_inside(inside, rows, starts, objective, num_steps=30)
    apart = np.abs(found - whole).reshape(6, -1).max(axis=1) / np.abs(whole).max()
    assert np.median(apart) < 2e-6
    assert apart.max() < (2e-6 if name == "cnn_tanh" else 1e-2)  # without kinks every row is equal
    logits = module(torch.from_numpy(rows)).detach().numpy()
    inner, _ = pull_back(entrance.rest, entrance.enter(rows), lambda logits, _: logits, batch_size=4)
    np.testing.assert_allclose(inner, logits, atol=1e-5)


def test_what_is_not_such_a_network_is_not_cut() -> None:
    rows = np.zeros((2, 3, 16, 16), np.float32)
    mirrored = network("cnn_lenet")
    mirrored.is_mirrored = True
    assert entrance_of(mirrored, rows) is None
    assert entrance_of(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()), rows) is None
    assert entrance_of(network("cnn_lenet"), rows[:0]) is None

    class Shifted(nn.Conv2d):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs).abs()

    curved = network("cnn_lenet")
    curved.body[0].__class__ = Shifted
    assert entrance_of(curved, rows) is None
    wrapped = network("cnn_lenet")
    wrapped.body[0].register_forward_hook(lambda module, given, answer: answer.abs())
    assert entrance_of(wrapped, rows) is None


def test_the_network_is_left_as_it_was() -> None:
    module = network("cnn_vgg").train()
    rows = np.random.default_rng(0).uniform(0, 255, (2, 3, 16, 16)).astype(np.float32)
    entrance = entrance_of(module, rows)
    entrance.back(rows, entrance.enter(rows))
    assert all(layer.training for layer in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
